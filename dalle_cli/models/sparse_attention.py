"""Attention that computes little more than a sparse mask allows; for CPUs, forward and backward.

A text query sees the text up to itself. An image query sees all text, and some image slots near it:
a window of its line and the lines above it, or of its column. Queries are multiplied by these keys
alone, and one softmax spans them. Axes used below:

    B batch    H heads    K width of a head    T text slots    W side of the grid    I = W * W
    S = T + I    L lines of the grid, or columns: W    A lines above a line, in its window
    M = (A + 1) * W keys of a window    G = B * H    R = G * L, all lines of all heads
    Q blocks of N queries: G of T text slots, or R of W image slots    P their keys: T, or T + M
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.attention_masks import Kind, image_mask

Tensors = Sequence[Tensor]
Parts = Sequence[Tensor]  # of a stream: the text [G, T, K] and images [R, W, K] or [A + R, W, K]
Products = Iterator[tuple[Tensors, Tensors, Tensors]]


class Queries(Protocol):
    """Queries [Q, N, K] and the products of matrices that they take part in."""

    n_keys: int  # P
    bias: Tensor  # what hides scores: 0 or -inf for some queries and the last of their keys

    def products(self, queries: Tensors, scores: Tensors, keys: Sequence[Parts]) -> Products:
        """Yield the operands of each batched product, views of what is given.

        queries  [Q, N, K] each    scores  [Q, N, P] each    keys  parts of streams
        """


class SparseAttention:
    """Attention under one kind's mask, over streams of one shape."""

    def __init__(self, kind: Kind, text_len: int, grid_size: int, kernel_size: int = 11) -> None:
        self.text_len = text_len
        self.grid_size = grid_size
        self.is_column = kind == "column"

        mask = image_mask(kind, grid_size, kernel_size=kernel_size)  # [I, I]
        mask = mask.view([grid_size] * 4)  # [L, W, L, W], of queries and keys
        if self.is_column:
            mask = mask.permute(1, 0, 3, 2)  # [L, W, L, W], a line is a column

        windows = _windows(mask)  # [I, M]
        self.n_lines_above = windows.shape[1] // grid_size - 1  # A
        self.queries: tuple[Queries, ...] = (
            _TextQueries(text_len),
            _ImageQueries(text_len, grid_size, windows),
        )

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average values [B, H, S, K] by one softmax over the keys that each query may see.

        returns  [B, H, S, K]
        """
        return _SparseAttention.apply(query, key, value, self)

    def split(self, stream: Tensor, n_zeros: int = 0) -> list[Tensor]:
        """Copy a stream [B, H, S, K]: the text [G, T, K] and, line by line, images [.. + R, W, K].

        Above the first line are n_zeros lines of zeros. Any span of lines is an operand of a
        batched product.
        """
        copies = []
        for part, n in zip(self._parts(stream), (0, n_zeros), strict=True):
            copy = part.new_zeros(n + part.shape[:-2].numel(), *part.shape[-2:])
            copy[n:].view(part.shape).copy_(part)
            copies.append(copy)
        return copies

    def join(self, parts: Parts, *, like: Tensor) -> Tensor:
        """Copy what was split, without lines of zeros, to a new stream [B, H, S, K]."""
        stream = torch.empty_like(like)
        for target, part in zip(self._parts(stream), parts, strict=True):
            target.copy_(part[-target.shape[:-2].numel() :].view(target.shape))
        return stream

    def _parts(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """View the text [B, H, T, K] and the image line by line, or by column [B, H, L, W, K]."""
        text, image = stream.split([self.text_len, self.grid_size**2], dim=2)
        grid = image.unflatten(2, (self.grid_size, self.grid_size))  # [B, H, W, W, K]
        return text, grid.transpose(2, 3) if self.is_column else grid


def _windows(mask: Tensor) -> Tensor:
    """Cut a mask [L, W, L, W] down to the lines that any query sees: [I, M]."""
    n_lines = len(mask)
    pairs = mask.any(dim=3).any(dim=1).nonzero()  # the line of a query and that of a key it sees
    n_above = int((pairs[:, 0] - pairs[:, 1]).max())

    padded = F.pad(mask, (0, 0, n_above, 0))  # [L, W, n_above + L, W]
    windows = [padded[i, :, i : i + n_above + 1].flatten(1) for i in range(n_lines)]  # [W, M] each
    return torch.cat(windows)  # [I, M]


def _bias(mask: Tensor) -> Tensor:
    """Build what hides scores that it is added to: 0 where the mask is True, -inf elsewhere."""
    return torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)


class _TextQueries:
    """Queries of the text, whose keys are the text."""

    def __init__(self, text_len: int) -> None:
        self.n_keys = text_len
        self.bias = _bias(torch.ones(text_len, text_len, dtype=torch.bool).tril())  # [T, T]

    def products(self, queries: Tensors, scores: Tensors, keys: Sequence[Parts]) -> Products:
        """Yield the only product: [G, T, K], [G, T, T] and [G, T, K] each."""
        yield queries, scores, [text for text, _ in keys]


class _ImageQueries:
    """Queries of images, whose keys are all text and then their windows."""

    def __init__(self, text_len: int, grid_size: int, windows: Tensor) -> None:
        self.text_len = text_len
        self.grid_size = grid_size
        self.n_keys = text_len + windows.shape[1]
        self.bias = _bias(windows)  # [I, M], of the last M keys

    def products(self, queries: Tensors, scores: Tensors, keys: Sequence[Parts]) -> Products:
        """Yield the product by all text, then those of each line and a line in its window.

        The latter is at first the line A lines above it, and at last itself. Where the grid has no
        such line, it is another head's or one of zeros, and the bias hides the scores.
        """
        texts = [text for text, _ in keys]  # [G, T, K] each
        whole = (len(texts[0]), self.grid_size**2, -1)
        of_text = [each.view(whole)[..., : self.text_len] for each in scores]  # [G, I, T] each
        yield [each.view(whole) for each in queries], of_text, texts  # [G, I, K] each

        n_lines, width = queries[0].shape[:2]
        for i, start in enumerate(range(self.text_len, self.n_keys, width)):
            of_line = [each[..., start : start + width] for each in scores]  # [R, W, W] each
            yield queries, of_line, [lines[i : i + n_lines] for _, lines in keys]  # [R, W, K] each


class _SparseAttention(torch.autograd.Function):
    """Attention of the text's queries, then of the images'."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: SparseAttention
    ) -> Tensor:
        parts = layout.split(query)
        keys, values = (layout.split(each, layout.n_lines_above) for each in (key, value))

        probs, averages = [], []
        for queries, part in zip(layout.queries, parts, strict=True):
            probs.append(_probabilities(queries, part, keys))
            averages.append(_averages(queries, probs[-1], values))

        ctx.layout = layout
        ctx.save_for_backward(*parts, *keys, *values, *probs)
        return layout.join(averages, like=query)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        layout, saved = ctx.layout, ctx.saved_tensors
        parts, keys, values, probs = (saved[i : i + 2] for i in range(0, len(saved), 2))
        by_query = [torch.zeros_like(part) for part in parts]

        # transposed: scores with gaps between their rows are multiplied slowly from the other side
        by_key = [part.new_zeros(part.mT.shape) for part in keys]  # [G, K, T] and [A + R, K, W]
        by_value = [part.new_zeros(part.mT.shape) for part in values]

        for i, by_output in enumerate(layout.split(gradient)):
            by_scores = _gradients_by_scores(layout.queries[i], by_output, probs[i], values=values)
            for (q, by_q, by_o), (p, by_s), (k, by_k, by_v) in layout.queries[i].products(
                [parts[i], by_query[i], by_output],
                [probs[i], by_scores],
                [keys, by_key, by_value],
            ):
                by_q.baddbmm_(by_s, k)
                by_k.baddbmm_(q.mT, by_s)
                by_v.baddbmm_(by_o.mT, p)

        for part in (*by_query, *by_key):
            part.mul_(gradient.shape[-1] ** -0.5)  # by which scores are scaled
        by_key, by_value = ([part.mT for part in parts] for parts in (by_key, by_value))
        totals = (layout.join(parts, like=gradient) for parts in (by_query, by_key, by_value))
        return *totals, None


def _probabilities(queries: Queries, part: Tensor, keys: Parts) -> Tensor:
    """Compute the probabilities [Q, N, P] of the keys of queries [Q, N, K]."""
    # in fp32: a large score that is rounded to 16 bits is wrong by several percent
    scores = torch.empty(*part.shape[:2], queries.n_keys, device=part.device)
    scaled, fp32_keys = part.float() * part.shape[-1] ** -0.5, [each.float() for each in keys]
    for (query,), (pairs,), (key,) in queries.products([scaled], [scores], [fp32_keys]):
        torch.bmm(query, key.mT, out=pairs)

    n_queries, n_biased = queries.bias.shape
    scores.view(-1, n_queries, queries.n_keys)[..., -n_biased:].add_(queries.bias)
    return torch.softmax(scores, dim=-1, out=scores).to(part.dtype)


def _averages(queries: Queries, probs: Tensor, values: Parts) -> Tensor:
    """Average the values of the keys by their probabilities [Q, N, P]: [Q, N, K]."""
    averages = probs.new_zeros(*probs.shape[:2], values[0].shape[-1])
    for (average,), (pairs,), (value,) in queries.products([averages], [probs], [values]):
        average.baddbmm_(pairs, value)
    return averages


def _gradients_by_scores(
    queries: Queries, by_average: Tensor, probs: Tensor, *, values: Parts
) -> Tensor:
    """Compute the gradients by the scores [Q, N, P] from those by the averages [Q, N, K]."""
    gradients = torch.empty_like(probs)  # first by the probabilities
    for (by_row,), (pairs,), (value,) in queries.products([by_average], [gradients], [values]):
        torch.bmm(by_row, value.mT, out=pairs)
    return torch._softmax_backward_data(gradients, probs, -1, probs.dtype, grad_input=gradients)
