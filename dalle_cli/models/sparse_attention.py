"""Attention that computes little more than a sparse mask allows; for CPUs, forward and backward.

An image query sees all text, and some image slots near it: a window of its line and the lines above
it, or of its column. The two parts are computed apart, the text by the fused kernel, and merged by
their log-sum-exps. In backward the kernel is given the merged output and log-sum-exp, which makes
its part of the gradient exact. Axes used below:

    B batch    H heads    K width of a head    T text slots    W side of the grid    I = W * W
    S = T + I    L lines of the grid, or columns: W    M keys of a window
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.attention_masks import Kind, image_mask

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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

        self.hidden = ~_windows(mask)[:, None]  # [L, 1, W, M]
        self.n_lines_above = self.hidden.shape[-1] // grid_size - 1  # that a window reaches

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average values [B, H, S, K] by one softmax over the keys that each query may see.

        returns  [B, H, S, K]
        """
        return _MergedAttention.apply(query, key, value, self)

    def grid(self, image: Tensor) -> Tensor:
        """View image slots [B, H, I, K] line by line, or column by column: [L, B, H, W, K]."""
        grid = image.unflatten(2, (self.grid_size, self.grid_size))  # [B, H, W, W, K]
        return grid.permute(3, 0, 1, 2, 4) if self.is_column else grid.permute(2, 0, 1, 3, 4)

    def lines(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """Copy image slots [B, H, I, K], scaled, into that order: [L, B * H, W, K]."""
        grid = self.grid(image)  # [L, B, H, W, K]

        # contiguous, so that any span of lines is one block for a batched product
        copied = torch.mul(grid, scale, out=grid.new_empty(grid.shape))
        return copied.flatten(1, 2)  # [L, B * H, W, K]


def _windows(mask: Tensor) -> Tensor:
    """Cut a mask [L, W, L, W] down to the lines that any query sees: [L, W, M]."""
    n_lines = len(mask)
    pairs = mask.any(dim=3).any(dim=1).nonzero()  # the line of a query and that of a key it sees
    n_above = int((pairs[:, 0] - pairs[:, 1]).max())

    padded = F.pad(mask, (0, 0, n_above, 0))  # [L, W, n_above + L, W]
    windows = [padded[i, :, i : i + n_above + 1].flatten(1) for i in range(n_lines)]  # [W, M] each
    return torch.stack(windows)  # [L, W, M]


class _MergedAttention(torch.autograd.Function):
    """Text queries over text, and image queries over all text and over their windows."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: SparseAttention
    ) -> Tensor:
        text, image = slice(None, layout.text_len), slice(layout.text_len, None)
        keys, values = key[:, :, text], value[:, :, text]
        output = torch.empty_like(query)

        output[:, :, text], text_lse = _flash(query[:, :, text], keys, values, is_causal=True)
        text_average, text_average_lse = _flash(query[:, :, image], keys, values)

        windows = _WindowAttention(layout, *(each[:, :, image] for each in (query, key, value)))
        lse, probs = windows.merge(text_average, text_average_lse, out=output[:, :, image])

        ctx.layout = layout
        ctx.save_for_backward(query, key, value, output, text_lse, lse, probs)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output, text_lse, lse, probs = ctx.saved_tensors
        text, image = slice(None, ctx.layout.text_len), slice(ctx.layout.text_len, None)

        def through_text(queries: slice, lse: Tensor, *, is_causal: bool) -> Sequence[Tensor]:
            """Compute the gradients by these queries, the text keys and the text values."""
            operands = (query[:, :, queries], key[:, :, text], value[:, :, text])
            results = (output[:, :, queries], lse)
            return _flash_backward(gradient[:, :, queries], *operands, *results, 0.0, is_causal)

        of_text = through_text(text, text_lse, is_causal=True)
        of_image = through_text(image, lse, is_causal=False)

        by_query, by_key, by_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        by_query[:, :, text], by_query[:, :, image] = of_text[0], of_image[0]
        torch.add(of_text[1], of_image[1], out=by_key[:, :, text])
        torch.add(of_text[2], of_image[2], out=by_value[:, :, text])

        windows = _WindowAttention(ctx.layout, *(each[:, :, image] for each in (query, key, value)))
        totals = [each[:, :, image] for each in (by_query, by_key, by_value)]
        by_output, output = gradient[:, :, image], output[:, :, image]
        windows.add_gradients(by_output, output, probs=probs, totals=totals)
        return by_query, by_key, by_value, None


class _WindowAttention:
    """Attention of image queries over their windows, by plain products of small matrices.

    The queries of a line are multiplied by the keys of one line at a time: by those of the same
    line and of each line above it in the window.
    """

    def __init__(self, layout: SparseAttention, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Lay out the operands, [B, H, I, K] each."""
        self.layout = layout
        self.scale = query.shape[-1] ** -0.5
        self.queries = layout.lines(query, self.scale)  # [L, B * H, W, K]
        self.keys = layout.lines(key)  # [L, B * H, W, K]
        self.values = layout.lines(value)  # [L, B * H, W, K]

    def merge(self, text_output: Tensor, text_lse: Tensor, *, out: Tensor) -> tuple[Tensor, Tensor]:
        """Write the average over the windows and the text to `out` [B, H, I, K].

        text_output  the average over the text alone, [B, H, I, K]
        text_lse     its log-sum-exps, fp32 [B, H, I]
        returns      the log-sum-exps over both parts, fp32 [B, H, I], and the probabilities of the
                     windows' keys [L, B * H, W, M], which `add_gradients` needs
        """
        layout = self.layout
        scores = self._scores().masked_fill_(layout.hidden, -torch.inf)  # [L, B * H, W, M]
        text_lse = text_lse[..., None]  # [B, H, I, 1]
        lse_by_line = layout.lines(text_lse)  # [L, B * H, W, 1]

        # one softmax over both parts: the whole text is one more key, whose score is its
        # log-sum-exp
        largest = torch.maximum(scores.amax(dim=3, keepdim=True), lse_by_line)
        weights, text_weight = scores.sub_(largest).exp_(), (lse_by_line - largest).exp()
        total = weights.sum(dim=3, keepdim=True) + text_weight
        probs = weights.div_(total).to(text_output.dtype)

        average = torch.empty_like(self.values)  # [L, B * H, W, K], over the windows
        for n_above, lines, above, keys in self._line_pairs():
            part = probs[lines, ..., keys]
            _multiply(part, self.values[above], out=average[lines], is_added=n_above > 0)

        grid = layout.grid(text_output)  # [L, B, H, W, K]
        text_share = (text_weight / total).to(text_output.dtype)
        text_share = text_share.view(*grid.shape[:4], 1)  # [L, B, H, W, 1]
        torch.addcmul(average.view(grid.shape), grid, text_share, out=layout.grid(out))

        lse = torch.empty_like(text_lse)  # [B, H, I, 1]
        layout.grid(lse).copy_((largest + total.log()).view_as(text_share))
        return lse.squeeze(-1), probs

    def _scores(self) -> Tensor:
        """Multiply queries by keys: fp32 [L, B * H, W, M], arbitrary where the line is missing."""
        n_keys = self.layout.hidden.shape[-1]
        scores = torch.empty(*self.queries.shape[:3], n_keys, device=self.queries.device)
        for _, lines, above, keys in self._line_pairs():
            scores[lines, ..., keys] = self.queries[lines] @ self.keys[above].transpose(2, 3)
        return scores

    def add_gradients(
        self, gradient: Tensor, output: Tensor, *, probs: Tensor, totals: Sequence[Tensor]
    ) -> None:
        """Add the gradients that flow through the windows.

        gradient, output  [B, H, I, K]
        probs             [L, B * H, W, M], from `merge`
        totals            [B, H, I, K] each: by queries, to which this part is added, and by keys
                          and values, which have no other part and are written
        """
        layout = self.layout
        by_output = layout.lines(gradient)  # [L, B * H, W, K]

        # the softmax's derivative needs sum(probability * its gradient), which is output . gradient
        dot = layout.lines((gradient.float() * output).sum(dim=3, keepdim=True))  # [L, B * H, W, 1]

        by_query, by_key, by_value = (torch.empty_like(by_output) for _ in range(3))
        for n_above, lines, above, keys in self._line_pairs():
            part, is_added = probs[lines, ..., keys], n_above > 0
            by_scores = (by_output[lines] @ self.values[above].transpose(2, 3)).float()
            by_scores = by_scores.sub_(dot[lines]).mul_(part).to(part.dtype)

            _multiply(by_scores, self.keys[above], out=by_query[lines], is_added=is_added)
            transposed = by_scores.transpose(2, 3)
            _multiply(transposed, self.queries[lines], out=by_key[above], is_added=is_added)
            transposed = part.transpose(2, 3)
            _multiply(transposed, by_output[lines], out=by_value[above], is_added=is_added)

        of_query, of_key, of_value = (layout.grid(total) for total in totals)
        of_query.add_(by_query.view(of_query.shape), alpha=self.scale)
        of_key.copy_(by_key.view(of_key.shape))
        of_value.copy_(by_value.view(of_value.shape))

    def _line_pairs(self) -> Iterator[tuple[int, slice, slice, slice]]:
        """Yield pairs of lines and those n_above lines above them, nearest first.

        Each is (n_above, the lines of the queries, the lines of the keys, where these are among the
        M keys of a window).
        """
        n = self.layout.grid_size
        for n_above in range(self.layout.n_lines_above + 1):
            start = (self.layout.n_lines_above - n_above) * n
            yield n_above, slice(n_above, n), slice(0, n - n_above), slice(start, start + n)


def _multiply(a: Tensor, b: Tensor, *, out: Tensor, is_added: bool) -> None:
    """Write the products of matrices [lines, B * H, rows, columns] to `out`, or add them to it."""
    pairs = a.flatten(0, 1), b.flatten(0, 1)  # [lines * B * H, rows, columns] each
    out.flatten(0, 1).baddbmm_(*pairs, beta=int(is_added))
