"""Attention that computes what a sparse mask allows, and next to nothing else; for CPUs, forward and backward.

An image query sees all text, and a few image slots near it: in its own line and those above it, or in its column. The
two parts are computed apart, the first by the fused kernel, and merged by their log-sum-exps. In backward the kernel
gets the merged output and log-sum-exp, which makes its part of the gradient exact. Axes used below:

    B batch    H heads    K width of a head    T text slots    W side of the grid    I = W * W    S = T + I
    L lines of the grid, or columns: W
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
        mask = image_mask(kind, grid_size, kernel_size).view(
            [grid_size] * 4
        )  # [line, place, line, place]
        if self.is_column:
            mask = mask.permute(1, 0, 3, 2)
        self.hidden = ~_windows_of(mask)[:, None]  # [L, 1, W, keys]
        self.reach = self.hidden.shape[-1] // grid_size - 1  # lines above a query's own

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average values [B, H, S, K] by one softmax over the keys that each query may see; returns [B, H, S, K]."""
        return _Merged.apply(query, key, value, self)

    def grid(self, image: Tensor) -> Tensor:
        """See image slots [B, H, I, K] line by line, or column by column: [L, B, H, W, K]."""
        grid = image.unflatten(2, (self.grid_size, self.grid_size))
        return grid.permute(3, 0, 1, 2, 4) if self.is_column else grid.permute(2, 0, 1, 3, 4)

    def lines(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """Lay image slots, scaled, out in that order, so that any span of lines is one block: [L, B * H, W, K]."""
        grid = self.grid(image)
        return torch.mul(grid, scale, out=grid.new_empty(grid.shape)).flatten(1, 2)


def _windows_of(mask: Tensor) -> Tensor:
    """Cut a mask [line, place, line, place] down to the lines that any query reaches: [line, place, keys]."""
    n = len(mask)
    reaches = mask.any(dim=3).any(dim=1).nonzero()  # pairs of a query's line and a key's
    reach = int((reaches[:, 0] - reaches[:, 1]).max())
    padded = F.pad(mask, (0, 0, reach, 0))
    return torch.stack([padded[i, :, i : i + reach + 1].flatten(1) for i in range(n)])


class _Merged(torch.autograd.Function):
    """Text by itself, and image queries over all text and over what is near."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: SparseAttention
    ) -> Tensor:
        text, image = slice(None, layout.text_len), slice(layout.text_len, None)
        keys, values = key[:, :, text], value[:, :, text]
        output = torch.empty_like(query)
        output[:, :, text], text_lse = _flash(query[:, :, text], keys, values, is_causal=True)
        far = _flash(query[:, :, image], keys, values)
        near = _Near(*(tensor[:, :, image] for tensor in (query, key, value)), layout)
        lse, probs = near.merge(*far, output[:, :, image])
        ctx.layout = layout
        ctx.save_for_backward(query, key, value, output, text_lse, lse, probs)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output, text_lse, lse, probs = ctx.saved_tensors
        text, image = slice(None, ctx.layout.text_len), slice(ctx.layout.text_len, None)

        def by_text_keys(
            queries: slice, lse: Tensor, is_causal: bool
        ) -> tuple[Tensor, Tensor, Tensor]:
            own = (
                gradient[:, :, queries],
                query[:, :, queries],
                key[:, :, text],
                value[:, :, text],
            )
            return _flash_backward(*own, output[:, :, queries], lse, 0.0, is_causal)

        of_text, of_image = by_text_keys(text, text_lse, True), by_text_keys(image, lse, False)
        by_query, by_key, by_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        by_query[:, :, text], by_query[:, :, image] = of_text[0], of_image[0]
        torch.add(of_text[1], of_image[1], out=by_key[:, :, text])
        torch.add(of_text[2], of_image[2], out=by_value[:, :, text])
        near = _Near(*(tensor[:, :, image] for tensor in (query, key, value)), ctx.layout)
        totals = [tensor[:, :, image] for tensor in (by_query, by_key, by_value)]
        near.add_gradients(gradient[:, :, image], output[:, :, image], probs, totals)
        return by_query, by_key, by_value, None


class _Near:
    """The part of the near image slots, by plain products of small matrices.

    A line's queries meet the keys of one line at a time: of their own and of each above it that they reach.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, layout: SparseAttention) -> None:
        """query, key, value  [B, H, I, K]"""
        self.layout = layout
        self.scale = query.shape[-1] ** -0.5
        self.queries = layout.lines(query, self.scale)  # [L, B * H, W, K], like the next two
        self.keys, self.values = layout.lines(key), layout.lines(value)

    def merge(self, far: Tensor, far_lse: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Write the average over this part and that of the text.

        far, far_lse  the text's part [B, H, I, K] and its log-sum-exps, fp32 [B, H, I]
        output        [B, H, I, K], written
        returns       the log-sum-exps over both parts, fp32 [B, H, I], and what `add_gradients` needs: the
                      probabilities of the near keys [L, B * H, W, keys]
        """
        layout = self.layout
        scores = self._scores().masked_fill_(layout.hidden, -torch.inf)
        far_lse = far_lse[..., None]
        lse_by_line = layout.lines(far_lse)  # [L, B * H, W, 1]
        largest = torch.maximum(scores.amax(dim=3, keepdim=True), lse_by_line)
        weights, far_weight = scores.sub_(largest).exp_(), (lse_by_line - largest).exp()
        total = weights.sum(dim=3, keepdim=True) + far_weight
        probs = weights.div_(total).to(far.dtype)
        near = torch.empty_like(self.values)
        for above, own, other, keys in self._meetings():
            _multiply(probs[own, ..., keys], self.values[other], near[own], is_added=above > 0)
        grid = layout.grid(far)
        far_share = (far_weight / total).to(far.dtype).view(*grid.shape[:4], 1)
        torch.addcmul(near.view(grid.shape), grid, far_share, out=layout.grid(output))
        lse = torch.empty_like(far_lse)
        layout.grid(lse).copy_((largest + total.log()).view_as(far_share))
        return lse.squeeze(-1), probs

    def _scores(self) -> Tensor:
        """Multiply queries by keys: fp32 [L, B * H, W, keys], with anything where there is no line so far above."""
        n_keys = self.layout.hidden.shape[-1]
        scores = torch.empty(*self.queries.shape[:3], n_keys, device=self.queries.device)
        for _, own, other, keys in self._meetings():
            scores[own, ..., keys] = self.queries[own] @ self.keys[other].transpose(2, 3)
        return scores

    def add_gradients(
        self, gradient: Tensor, output: Tensor, probs: Tensor, totals: Sequence[Tensor]
    ) -> None:
        """Take this part of the gradients from that by the output.

        gradient, output  [B, H, I, K]
        totals            those by queries, which this part is added to, and by keys and values, which have none from
                          elsewhere and are written; [B, H, I, K] each
        """
        layout = self.layout
        by_output = layout.lines(gradient)
        dot = layout.lines((gradient.float() * output).sum(dim=3, keepdim=True))
        by_query, by_key, by_value = found = [torch.empty_like(by_output) for _ in range(3)]
        for above, own, other, keys in self._meetings():
            met, is_added = probs[own, ..., keys], above > 0
            by_scores = (by_output[own] @ self.values[other].transpose(2, 3)).float()
            by_scores = by_scores.sub_(dot[own]).mul_(met).to(met.dtype)
            _multiply(by_scores, self.keys[other], by_query[own], is_added)
            _multiply(by_scores.transpose(2, 3), self.queries[own], by_key[other], is_added)
            _multiply(met.transpose(2, 3), by_output[own], by_value[other], is_added)
        grids = [layout.grid(total) for total in totals]
        by_query, by_key, by_value = (lines.view(grids[0].shape) for lines in found)
        grids[0].add_(by_query, alpha=self.scale)
        grids[1].copy_(by_key)
        grids[2].copy_(by_value)

    def _meetings(self) -> Iterator[tuple[int, slice, slice, slice]]:
        """Pair lines with those so far above them, first with themselves.

        Yields how far, their lines, the others, and where among the keys these stand.
        """
        n, reach = self.layout.grid_size, self.layout.reach
        for above in range(reach + 1):
            place = (reach - above) * n
            yield above, slice(above, n), slice(0, n - above), slice(place, place + n)


def _multiply(a: Tensor, b: Tensor, out: Tensor, is_added: bool) -> None:
    """Multiply matrices of whole lines [lines, B * H, rows, columns], in place of what is in `out` or added to it."""
    out.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1), beta=int(is_added))
