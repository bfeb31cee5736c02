"""The autoregressive transformer over text and image tokens.

Ramesh et al. 2021, section 2.2 and appendix B. Knows nothing of captions, pixels, devices or
training. Axes used below:

    B batch    T text slots    I image slots    S = T + I    N slots given    D model width
    Vt Vi sizes of the two vocabularies

The input of a slot is the token before the one it predicts. Text slot 0 is start-of-text; a caption
of n tokens fills the slots 1..n; each text slot after it has a padding vector of its position,
which is attended to like any other. Image slot 0 is start-of-image, image slot p has the image
token p - 1. Positions and masks follow the index of the slot, not that of its input token.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import Attend, Attention, attend
from dalle_cli.models.attention_masks import attention_mask, layer_kinds

INIT_SCALE = 0.125  # Child et al. 2019, section 6
GELU_SLOPE = 1.702  # Child et al. 2019, too


def gelu(x: Tensor) -> Tensor:
    """Apply the activation of Child et al. 2019, u * sigmoid(1.702 u)."""
    return _Gelu.apply(x)


class _Gelu(torch.autograd.Function):
    """silu(a u) / a, whose derivative is silu'(a u).

    Takes four passes over the widest activations, forward and backward, where autograd would take
    six.
    """

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
    """Residual branch of LayerNorm and attention."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, n_heads)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        return self.attention(self.norm(x), attend)


class MlpBranch(nn.Module):
    """Residual branch of LayerNorm and an MLP of four times the width."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.expand = nn.Linear(d_model, 4 * d_model)
        self.contract = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(gelu(self.expand(self.norm(x))))


class Block(nn.Module):
    """One layer: an attention and an MLP branch, each added to the residual stream it reads."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.attention = AttentionBranch(d_model, n_heads)
        self.mlp = MlpBranch(d_model)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self.attention(x, attend)
        return x + self.mlp(x)


@torch.no_grad()
def reset_blocks(blocks: Sequence[Block]) -> None:
    """Initialise the matrices of all blocks as Child et al. 2019, section 6."""
    for module in (module for block in blocks for module in block.modules()):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=INIT_SCALE * module.in_features**-0.5)
            nn.init.zeros_(module.bias)

    # smaller again where a branch writes into the stream, to which 2 N branches are added
    for block in blocks:
        for matrix in (block.attention.attention.output.weight, block.mlp.contract.weight):
            matrix.mul_((2 * len(blocks)) ** -0.5)


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

        # by kind, a function that computes the same as attention under the mask, but faster
        self.attend: dict[str, Attend] = {}

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

        # layers of one kind share a mask; none is saved, since sizes determine them
        for kind in sorted(set(self.kinds)):
            mask = attention_mask(kind, text_len, grid_size=grid_size, kernel_size=kernel_size)
            self.register_buffer(f"{kind}_mask", mask, persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as Child et al. 2019, section 6."""
        if self.start_of_text.is_meta:
            return  # nothing to initialise, and torch would import modules for a second to do so
        reset_blocks(self._blocks())

        d_model = self.start_of_text.numel()
        tokens = (self.text_embedding.weight, self.image_embedding.weight)
        for vectors in (*tokens, self.text_padding, self.start_of_text, self.start_of_image):
            nn.init.normal_(vectors, std=INIT_SCALE * d_model**-0.5)
        for positions in (self.text_position, self.row_position, self.column_position):
            nn.init.normal_(positions, std=INIT_SCALE * positions.numel() ** -0.5)

        # zero heads: training starts from uniform predictions
        for head in (self.text_head, self.image_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def features(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the inputs of the heads: text features [B, T, D] and image features [B, I, D].

        The arguments are those of `Transformer.forward`.
        """
        self._check(text_tokens, image_tokens)
        x = torch.cat(
            [self.embed_text(text_tokens), self.embed_image(image_tokens[:, :-1], start=0)], dim=1
        )  # [B, S, D]

        for block, kind in zip(self.blocks, self.kinds, strict=True):
            faster = self.attend.get(kind)
            x = block(x, faster or partial(attend, mask=self.mask(kind)))  # [B, S, D]

        text, image = self.final_norm(x).split([self.text_len, self.image_len], dim=1)
        return text, image

    def embed_text(self, text_tokens: Tensor) -> Tensor:
        """Embed text_tokens int64 [B, T] as the inputs of the text slots [B, T, D]."""
        inputs = text_tokens[:, :-1]  # [B, T - 1]; slot s has token s - 1
        words = self.text_embedding(inputs.clamp(min=0)) + self.text_position[1:]

        # padding is learned, one vector a position, and attended to like any token (section 2.2)
        slots = torch.where((inputs >= 0)[..., None], words, self.text_padding[1:])  # [B, T - 1, D]
        start = (self.start_of_text + self.text_position[0]).expand(len(inputs), 1, -1)  # [B, 1, D]
        return torch.cat([start, slots], dim=1)  # [B, T, D]

    def embed_image(self, input_tokens: Tensor, start: int) -> Tensor:
        """Embed image tokens as the inputs of consecutive image slots.

        input_tokens  int64 [B, N], of the slots start.. (of the slots 1.. for start 0)
        returns       [B, N, D], or [B, N + 1, D] for start 0: slot 0 has start-of-image
        """
        x = self.image_embedding(input_tokens)  # [B, N, D]
        if start == 0:
            first = self.start_of_image.expand(len(input_tokens), 1, -1)  # [B, 1, D]
            x = torch.cat([first, x], dim=1)  # [B, N + 1, D]

        slots = torch.arange(start, start + x.shape[1], device=x.device)
        rows, columns = slots // self.grid_size, slots % self.grid_size
        return x + self.row_position[rows] + self.column_position[columns]

    def mask(self, kind: str) -> Tensor:
        """Return the mask bool [S, S] of one kind of layer."""
        return self.get_buffer(f"{kind}_mask")

    def matrices(self) -> list[nn.Parameter]:
        """Return the blocks' matrices, which the paper decays, shards and compresses."""
        return [parameter for parameter in self.blocks.parameters() if parameter.ndim == 2]

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the residual branches, which the paper runs in 16 bits (section 2.4)."""
        return [branch for block in self._blocks() for branch in (block.attention, block.mlp)]

    def _blocks(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.blocks)

    def _check(self, text_tokens: Tensor, image_tokens: Tensor) -> None:
        expected = ([len(text_tokens), self.text_len], [len(text_tokens), self.image_len])
        given = (list(text_tokens.shape), list(image_tokens.shape))
        if given != expected:
            raise ValueError(f"expected text and image tokens {expected}, got {given}")


class Transformer(TransformerBackbone):
    """The transformer whose heads return logits."""

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Predict every token from the tokens before it.

        text_tokens   int64 [B, T], at most T - 1 caption tokens, then -1
        image_tokens  int64 [B, I] in raster order; unshifted, like text_tokens
        returns       text logits [B, T, Vt] and image logits [B, I, Vi]; slot p predicts token p

        Raises ValueError for tokens of other shapes.
        """
        text, image = self.features(text_tokens, image_tokens)
        return self.text_head(text), self.image_head(image)
