"""Drawing image tokens slot by slot from a frozen transformer, at the pace of the memory that holds its weights.

A slot needs the keys and values that its mask lets it see and no others: those of all text, and of the last W + 1 image
slots (row), of its own column (column), or of the last 5 W + 6 for a kernel of 11 (convolutional). They lie in a cache
made once; rows and convolutions have rings, where slots out of sight are overwritten. Samples of one caption share the
text's. Every step does the same work on tensors of the same shapes, whatever its position, so that it can be compiled
or captured. Knows nothing of how a token is chosen. Axes used below:

    B samples    C captions, with B / C samples each    T text slots    I image slots    W side of the grid
    D model width    H heads    K width of a head    N near slots held, M of them seen    Vi image vocabulary
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import attend
from dalle_cli.models.attention_masks import Kind, convolution_offsets
from dalle_cli.models.transformer import GELU_SLOPE, Block, TransformerBackbone

KVCache = list[
    tuple[Tensor, Tensor]
]  # of each layer, keys and values: of text [2, C, H, T, K], near [2, B, H, N, K]


class CachedTransformer(nn.Module):
    """The weights, fused and laid out for few rows at a time."""

    def __init__(
        self,
        transformer: TransformerBackbone,
        dtype: torch.dtype = torch.float32,
        is_packed: bool = True,
    ) -> None:
        """Lay out a copy of the weights.

        dtype      of the branches' weights, keys and values; the stream and the logits are fp32
        is_packed  on a CPU, in oneDNN's blocks; a compiler has blocks of its own
        """
        super().__init__()
        self.text_len, self.image_vocab_size = transformer.text_len, transformer.image_vocab_size
        self._dtype = dtype
        self._embed_text, self._embed_image = transformer.embed_text, transformer.embed_image
        near = {kind: _Near(kind, transformer) for kind in sorted(set(transformer.kinds))}
        self.layers = nn.ModuleList(
            _Layer(block, near[kind], transformer.mask(kind), dtype, is_packed)
            for block, kind in zip(transformer.blocks, transformer.kinds, strict=True)
        )
        self.image_embedding, self.norm = transformer.image_embedding, transformer.final_norm
        self.start = transformer.start_of_image
        positions = transformer.row_position[:, None] + transformer.column_position  # [W, W, D]
        self.register_buffer("positions", positions.detach().flatten(0, 1))
        self.head = _fused([transformer.image_head], torch.float32, is_packed)

    def new_cache(self, n_samples: int, n_captions: int) -> KVCache:
        """Make room for so many samples; it takes `kv_cache_bytes`."""
        device = self.start.device
        return [
            tuple(
                torch.zeros(
                    2, n, *shape, dtype=self._dtype, device=device
                )  # hidden slots count 0 times what they hold
                for n, shape in zip((n_captions, n_samples), layer.held(self.text_len), strict=True)
            )
            for layer in self.layers
        ]

    def prefill(self, captions: Tensor, image_tokens: Tensor, cache: KVCache) -> None:
        """Fill a cache from captions, and from first image tokens that are the same for all samples.

        captions      int64 [C, T], -1 after the caption
        image_tokens  int64 [P], those at positions 0 to P - 1; P may be 0
        """
        x = self._embed_text(captions)
        if len(image_tokens):
            before = image_tokens[:-1].expand(
                len(captions), -1
            )  # a slot holds the token before its own
            x = torch.cat([x, self._embed_image(before, start=0)], dim=1)
        for layer, held in zip(self.layers, cache, strict=True):
            x = layer.prefill(x, self.text_len, *held)

    def forward(self, before: Tensor, position: Tensor, cache: KVCache) -> Tensor:
        """Predict the image tokens at a position, fp32 [B, Vi]; to be asked for one position after the other.

        before    int64 [B], the tokens at position - 1; anything at 0
        position  int64 [1]
        """
        x = torch.where(position[:, None] == 0, self.start, self.image_embedding(before))
        x = x + self.positions.index_select(0, position)
        for layer, (text, near) in zip(self.layers, cache, strict=True):
            x = layer(x, position, text, near)
        return self.head(self.norm(x))


def kv_cache_bytes(
    transformer: TransformerBackbone,
    n_samples: int,
    n_captions: int,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Count the bytes of keys and values that so many samples take, by arithmetic alone."""
    slots = n_captions * transformer.text_len * len(transformer.kinds)
    slots += n_samples * sum(_slots_held(kind, transformer) for kind in transformer.kinds)
    return 2 * slots * transformer.start_of_text.numel() * dtype.itemsize


def distinct_captions(text_tokens: Tensor) -> Tensor:
    """Give captions [C, T] that come in rows of equally many samples, as few as there can be."""
    _, counts = torch.unique_consecutive(text_tokens, dim=0, return_counts=True)
    return text_tokens[:: math.gcd(*counts.tolist())]


def _slots_held(kind: Kind, transformer: TransformerBackbone) -> int:
    """Count the image slots that a layer holds for later ones."""
    n = transformer.grid_size
    if kind == "column":
        return n * n
    return _reach(kind, transformer)[-1] + 1


def _reach(kind: Kind, transformer: TransformerBackbone) -> list[int]:
    """List how many slots back a slot sees, within its row and the one above or within a kernel."""
    n = transformer.grid_size
    offsets = range(n + 1) if kind == "row" else convolution_offsets(n, transformer.kernel_size)
    return [offset for offset in offsets if offset < n * n]


class _Near(nn.Module):
    """Where a layer of one kind puts image slots, and which of them a slot sees.

    Rows and convolutions: a ring of the last N, all of which are looked at. Columns: all slots, column by column, of
    which one column is looked at.
    """

    def __init__(self, kind: Kind, transformer: TransformerBackbone) -> None:
        super().__init__()
        n = self.grid_size = transformer.grid_size
        self.is_column = kind == "column"
        self.n_slots = _slots_held(kind, transformer)
        slots = torch.arange(n * n, device=transformer.start_of_image.device)
        if self.is_column:
            places = slots % n * n + slots // n
            is_seen = torch.arange(n, device=slots.device) <= slots[:, None] // n
        else:
            places = slots % self.n_slots
            back = (slots[:, None] - torch.arange(self.n_slots, device=slots.device)) % self.n_slots
            reach = torch.tensor(_reach(kind, transformer), device=slots.device)
            is_seen = torch.isin(back, reach) & (back <= slots[:, None])
        self.register_buffer("places", places)  # [I]
        self.register_buffer(
            "bias",
            torch.zeros(is_seen.shape, device=slots.device).masked_fill(~is_seen, -torch.inf),
        )

    def window(self, held: Tensor, position: Tensor) -> Tensor:
        """Give what is looked at of keys and values [2, B, H, N, K]: [2, B, H, M, K]."""
        if not self.is_column:
            return held
        columns = held.unflatten(3, (self.grid_size, self.grid_size))
        return columns.index_select(3, position % self.grid_size).squeeze(3)


class _Layer(nn.Module):
    """One block: its weights, fused, and what it does with keys and values."""

    def __init__(
        self, block: Block, near: _Near, mask: Tensor, dtype: torch.dtype, is_packed: bool
    ) -> None:
        super().__init__()
        attention, mlp = block.attention.attention, block.mlp
        self.near = near
        self._mask = mask
        self._dtype = dtype
        self._heads = (attention.n_heads, attention.d_head)
        self._scale = attention.d_head**-0.5
        self.attention_norm, self.mlp_norm = block.attention.norm, mlp.norm
        self.project = _fused([attention.query, attention.key, attention.value], dtype, is_packed)
        self.output = _fused([attention.output], dtype, is_packed)
        # u sigmoid(1.702 u) is silu(1.702 u) / 1.702: its factors go into the matrices before and after
        expand, contract = mlp.expand, mlp.contract
        self.expand = _Linear(
            GELU_SLOPE * expand.weight, GELU_SLOPE * expand.bias, dtype, is_packed
        )
        self.contract = _Linear(contract.weight / GELU_SLOPE, contract.bias, dtype, is_packed)

    def held(self, text_len: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give the shapes [H, T, K] and [H, N, K] of what is held of a caption and of a sample."""
        n_heads, width = self._heads
        return (n_heads, text_len, width), (n_heads, self.near.n_slots, width)

    def prefill(self, x: Tensor, text_len: int, text: Tensor, near: Tensor) -> Tensor:
        """Take text slots and first image slots [C, T + P, D] through the block, and hold their keys and values."""
        query, *kept = self._split(
            self.project(self._normed(x, self.attention_norm))
        )  # [C, H, T + P, K]
        n_slots = x.shape[1]
        n_read = n_slots - text_len
        seen = slice(max(n_read - self.near.n_slots, 0), n_read)
        for held_of_text, held_near, tensor in zip(text, near, kept, strict=True):
            held_of_text.copy_(tensor[:, :, :text_len])
            of_samples = tensor[:, :, text_len:][:, :, seen].repeat_interleave(
                len(held_near) // len(tensor), 0
            )
            held_near[:, :, self.near.places[seen]] = of_samples
        merged = attend(query, *kept, self._mask[:n_slots, :n_slots])
        return self._through_mlp(x + self.output(merged.transpose(1, 2).flatten(2)).float())

    def forward(self, x: Tensor, position: Tensor, text: Tensor, near: Tensor) -> Tensor:
        """Take the image slots at one position [B, D] through the block; returns the same shape."""
        fused = self.project(self._normed(x, self.attention_norm)).view(
            len(x), 3, *self._heads
        )  # [B, 3, H, K]
        place = self.near.places.index_select(0, position)
        near.index_copy_(3, place, fused[:, 1:].transpose(0, 1).unsqueeze(3))
        keys, values = self.near.window(near, position).unbind()  # [B, H, M, K] each
        text_keys, text_values = text.unbind()
        query = fused[:, 0] * self._scale  # [B, H, K]
        n_captions, n_heads, n_text, width = text_keys.shape
        samples = query.view(n_captions, -1, n_heads, width).transpose(1, 2)  # [C, H, B / C, K]
        of_text = (
            (samples @ text_keys.transpose(2, 3))
            .transpose(1, 2)
            .reshape(len(x), n_heads, 1, n_text)
        )
        of_near = (query[:, :, None] @ keys.transpose(2, 3)).float() + self.near.bias.index_select(
            0, position
        )
        weights = (
            torch.cat([of_text.float(), of_near], dim=3).softmax(dim=3).to(self._dtype)
        )  # [B, H, 1, T + M]
        samples = (
            weights[..., :n_text].view(n_captions, -1, n_heads, n_text).transpose(1, 2)
        )  # [C, H, B / C, T]
        merged = (samples @ text_values).transpose(1, 2).reshape(len(x), n_heads, 1, width)
        merged = merged + weights[..., n_text:] @ values
        return self._through_mlp(x + self.output(merged.flatten(1)).float())

    def _through_mlp(self, x: Tensor) -> Tensor:
        return x + self.contract(F.silu(self.expand(self._normed(x, self.mlp_norm)))).float()

    def _normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(x).to(self._dtype)

    def _split(self, fused: Tensor) -> Sequence[Tensor]:
        """Take queries, keys and values [C, S, 3 D] apart: [C, H, S, K] each."""
        return fused.unflatten(2, (3, *self._heads)).permute(2, 0, 3, 1, 4).unbind()


def _fused(layers: Sequence[nn.Linear], dtype: torch.dtype, is_packed: bool) -> "_Linear":
    """Fuse linear layers of one input."""
    weight, bias = (
        torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias")
    )
    return _Linear(weight, bias, dtype, is_packed)


class _Linear(nn.Module):
    """A linear layer that learns no more."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, is_packed: bool) -> None:
        super().__init__()
        weight, bias = (
            nn.Parameter(tensor.detach().to(dtype), requires_grad=False)
            for tensor in (weight, bias)
        )
        self.bias = bias
        self._is_packed = (
            is_packed and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        )
        if self._is_packed:
            # not for a number of rows: told of one row, oneDNN leaves weights as they are, a third as fast in fp32
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        if self._is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)
