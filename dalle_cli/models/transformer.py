"""The autoregressive transformer over text and image tokens (Ramesh et al. 2021, section 2.2, appendix B).

Knows nothing of captions, pixels, devices or training. Axes used below:

    B batch    T text slots    I image slots    S = T + I    D model width    Vt Vi sizes of the two vocabularies

A slot holds the token before the one it predicts. Text slot 0 holds start-of-text; a caption of n tokens fills the
slots 1..n; the text slots after it hold padding vectors of their own, which are attended to like any other. Image slot
0 holds start-of-image, slot p the image token p - 1. Positions and masks go by the slot's own number.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import Attend, Attention, attend
from dalle_cli.models.attention_masks import attention_mask, layer_kinds

INIT_SCALE = 0.125  # Child et al. 2019, section 6
GELU_SLOPE = 1.702  # Child et al. 2019, too


def gelu(x: Tensor) -> Tensor:
    """The activation of Child et al. 2019, u * sigmoid(1.702 u): silu(a u) / a, whose derivative is silu'(a u)."""
    return _Gelu.apply(x)


class _Gelu(torch.autograd.Function):
    """Four passes over the widest activations, forward and backward, where autograd would take six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = GELU_SLOPE * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).div_(GELU_SLOPE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient, scaled)


class AttentionBranch(nn.Module):
    """LayerNorm and attention: what is added to the residual stream."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, n_heads)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        return self.attention(self.norm(x), attend)


class MlpBranch(nn.Module):
    """LayerNorm and a perceptron of four times the width: what is added to the residual stream."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.expand = nn.Linear(d_model, 4 * d_model)
        self.contract = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(gelu(self.expand(self.norm(x))))


class Block(nn.Module):
    """One layer: an attention and a perceptron branch, each added to the stream it reads."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.attention = AttentionBranch(d_model, n_heads)
        self.mlp = MlpBranch(d_model)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self.attention(x, attend)
        return x + self.mlp(x)


class TransformerBackbone(nn.Module):
    """Embeddings, sparse blocks, a final LayerNorm and two heads, one for each vocabulary.

    Everything but `forward`: a subclass defines what the heads return. Subclasses share parameter
    names and, for a seed, initial weights.
    """

    head_type: type[nn.Linear] = nn.Linear

    def __init__(
        self,
        text_vocab_size: int,
        image_vocab_size: int,
        text_len: int,
        grid_size: int,
        n_layers: int,
        d_model: int,
        n_heads: int,
        kernel_size: int,
    ) -> None:
        super().__init__()
        self.text_len = text_len
        self.grid_size = grid_size
        self.image_len = grid_size**2
        self.text_vocab_size = text_vocab_size
        self.image_vocab_size = image_vocab_size
        self.kernel_size = kernel_size
        self.kinds = layer_kinds(n_layers)
        self.attend: dict[
            str, Attend
        ] = {}  # by kind, what computes the same as its mask, but faster

        self.text_embedding = nn.Embedding(text_vocab_size, d_model)
        self.image_embedding = nn.Embedding(image_vocab_size, d_model)
        self.start_of_text = nn.Parameter(torch.empty(d_model))
        self.start_of_image = nn.Parameter(torch.empty(d_model))
        self.text_padding = nn.Parameter(torch.empty(text_len, d_model))
        self.text_position = nn.Parameter(torch.empty(text_len, d_model))
        self.row_position = nn.Parameter(torch.empty(grid_size, d_model))
        self.column_position = nn.Parameter(torch.empty(grid_size, d_model))
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.final_norm = nn.LayerNorm(d_model)
        self.text_head = self.head_type(d_model, text_vocab_size)
        self.image_head = self.head_type(d_model, image_vocab_size)
        for kind in sorted(set(self.kinds)):
            mask = attention_mask(kind, text_len, grid_size, kernel_size)
            self.register_buffer(f"{kind}_mask", mask, persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as Child et al. 2019, section 6: small matrices, smaller ones into the stream, zero heads."""
        if self.start_of_text.is_meta:
            return  # nothing to draw, and torch would import a second's worth of modules for it
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_SCALE * module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for matrix in (block.attention.attention.output.weight, block.mlp.contract.weight):
                matrix.mul_((2 * len(self.blocks)) ** -0.5)
        d_model = self.start_of_text.numel()
        tokens = (self.text_embedding.weight, self.image_embedding.weight)
        for vectors in (*tokens, self.text_padding, self.start_of_text, self.start_of_image):
            nn.init.normal_(vectors, std=INIT_SCALE * d_model**-0.5)
        for positions in (self.text_position, self.row_position, self.column_position):
            nn.init.normal_(positions, std=INIT_SCALE * positions.numel() ** -0.5)
        for head in (self.text_head, self.image_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def features(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Give what the heads predict from: text [B, T, D] and image features [B, I, D], of the same arguments."""
        self._check(text_tokens, image_tokens)
        image = self.embed_image(image_tokens[:, :-1], start=0)
        x = torch.cat([self.embed_text(text_tokens), image], dim=1)  # [B, S, D]
        for block, kind in zip(self.blocks, self.kinds, strict=True):
            x = block(
                x,
                self.attend[kind] if kind in self.attend else partial(attend, mask=self.mask(kind)),
            )
        text, image = self.final_norm(x).split([self.text_len, self.image_len], dim=1)
        return text, image

    def embed_text(self, text_tokens: Tensor) -> Tensor:
        """Fill the text slots from text_tokens int64 [B, T]: [B, T, D]."""
        held = text_tokens[:, :-1]  # slot s holds token s - 1
        words = self.text_embedding(held.clamp(min=0)) + self.text_position[1:]
        slots = torch.where((held >= 0)[..., None], words, self.text_padding[1:])
        start = (self.start_of_text + self.text_position[0]).expand(len(held), 1, -1)
        return torch.cat([start, slots], dim=1)

    def embed_image(self, held: Tensor, start: int) -> Tensor:
        """Fill image slots from the tokens they hold.

        held     int64 [B, N], the tokens of the slots start.. (of the slots 1.. for start 0)
        returns  [B, N, D], or [B, N + 1, D] for start 0: slot 0 holds start-of-image
        """
        x = self.image_embedding(held)
        if start == 0:
            x = torch.cat([self.start_of_image.expand(len(held), 1, -1), x], dim=1)
        slots = torch.arange(start, start + x.shape[1], device=x.device)
        return (
            x
            + self.row_position[slots // self.grid_size]
            + self.column_position[slots % self.grid_size]
        )

    def mask(self, kind: str) -> Tensor:
        """Give the mask bool [S, S] of one kind of layer."""
        return self.get_buffer(f"{kind}_mask")

    def matrices(self) -> list[nn.Parameter]:
        """List the blocks' matrices: the parameters that the paper decays, shards and compresses."""
        return [parameter for parameter in self.blocks.parameters() if parameter.ndim == 2]

    def half_precision_modules(self) -> list[nn.Module]:
        """List what the paper runs in 16 bits: the residual branches (section 2.4)."""
        return [branch for block in self.blocks for branch in (block.attention, block.mlp)]

    def _check(self, text_tokens: Tensor, image_tokens: Tensor) -> None:
        expected = ([len(text_tokens), self.text_len], [len(text_tokens), self.image_len])
        given = (list(text_tokens.shape), list(image_tokens.shape))
        if given != expected:
            raise ValueError(f"expected text and image tokens {expected}, got {given}")


class Transformer(TransformerBackbone):
    """The transformer whose heads return logits."""

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Predict every token from those before it.

        text_tokens   int64 [B, T], at most T - 1 caption tokens, then -1
        image_tokens  int64 [B, I] in raster order; unshifted, like text_tokens
        returns       text logits [B, T, Vt] and image logits [B, I, Vi]; slot p predicts token p
        """
        text, image = self.features(text_tokens, image_tokens)
        return self.text_head(text), self.image_head(image)
