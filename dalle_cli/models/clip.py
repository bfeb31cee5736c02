"""CLIP: a vision and a text transformer that meet in one space (Radford et al. 2021, sections 2.3 to 2.5).

Parameters have the names of the released weights. Knows nothing of captions, files or training. Axes used below:

    B batch    P patches    N = P + 1 slots of a picture    T text slots    D width of a tower    E shared width
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    """Multi-head attention with one matrix for queries, keys and values, in this order."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model must be divisible by n_heads: {d_model} by {n_heads}")
        self.n_heads = n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None, n_kept: int | None) -> Tensor:
        """Attend within x [B, N, D] under mask bool [N, N] (True = may attend; None: everywhere).

        n_kept  give the first slots only: [B, n_kept, D]; None: all
        """
        d_model = x.shape[2]
        sizes = [d_model, 2 * d_model]
        (query_weight, rest_weight), (query_bias, rest_bias) = (
            joint.split(sizes) for joint in (self.in_proj_weight, self.in_proj_bias)
        )
        query = (
            F.linear(x[:, :n_kept], query_weight, query_bias)
            .unflatten(-1, (self.n_heads, -1))
            .transpose(1, 2)
        )
        rest = F.linear(x, rest_weight, rest_bias).unflatten(
            -1, (2, self.n_heads, -1)
        )  # [B, N, 2, H, K]
        key, value = rest.permute(2, 0, 3, 1, 4)  # [B, H, N, K] each
        return self.out_proj(attend(query, key, value, mask).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps around the activation."""

    def __init__(self, d_model: int, d_mlp: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(d_model, d_mlp)
        self.c_proj = nn.Linear(d_mlp, d_model)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        if self.activation == "gelu":
            return self.c_proj(F.gelu(x))
        return self.c_proj(
            F.silu(1.702 * x) / 1.702
        )  # u * sigmoid(1.702 u), by one fused operation


class ClipBlock(nn.Module):
    """One layer: attention and perceptron, each behind a LayerNorm and added to the stream."""

    def __init__(self, d_model: int, n_heads: int, d_mlp: int, activation: Activation) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.attn = ClipAttention(d_model, n_heads)
        self.ln_2 = nn.LayerNorm(d_model)
        self.mlp = Mlp(d_model, d_mlp, activation)

    def forward(self, x: Tensor, mask: Tensor | None, n_kept: int | None = None) -> Tensor:
        x = x[:, :n_kept] + self.attn(self.ln_1(x), mask, n_kept)
        return x + self.mlp(self.ln_2(x))


class ClipTransformer(nn.Module):
    """The blocks of a tower."""

    def __init__(self, tower: Tower, activation: Activation) -> None:
        super().__init__()
        sizes = (tower.d_model, tower.n_heads, tower.d_mlp, activation)
        self.resblocks = nn.ModuleList(ClipBlock(*sizes) for _ in range(tower.n_layers))

    def forward(self, x: Tensor, mask: Tensor | None = None, n_kept: int | None = None) -> Tensor:
        """Run x [B, N, D] through the blocks; the last one computes only the slots to be kept, the first n_kept."""
        for block in self.resblocks[:-1]:
            x = block(x, mask)
        return self.resblocks[-1](x, mask, n_kept)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as the released text tower: smaller matrices into the stream, the deeper the tower."""
        for block in self.resblocks:
            d_model = block.attn.out_proj.in_features
            into_stream = d_model**-0.5 * (2 * len(self.resblocks)) ** -0.5
            nn.init.normal_(block.attn.in_proj_weight, std=d_model**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=into_stream)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * d_model) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=into_stream)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)


class VisionTransformer(nn.Module):
    """From normalised pixels to the shared space."""

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
        """Project pixels [B, 3, H, W] to [B, E], by the slot that holds no patch."""
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)  # [B, P, D]
        x = torch.cat(
            [self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1
        )  # [B, N, D]
        x = self.transformer(self.ln_pre(x + self.positional_embedding), n_kept=1)
        return self.ln_post(x[:, 0]) @ self.proj

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as released; the patch convolution keeps torch's own."""
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
        """end_of_text: the id whose slot stands for the caption; None, as released: the largest id in it."""
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
            return  # nothing to draw, and torch would import a second's worth of modules for it
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.text_projection.shape[0] ** -0.5)
        nn.init.constant_(self.logit_scale, math.log(INITIAL_SCALE))
        self.transformer.reset_parameters()
        self.visual.reset_parameters()

    def normalise(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to the pixels that `encode_image` reads."""
        mean, std = (
            images.new_tensor(values).view(3, 1, 1) for values in (self.pixel_mean, self.pixel_std)
        )
        return (images - mean) / std

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Project normalised pixels [B, 3, H, W] into the shared space: [B, E], of any length."""
        expected = [3, self.image_size, self.image_size]
        if list(pixels.shape[1:]) != expected:
            raise ValueError(
                f"expected pixels [B, {', '.join(map(str, expected))}], got {list(pixels.shape)}"
            )
        return self.visual(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Project captions, tokens int64 [B, N <= T] with their end inside, into the shared space: [B, E]."""
        n_slots = tokens.shape[1]
        if n_slots > self.text_len:
            raise ValueError(f"there is room for {self.text_len} tokens, got {n_slots}")
        x = self.token_embedding(tokens) + self.positional_embedding[:n_slots]  # [B, N, D]
        causal = torch.ones(n_slots, n_slots, dtype=torch.bool, device=x.device).tril()
        x = self.ln_final(self.transformer(x, causal))
        is_end = tokens if self.end_of_text is None else (tokens == self.end_of_text).int()
        return x[torch.arange(len(x), device=x.device), is_end.argmax(dim=1)] @ self.text_projection

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compare pictures with captions, by scaled cosine: logits per image [Bi, Bt] and per text [Bt, Bi]."""
        images = F.normalize(self.encode_image(pixels), dim=1)
        texts = F.normalize(self.encode_text(tokens), dim=1)
        logits_per_image = self.logit_scale.exp() * images @ texts.T
        return logits_per_image, logits_per_image.T

    @torch.no_grad()
    def clip_scale(self) -> None:
        """Keep the scale from growing beyond 100, as published, between updates."""
        self.logit_scale.clamp_(max=math.log(MAX_SCALE))

    def matrices(self) -> list[nn.Parameter]:
        """List the weights that decay: all but gains, biases, the scale and the one vector of its kind."""
        return [parameter for parameter in self.parameters() if parameter.ndim >= 2]

    def half_precision_modules(self) -> list[nn.Module]:
        """List what OpenAI runs in 16 bits, but for the two projections; the stream and its norms stay fp32."""
        blocks = [*self.visual.transformer.resblocks, *self.transformer.resblocks]
        return [self.visual.conv1, *(part for block in blocks for part in (block.attn, block.mlp))]
