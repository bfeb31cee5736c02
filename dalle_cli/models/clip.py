"""CLIP: a vision and a text transformer with one embedding space (Radford et al. 2021, 2.3 to 2.5).

Parameters have the names of the released weights. Knows nothing of captions, files or training.
Axes used below:

    B batch    R side of an image in pixels    P patches    T text slots    N slots given
    D width of a tower    H heads    K width of a head    E width of the shared space
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import attend

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
INITIAL_SCALE = 1 / 0.07
MAX_SCALE = 100.0

Activation = Literal["quick_gelu", "gelu"]


@dataclass(frozen=True)
class Tower:
    """Sizes of one of the two transformers."""

    n_layers: int
    d_model: int
    n_heads: int
    d_mlp: int


class ClipAttention(nn.Module):
    """Multi-head attention with one joint matrix for queries, keys and values, in this order."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model must be divisible by n_heads: {d_model} by {n_heads}")
        self.n_heads = n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None, n_kept: int | None) -> Tensor:
        """Attend within x [B, N, D] under a mask (True = may attend; None: everywhere).

        mask     bool [N, N], or [B, 1, N, N] where it differs between samples
        n_kept   compute the first n_kept slots only; None: all
        returns  [B, n_kept, D]
        """
        d_model = x.shape[2]
        query_weight, rest_weight = self.in_proj_weight.split([d_model, 2 * d_model])
        query_bias, rest_bias = self.in_proj_bias.split([d_model, 2 * d_model])

        # keys and values come from every slot, queries only from those whose output is kept
        query = F.linear(x[:, :n_kept], query_weight, query_bias)  # [B, n_kept, D]
        query = query.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B, H, n_kept, K]

        rest = F.linear(x, rest_weight, rest_bias)  # [B, N, 2 D]
        rest = rest.unflatten(-1, (2, self.n_heads, -1))  # [B, N, 2, H, K]
        key, value = rest.permute(2, 0, 3, 1, 4)  # [B, H, N, K] each

        merged = attend(query, key, value, mask=mask)  # [B, H, n_kept, K]
        merged = merged.transpose(1, 2).flatten(2)  # [B, n_kept, D]
        return self.out_proj(merged)


class Mlp(nn.Module):
    """Two linear maps with an activation in between."""

    def __init__(self, d_model: int, d_mlp: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(d_model, d_mlp)
        self.c_proj = nn.Linear(d_mlp, d_model)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        if self.activation == "gelu":
            return self.c_proj(F.gelu(x))

        # quick_gelu, u * sigmoid(1.702 u), by one fused operation
        return self.c_proj(F.silu(1.702 * x) / 1.702)


class ClipBlock(nn.Module):
    """One layer: attention and an MLP, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, d_model: int, n_heads: int, d_mlp: int, activation: Activation) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.attn = ClipAttention(d_model, n_heads)
        self.ln_2 = nn.LayerNorm(d_model)
        self.mlp = Mlp(d_model, d_mlp, activation)

    def forward(self, x: Tensor, mask: Tensor | None, *, n_kept: int | None = None) -> Tensor:
        x = x[:, :n_kept] + self.attn(self.ln_1(x), mask, n_kept)
        return x + self.mlp(self.ln_2(x))


class ClipTransformer(nn.Module):
    """The blocks of a tower."""

    def __init__(self, tower: Tower, activation: Activation) -> None:
        super().__init__()
        sizes = (tower.d_model, tower.n_heads, tower.d_mlp, activation)
        self.resblocks = nn.ModuleList(ClipBlock(*sizes) for _ in range(tower.n_layers))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, n_kept: int | None = None
    ) -> Tensor:
        """Run x [B, N, D] through the blocks; the last one computes the first n_kept slots only."""
        for block in self.resblocks[:-1]:
            x = block(x, mask)
        return self.resblocks[-1](x, mask, n_kept=n_kept)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as the released text tower."""
        for block in cast(Sequence[ClipBlock], self.resblocks):
            d_model = block.attn.out_proj.in_features

            # the deeper the tower, the smaller the matrices that write into the residual stream
            into_stream = d_model**-0.5 * (2 * len(self.resblocks)) ** -0.5

            nn.init.normal_(block.attn.in_proj_weight, std=d_model**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=into_stream)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * d_model) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=into_stream)

            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)


class VisionTransformer(nn.Module):
    """The image tower, from normalised pixels to the shared space."""

    def __init__(
        self, image_size: int, patch_size: int, d_embed: int, tower: Tower, activation: Activation
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"image_size must be divisible by patch_size: {image_size} by {patch_size}"
            )
        self.image_size = image_size
        self.patch_size = patch_size

        d_model, n_patches = tower.d_model, (image_size // patch_size) ** 2
        self.conv1 = nn.Conv2d(3, d_model, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(d_model))
        self.positional_embedding = nn.Parameter(torch.empty(n_patches + 1, d_model))

        self.ln_pre = nn.LayerNorm(d_model)
        self.transformer = ClipTransformer(tower, activation)
        self.ln_post = nn.LayerNorm(d_model)
        self.proj = nn.Parameter(torch.empty(d_model, d_embed))

    def forward(self, pixels: Tensor) -> Tensor:
        """Project pixels [B, 3, R, R] to [B, E].

        The image is represented by the class slot, which has no patch.
        """
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)  # [B, P, D]
        class_slot = self.class_embedding.expand(len(pixels), 1, -1)  # [B, 1, D]
        x = torch.cat([class_slot, patches], dim=1)  # [B, P + 1, D]

        x = self.ln_pre(x + self.positional_embedding)
        x = self.transformer(x, n_kept=1)  # [B, 1, D]
        return self.ln_post(x[:, 0]) @ self.proj  # [B, E]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as released; the patch convolution keeps torch's default."""
        std = self.class_embedding.numel() ** -0.5
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=std)
        self.transformer.reset_parameters()


class Clip(nn.Module):
    """Both towers and the learned scale of their cosines."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        text_len: int,
        text_vocab_size: int,
        d_embed: int,
        activation: Activation,
        vision: Tower,
        text: Tower,
        end_of_text: int | None = None,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        """Build both towers.

        end_of_text  the id whose slot represents the caption; None, as released: the largest id
        """
        super().__init__()
        self.image_size = image_size
        self.text_len = text_len
        self.text_vocab_size = text_vocab_size
        self.activation = activation
        self.vision = vision
        self.text = text
        self.end_of_text = end_of_text
        self.pixel_mean = tuple(pixel_mean)
        self.pixel_std = tuple(pixel_std)

        # the text tower has no prefix: the names of the released weights
        self.visual = VisionTransformer(image_size, patch_size, d_embed, vision, activation)
        self.token_embedding = nn.Embedding(text_vocab_size, text.d_model)
        self.positional_embedding = nn.Parameter(torch.empty(text_len, text.d_model))
        self.transformer = ClipTransformer(text, activation)
        self.ln_final = nn.LayerNorm(text.d_model)
        self.text_projection = nn.Parameter(torch.empty(text.d_model, d_embed))

        self.logit_scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as released."""
        if self.logit_scale.is_meta:
            return  # nothing to initialise, and torch would import modules for a second to do so
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.text_projection.shape[0] ** -0.5)
        nn.init.constant_(self.logit_scale, math.log(INITIAL_SCALE))

        self.transformer.reset_parameters()
        self.visual.reset_parameters()

    def normalise(self, images: Tensor) -> Tensor:
        """Map images [B, 3, R, R] in [0, 1] to the pixels that `encode_image` reads."""
        both = torch.tensor([self.pixel_mean, self.pixel_std], dtype=images.dtype)  # [2, 3]
        # the host must not wait for a GPU, as it would with `device=`
        mean, std = both.to(images.device, non_blocking=True).view(2, 3, 1, 1)  # [3, 1, 1] each
        return (images - mean) / std

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Project normalised pixels [B, 3, R, R] into the shared space: [B, E], not of unit length.

        Raises ValueError for pixels of another shape.
        """
        expected = [3, self.image_size, self.image_size]
        if list(pixels.shape[1:]) != expected:
            raise ValueError(
                f"expected pixels [B, {', '.join(map(str, expected))}], got {list(pixels.shape)}"
            )
        return self.visual(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Project captions into the shared space: [B, E], not of unit length.

        tokens  int64 [B, N], N at most T, with the end of each caption among them

        Raises ValueError for more than T tokens.
        """
        return self.project_text(self.text_states(tokens), tokens)

    def text_states(self, tokens: Tensor) -> Tensor:
        """Compute the text tower's output in every slot, after its last LayerNorm: [B, N, D].

        The tokens are those of `encode_text`.
        """
        n_slots = tokens.shape[1]
        if n_slots > self.text_len:
            raise ValueError(f"there is room for {self.text_len} tokens, got {n_slots}")

        x = self.token_embedding(tokens) + self.positional_embedding[:n_slots]  # [B, N, D]
        causal = torch.ones(n_slots, n_slots, dtype=torch.bool, device=x.device).tril()
        return self.ln_final(self.transformer(x, causal))

    def project_text(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Project the outputs [B, N, D] of `text_states` into the shared space: [B, E]."""
        # only the last slot of a caption sees all of it; None: its id is the largest, as released
        is_end = tokens if self.end_of_text is None else (tokens == self.end_of_text).int()
        rows = torch.arange(len(states), device=states.device)
        return states[rows, is_end.argmax(dim=1)] @ self.text_projection  # [B, E]

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compare images with captions by their scaled cosines.

        pixels   [Bi, 3, R, R], normalised
        tokens   int64 [Bt, N]
        returns  logits per image [Bi, Bt] and per text [Bt, Bi]
        """
        images = F.normalize(self.encode_image(pixels), dim=1)  # [Bi, E]
        texts = F.normalize(self.encode_text(tokens), dim=1)  # [Bt, E]

        logits_per_image = self.logit_scale.exp() * images @ texts.T
        return logits_per_image, logits_per_image.T

    @torch.no_grad()
    def clip_scale(self) -> None:
        """Clamp the scale to at most 100, as published; to be called between updates."""
        self.logit_scale.clamp_(max=math.log(MAX_SCALE))

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights that decay.

        These are all but the gains, the biases, the scale and the class embedding.
        """
        return [parameter for parameter in self.parameters() if parameter.ndim >= 2]

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the modules that OpenAI runs in 16 bits, except for the two projections.

        The residual stream and its LayerNorms stay in fp32.
        """
        towers = (self.visual.transformer, self.transformer)
        blocks = [block for tower in towers for block in cast(Sequence[ClipBlock], tower.resblocks)]
        return [self.visual.conv1, *(part for block in blocks for part in (block.attn, block.mlp))]
