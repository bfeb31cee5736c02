"""The frozen transformer with a KV cache, which predicts image tokens one position at a time.

Its pace is that of the memory that holds its weights. A slot needs the keys and values that its
mask lets it see and no others: those of all text, and those of the last W + 1 image slots (row), of
its column (column), or of the last 5 W + 6 slots for a kernel of 11 (convolutional). The cache is
allocated once; rows and convolutions have ring buffers, in which slots out of sight are
overwritten. Samples of one caption share the keys and values of its text. Every decode step does
the same work on tensors of the same shapes, whatever its position, so that it can be compiled or
captured as a CUDA graph. Knows nothing of how a token is chosen. Axes used below:

    B samples    C captions, with B / C samples each    T text slots    I image slots
    W side of the token grid    P image tokens given    D model width
    H heads    K width of a head    N image slots cached, M of them visible    Vi image vocabulary
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import attend
from dalle_cli.models.attention_masks import Kind, convolution_offsets
from dalle_cli.models.transformer import GELU_SLOPE, Block, TransformerBackbone


class LayerCache(NamedTuple):
    """Keys and values of one layer, stacked in this order and updated in place.

    text   [2, C, H, T, K], shared by the samples of a caption
    image  [2, B, H, N, K], at the slots that the layer's `_ImageWindow` assigns to positions
    """

    text: Tensor
    image: Tensor


KVCache = list[LayerCache]  # one for each layer


class CachedTransformer(nn.Module):
    """A transformer's weights, fused and laid out for few rows at a time."""

    layers: Iterable["_CachedLayer"]
    positions: Tensor

    def __init__(
        self,
        transformer: TransformerBackbone,
        dtype: torch.dtype = torch.float32,
        *,
        is_packed: bool = True,
    ) -> None:
        """Lay out a copy of the weights.

        dtype      of the branches' weights, keys and values; the stream and the logits are fp32
        is_packed  on a CPU, in oneDNN's blocks; False for a compiler, which has its own
        """
        super().__init__()
        self.text_len, self.image_vocab_size = transformer.text_len, transformer.image_vocab_size
        self._dtype = dtype
        self._embed_text, self._embed_image = transformer.embed_text, transformer.embed_image

        # layers of one kind share the indices of their window
        windows = {kind: _ImageWindow(kind, transformer) for kind in sorted(set(transformer.kinds))}
        blocks = cast(Iterable[Block], transformer.blocks)
        layers = nn.ModuleList(
            _CachedLayer(
                block,
                windows[kind],
                mask=transformer.mask(kind),
                dtype=dtype,
                is_packed=is_packed,
            )
            for block, kind in zip(blocks, transformer.kinds, strict=True)
        )
        self.layers = cast(Iterable[_CachedLayer], layers)

        self.image_embedding, self.norm = transformer.image_embedding, transformer.final_norm
        self.start = transformer.start_of_image
        positions = transformer.row_position[:, None] + transformer.column_position  # [W, W, D]
        self.register_buffer("positions", positions.detach().flatten(0, 1))  # [I, D]
        self.head = _fused([transformer.image_head], dtype=torch.float32, is_packed=is_packed)

    def new_cache(self, n_samples: int, n_captions: int) -> KVCache:
        """Allocate a cache, which takes `kv_cache_bytes`."""
        sizes = {"n_captions": n_captions, "text_len": self.text_len}
        return [layer.new_cache(n_samples, **sizes) for layer in self.layers]

    def prefill(self, captions: Tensor, image_tokens: Tensor, cache: KVCache) -> None:
        """Fill a cache from captions, and from first image tokens that all samples have in common.

        captions      int64 [C, T], -1 after the caption
        image_tokens  int64 [P], those at positions 0 to P - 1; P may be 0
        """
        x = self._embed_text(captions)  # [C, T, D]
        if len(image_tokens):
            # the input of a slot is the token before the one it predicts
            inputs = image_tokens[:-1].expand(len(captions), -1)  # [C, P - 1]
            x = torch.cat([x, self._embed_image(inputs, start=0)], dim=1)  # [C, T + P, D]

        for layer, cached in zip(self.layers, cache, strict=True):
            x = layer.prefill(x, self.text_len, cached=cached)

    def forward(self, previous: Tensor, position: Tensor, cache: KVCache) -> Tensor:
        """Run one decode step: predict the image tokens at a position, fp32 [B, Vi].

        previous  int64 [B], the tokens at position - 1; any at position 0
        position  int64 [1]; steps are run in the order of their positions
        """
        x = torch.where(position[:, None] == 0, self.start, self.image_embedding(previous))
        x = x + self.positions.index_select(0, position)  # [B, D]
        for layer, cached in zip(self.layers, cache, strict=True):
            x = layer(x, position, cached)
        return self.head(self.norm(x))


def kv_cache_bytes(
    transformer: TransformerBackbone,
    n_samples: int,
    *,
    n_captions: int,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Compute the bytes of a cache's keys and values from its sizes."""
    slots = n_captions * transformer.text_len * len(transformer.kinds)
    slots += n_samples * sum(_n_cached_slots(kind, transformer) for kind in transformer.kinds)
    return 2 * slots * transformer.start_of_text.numel() * dtype.itemsize


def distinct_captions(text_tokens: Tensor) -> Tensor:
    """Return the fewest captions [C, T] such that each has the same number of samples in a row."""
    _, counts = torch.unique_consecutive(text_tokens, dim=0, return_counts=True)
    return text_tokens[:: math.gcd(*counts.tolist())]


def _n_cached_slots(kind: Kind, transformer: TransformerBackbone) -> int:
    """Return how many image slots a layer keeps for later ones."""
    if kind == "column":
        return transformer.grid_size**2
    return _visible_offsets(kind, transformer)[-1] + 1


def _visible_offsets(kind: Kind, transformer: TransformerBackbone) -> list[int]:
    """Return how many slots back a row or convolutional layer sees, in ascending order."""
    n = transformer.grid_size
    offsets = range(n + 1) if kind == "row" else convolution_offsets(n, transformer.kernel_size)
    return [offset for offset in offsets if offset < n * n]


class _ImageWindow(nn.Module):
    """The cache slots of a kind of layer, and which of them are visible from a position.

    Rows and convolutions have a ring buffer of the last N slots, all of which are read. Columns
    keep all slots, column by column, and read one column.
    """

    cache_slots: Tensor  # int64 [I], by position
    bias: Tensor  # [I, M], added to scores: 0 where a slot is visible, else -inf

    def __init__(self, kind: Kind, transformer: TransformerBackbone) -> None:
        super().__init__()
        n = self.grid_size = transformer.grid_size
        self.is_column = kind == "column"
        self.n_slots = _n_cached_slots(kind, transformer)
        device = transformer.start_of_image.device
        positions = torch.arange(n * n, device=device)

        if self.is_column:
            cache_slots = positions % n * n + positions // n
            is_visible = torch.arange(n, device=device) <= positions[:, None] // n  # [I, W]
        else:
            cache_slots = positions % self.n_slots
            slots = torch.arange(self.n_slots, device=device)
            back = (positions[:, None] - slots) % self.n_slots  # [I, N]
            offsets = torch.tensor(_visible_offsets(kind, transformer), device=device)
            is_visible = torch.isin(back, offsets) & (back <= positions[:, None])  # [I, N]

        bias = torch.zeros(is_visible.shape, device=device).masked_fill(~is_visible, -torch.inf)
        self.register_buffer("cache_slots", cache_slots)
        self.register_buffer("bias", bias)

    def read(self, cached: Tensor, position: Tensor) -> Tensor:
        """Select what a position sees of keys and values: [2, B, H, N, K] -> [2, B, H, M, K]."""
        if not self.is_column:
            return cached
        columns = cached.unflatten(3, (self.grid_size, self.grid_size))  # [2, B, H, W, W, K]
        column = columns.index_select(3, position % self.grid_size)  # [2, B, H, 1, W, K]
        return column.squeeze(3)  # [2, B, H, W, K]


class _CachedLayer(nn.Module):
    """One block, its weights fused, with the reads and writes of its cache."""

    def __init__(
        self,
        block: Block,
        window: _ImageWindow,
        *,
        mask: Tensor,
        dtype: torch.dtype,
        is_packed: bool,
    ) -> None:
        super().__init__()
        attention, mlp = block.attention.attention, block.mlp
        self.window = window
        self._mask = mask
        self._dtype = dtype
        self._heads = (attention.n_heads, attention.d_head)
        self._scale = attention.d_head**-0.5

        projections = [attention.query, attention.key, attention.value]
        self.attention_norm, self.mlp_norm = block.attention.norm, mlp.norm
        self.project = _fused(projections, dtype=dtype, is_packed=is_packed)
        self.output = _fused([attention.output], dtype=dtype, is_packed=is_packed)

        # u sigmoid(1.702 u) is silu(1.702 u) / 1.702: its factors go into the matrices around it
        expand, contract = mlp.expand, mlp.contract
        weight, bias = GELU_SLOPE * expand.weight, GELU_SLOPE * expand.bias
        self.expand = _FrozenLinear(weight, bias, dtype=dtype, is_packed=is_packed)
        weight, bias = contract.weight / GELU_SLOPE, contract.bias
        self.contract = _FrozenLinear(weight, bias, dtype=dtype, is_packed=is_packed)

    def new_cache(self, n_samples: int, *, n_captions: int, text_len: int) -> LayerCache:
        """Allocate the keys and values of the captions and the samples."""
        n_heads, width = self._heads
        text = (2, n_captions, n_heads, text_len, width)
        image = (2, n_samples, n_heads, self.window.n_slots, width)

        # zeros, since a hidden slot is weighed by 0 and must be finite
        zeros = partial(torch.zeros, dtype=self._dtype, device=self.window.bias.device)
        return LayerCache(zeros(text), zeros(image))

    def prefill(self, x: Tensor, text_len: int, *, cached: LayerCache) -> Tensor:
        """Run text slots and first image slots [C, T + P, D] through the block, and cache them."""
        query, key, value = self._split(self.project(self._normed(x, self.attention_norm)))
        n_slots = x.shape[1]
        n_image = n_slots - text_len

        # of the image slots a ring keeps the last N
        kept = slice(max(n_image - self.window.n_slots, 0), n_image)
        for text, image, tensor in zip(*cached, (key, value), strict=True):
            text.copy_(tensor[:, :, :text_len])
            new = tensor[:, :, text_len:][:, :, kept]  # [C, H, at most N, K]
            new = new.repeat_interleave(len(image) // len(tensor), 0)  # [B, H, at most N, K]
            image[:, :, self.window.cache_slots[kept]] = new

        merged = attend(query, key, value, mask=self._mask[:n_slots, :n_slots])  # [C, H, T + P, K]
        merged = merged.transpose(1, 2).flatten(2)  # [C, T + P, D]
        return self._add_mlp(x + self.output(merged).float())

    def forward(self, x: Tensor, position: Tensor, cached: LayerCache) -> Tensor:
        """Run the image slots at one position [B, D] through the block; returns the same shape."""
        projected = self.project(self._normed(x, self.attention_norm))  # [B, 3 D]
        projected = projected.view(len(x), 3, *self._heads)  # [B, 3, H, K]

        slot = self.window.cache_slots.index_select(0, position)
        new = projected[:, 1:].transpose(0, 1).unsqueeze(3)  # [2, B, H, 1, K]
        cached.image.index_copy_(3, slot, new)

        merged = self._attend(projected[:, 0], position, cached=cached)  # [B, H, 1, K]
        return self._add_mlp(x + self.output(merged.flatten(1)).float())

    def _attend(self, query: Tensor, position: Tensor, *, cached: LayerCache) -> Tensor:
        """Average the visible values by one softmax over text and image keys.

        query    [B, H, K]
        returns  [B, H, 1, K]
        """
        text_keys, text_values = cached.text.unbind()  # [C, H, T, K] each
        keys, values = self.window.read(cached.image, position).unbind()  # [B, H, M, K] each
        n_captions, n_heads, n_text, width = text_keys.shape
        query = query * self._scale

        # the samples of a caption are rows of one product, which reads its text once for all
        grouped = query.view(n_captions, -1, n_heads, width).transpose(1, 2)  # [C, H, B / C, K]
        of_text = (grouped @ text_keys.transpose(2, 3)).transpose(1, 2)  # [C, B / C, H, T]
        of_text = of_text.reshape(len(query), n_heads, 1, n_text)  # [B, H, 1, T]
        of_image = (query[:, :, None] @ keys.transpose(2, 3)).float()  # [B, H, 1, M]
        of_image = of_image + self.window.bias.index_select(0, position)

        scores = torch.cat([of_text.float(), of_image], dim=3)  # [B, H, 1, T + M]
        weights = scores.softmax(dim=3).to(self._dtype)

        grouped = weights[..., :n_text].view(n_captions, -1, n_heads, n_text)  # [C, B / C, H, T]
        merged = (grouped.transpose(1, 2) @ text_values).transpose(1, 2)  # [C, B / C, H, K]
        merged = merged.reshape(len(query), n_heads, 1, width)  # [B, H, 1, K]
        return merged + weights[..., n_text:] @ values

    def _add_mlp(self, x: Tensor) -> Tensor:
        return x + self.contract(F.silu(self.expand(self._normed(x, self.mlp_norm)))).float()

    def _normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(x).to(self._dtype)

    def _split(self, projected: Tensor) -> Sequence[Tensor]:
        """Split fused projections [C, S, 3 D] into queries, keys and values [C, H, S, K]."""
        split = projected.unflatten(2, (3, *self._heads))  # [C, S, 3, H, K]
        return split.permute(2, 0, 3, 1, 4).unbind()  # [C, H, S, K] each


class _FrozenLinear(nn.Module):
    """A linear layer for inference alone."""

    def __init__(
        self, weight: Tensor, bias: Tensor, *, dtype: torch.dtype, is_packed: bool
    ) -> None:
        super().__init__()
        weight, bias = (
            nn.Parameter(tensor.detach().to(dtype), requires_grad=False)
            for tensor in (weight, bias)
        )
        is_on_cpu = weight.device.type == "cpu"
        self.bias = bias
        self._is_packed = is_packed and is_on_cpu and torch.backends.mkldnn.is_available()

        if self._is_packed:
            # without a number of rows: for a single row oneDNN leaves the weights as they are,
            # which is a third as fast in fp32
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        if self._is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


def _fused(layers: Sequence[nn.Linear], *, dtype: torch.dtype, is_packed: bool) -> _FrozenLinear:
    """Fuse linear layers that have the same input."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return _FrozenLinear(weight, bias, dtype=dtype, is_packed=is_packed)
