"""Drawing image tokens slot by slot from a frozen transformer, at the pace of the memory that holds its weights.

A slot needs the keys and values that its mask lets it see and no others: those of all text, and of the last W + 1 image
slots (row), of its own column (column), or of the last 5 W + 6 for a kernel of 11 (convolutional). They lie in buffers
made once; rows and convolutions have rings, where slots out of sight are overwritten. Samples of one caption share the
text's. Knows nothing of how a token is chosen. Axes used below:

    B samples    C captions, with B / C samples each    T text slots    W side of the grid    D model width
    H heads      K width of a head                      N near slots held, M of them seen
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import attend
from dalle_cli.models.attention_masks import Kind, convolution_offsets
from dalle_cli.models.transformer import GELU_SLOPE, Block, Transformer

Linear = Callable[[Tensor], Tensor]


class Decoder:
    """So many samples, being drawn side by side."""

    @torch.inference_mode()
    def __init__(self, transformer: Transformer, text_tokens: Tensor, dtype: torch.dtype = torch.float32) -> None:
        """Read the captions.

        text_tokens  int64 [B, T], -1 after the caption; where all captions come in rows of equally many, samples of one
                     share its keys and values
        dtype        of the branches' weights, keys and values; the stream and the logits are fp32
        """
        captions = distinct_captions(text_tokens)
        n_samples = len(text_tokens)
        near = {kind: _near(kind, transformer) for kind in set(transformer.kinds)}
        self._layers = [
            _Layer(block, near[kind], n_samples, dtype)
            for block, kind in zip(transformer.blocks, transformer.kinds, strict=True)
        ]
        x = transformer.embed_text(captions)
        for layer in self._layers:
            x = layer.read(x)
        self._tokens = transformer.image_embedding.weight
        positions = transformer.row_position[:, None] + transformer.column_position  # [W, W, D]
        self._positions = positions.flatten(0, 1)
        self._start = transformer.start_of_image.expand(n_samples, -1)
        self._norm = transformer.final_norm
        self._head = _linear([transformer.image_head], n_samples, torch.float32)

    @torch.inference_mode()
    def logits(self, held: Tensor | None, position: int) -> Tensor:
        """Predict the image tokens at `position`, fp32 [B, Vi]; to be asked for 0, 1, 2 and so on.

        held  int64 [B], the tokens at position - 1; None at 0
        """
        x = (self._start if held is None else self._tokens[held]) + self._positions[position]
        for layer in self._layers:
            x = layer.step(x, position)
        return self._head(self._norm(x))

    @property
    def n_bytes(self) -> int:
        """Count the bytes of keys and values."""
        return sum(layer.n_bytes for layer in self._layers)


def cache_bytes(transformer: Transformer, n_samples: int, n_captions: int, dtype: torch.dtype = torch.float32) -> int:
    """Count the bytes of keys and values that so many samples take, by arithmetic alone."""
    slots = n_captions * transformer.text_len * len(transformer.kinds)
    slots += n_samples * sum(_near(kind, transformer).n_slots for kind in transformer.kinds)
    return 2 * slots * transformer.start_of_text.numel() * dtype.itemsize


def distinct_captions(text_tokens: Tensor) -> Tensor:
    """Give each caption once, [C, T], where all come in rows of equally many, else one for each sample."""
    captions, counts = torch.unique_consecutive(text_tokens, dim=0, return_counts=True)
    return captions if bool((counts == counts[0]).all()) else text_tokens


def _linear(layers: Sequence[nn.Linear], n_rows: int, dtype: torch.dtype) -> Linear:
    """Fuse linear layers of one input, for so many rows."""
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return _prepared(weight, bias, n_rows, dtype)


def _prepared(weight: Tensor, bias: Tensor, n_rows: int, dtype: torch.dtype) -> Linear:
    """Make a linear layer for so many rows; on CPUs its weights are laid out for that beforehand."""
    weight, bias = weight.to(dtype), bias.to(dtype)
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, n_rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class _Ring:
    """The last N image slots, of which some may be hidden."""

    def __init__(self, n_slots: int, hidden: Tensor | None = None) -> None:
        """hidden: -inf for slots 0, 1, ... back that are not seen, else 0 [N]; None: all are seen."""
        self.n_slots = n_slots
        self._hidden = None if hidden is None else hidden[torch.arange(2 * n_slots).neg() % n_slots]

    def place(self, position: int) -> int:
        """Say where a slot is put."""
        return position % self.n_slots

    def seen(self, position: int) -> slice:
        """Say where those are that a slot sees."""
        return slice(0, min(position + 1, self.n_slots))

    def bias(self, position: int) -> Tensor | None:
        """Give what hides some of these again, [M], in the order in which they lie."""
        if self._hidden is None:
            return None
        start = self.n_slots - self.place(position)  # the newest slot is 0 back, the one after it in the ring N - 1
        return self._hidden[start : start + self.n_slots][self.seen(position)]


class _Columns:
    """All image slots, column by column."""

    def __init__(self, grid_size: int) -> None:
        self.n_slots = grid_size**2
        self._grid_size = grid_size

    def place(self, position: int) -> int:
        row, column = divmod(position, self._grid_size)
        return column * self._grid_size + row

    def seen(self, position: int) -> slice:
        place = self.place(position)
        return slice(place - place % self._grid_size, place + 1)

    def bias(self, position: int) -> None:
        return None


def _near(kind: Kind, transformer: Transformer) -> _Ring | _Columns:
    """Say which image slots a layer holds for later ones."""
    n = transformer.grid_size
    if kind == "column":
        return _Columns(n)
    if kind == "row":
        return _Ring(min(n + 1, n * n))
    offsets = [offset for offset in convolution_offsets(n, transformer.kernel_size) if offset < n * n]
    hidden = torch.full((offsets[-1] + 1,), -torch.inf, device=transformer.start_of_text.device)
    hidden[offsets] = 0
    return _Ring(len(hidden), hidden)


class _Layer:
    """One block: its weights, fused, and the keys and values that its later slots see."""

    def __init__(self, block: Block, near: _Ring | _Columns, n_samples: int, dtype: torch.dtype) -> None:
        attention, mlp = block.attention.attention, block.mlp
        self._block = block
        self._dtype = dtype
        self._near = near
        self._heads = (attention.n_heads, attention.d_head)
        self._project = _linear([attention.query, attention.key, attention.value], n_samples, dtype)
        self._output = _linear([attention.output], n_samples, dtype)
        # u sigmoid(1.702 u) is silu(1.702 u) / 1.702: its factors go into the matrices before and after
        expand, contract = mlp.expand, mlp.contract
        self._expand = _prepared(GELU_SLOPE * expand.weight, GELU_SLOPE * expand.bias, n_samples, dtype)
        self._contract = _prepared(contract.weight / GELU_SLOPE, contract.bias, n_samples, dtype)
        self._scale = attention.d_head**-0.5
        held = (2, n_samples, attention.n_heads, near.n_slots, attention.d_head)
        self._near_keys_values = attention.key.weight.new_empty(held, dtype=dtype)

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self._text_keys, self._text_values, self._near_keys_values))

    def read(self, x: Tensor) -> Tensor:
        """Keep the keys and values of text slots [C, T, D] on their way through the block; returns the same shape."""
        query, key, value = self._split(self._project(self._normed(x, self._block.attention)))  # [C, H, T, K]
        self._text_keys, self._text_values = key.contiguous(), value.contiguous()
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        x = x + self._output(attend(query, key, value, causal).transpose(1, 2).flatten(2)).float()
        return self._through_mlp(x)

    def step(self, x: Tensor, position: int) -> Tensor:
        """Take the image slots at one position [B, D] through the block; returns the same shape."""
        fused = self._project(self._normed(x, self._block.attention)).view(len(x), 3, *self._heads)  # [B, 3, H, K]
        place, seen = self._near.place(position), self._near.seen(position)
        self._near_keys_values[:, :, :, place] = fused[:, 1:].transpose(0, 1)
        keys, values = self._near_keys_values[:, :, :, seen].unbind()  # [B, H, M, K] each
        query = fused[:, 0] * self._scale  # [B, H, K]
        n_captions, n_heads, n_text, width = self._text_keys.shape
        samples = query.view(n_captions, -1, n_heads, width).transpose(1, 2)  # [C, H, B / C, K]
        of_text = (samples @ self._text_keys.transpose(2, 3)).transpose(1, 2).reshape(len(x), n_heads, 1, n_text)
        scores = torch.cat([of_text, query[:, :, None] @ keys.transpose(2, 3)], dim=3).float()  # [B, H, 1, T + M]
        bias = self._near.bias(position)
        if bias is not None:
            scores[..., n_text:] += bias
        weights = scores.softmax(dim=3).to(self._dtype)
        samples = weights[..., :n_text].view(n_captions, -1, n_heads, n_text).transpose(1, 2)  # [C, H, B / C, T]
        merged = (samples @ self._text_values).transpose(1, 2).reshape(len(x), n_heads, 1, width)
        merged = merged + weights[..., n_text:] @ values
        return self._through_mlp(x + self._output(merged.flatten(1)).float())

    def _through_mlp(self, x: Tensor) -> Tensor:
        return x + self._contract(F.silu(self._expand(self._normed(x, self._block.mlp)))).float()

    def _normed(self, x: Tensor, branch: nn.Module) -> Tensor:
        return branch.norm(x).to(self._dtype)

    def _split(self, fused: Tensor) -> Sequence[Tensor]:
        """Take queries, keys and values [B, N, 3 D] apart: [B, H, N, K] each."""
        return fused.unflatten(2, (3, *self._heads)).permute(2, 0, 3, 1, 4).unbind()
