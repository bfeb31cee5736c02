"""Attention that computes what a sparse mask allows, and next to nothing else; for CPUs, forward and backward.

An image query sees all text, and a few image slots near it: in its own line and those above it, or in its column. The
two parts are computed apart, the first by the fused kernel, and merged by their log-sum-exps. In backward the kernel
gets the merged output and log-sum-exp, which makes its part of the gradient exact. Axes used below:

    B batch    H heads    K width of a head    T text slots    W side of the grid    I = W * W    S = T + I
    L lines of the grid, or columns: W    C = B * H * L
"""

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
        mask = image_mask(kind, grid_size, kernel_size).view([grid_size] * 4)  # [line, place, line, place]
        if self.is_column:
            mask = mask.permute(1, 0, 3, 2)
        self.hidden = ~_windows_of(mask)  # [L, W, keys]
        self.reach = self.hidden.shape[-1] // grid_size - 1  # lines above a query's own

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average values [B, H, S, K] by one softmax over the keys that each query may see; returns [B, H, S, K]."""
        return _Merged.apply(query, key, value, self)

    def lines(self, image: Tensor) -> Tensor:
        """Lay image slots [B, H, I, K] out by line, or by column: [B * H, L, W, K]."""
        grid = image.reshape(-1, self.grid_size, self.grid_size, image.shape[-1])
        return grid.transpose(1, 2) if self.is_column else grid

    def slots(self, lines: Tensor, like: Tensor) -> Tensor:
        """Undo `lines`."""
        return (lines.transpose(1, 2) if self.is_column else lines).reshape(like.shape)

    def windows(self, lines: Tensor) -> Tensor:
        """Put each line's keys or values [B * H, L, W, K] together with those of the lines in reach: [C, keys, K]."""
        above = F.pad(lines, (0, 0, 0, 0, self.reach, 0))
        parts = [above[:, i : i + self.grid_size] for i in range(self.reach + 1)]
        return torch.cat(parts, dim=2).flatten(0, 1)

    def fold(self, windows: Tensor) -> Tensor:
        """Add what stands in windows [C, keys, K] for the same line: [B * H, L, W, K]."""
        n = self.grid_size
        parts = windows.view(-1, n, self.reach + 1, n, windows.shape[-1])
        lines = parts[:, :, self.reach].clone()
        for i in range(self.reach):
            lines[:, : n - self.reach + i] += parts[:, self.reach - i :, i]
        return lines


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
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: SparseAttention) -> Tensor:
        text, image = slice(None, layout.text_len), slice(layout.text_len, None)
        keys, values = key[:, :, text], value[:, :, text]
        from_text, text_lse = _flash(query[:, :, text], keys, values, is_causal=True)
        far, far_lse = _flash(query[:, :, image], keys, values)
        near = _Near(*(tensor[:, :, image] for tensor in (query, key, value)), layout)
        output = torch.empty_like(query)
        output[:, :, text] = from_text
        output[:, :, image], lse, *kept = near.merge(far, far_lse)
        ctx.layout = layout
        ctx.save_for_backward(query, key, value, output, text_lse, lse, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output, text_lse, lse, *kept = ctx.saved_tensors
        text, image = slice(None, ctx.layout.text_len), slice(ctx.layout.text_len, None)

        def by_text_keys(queries: slice, lse: Tensor, is_causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            own = (gradient[:, :, queries], query[:, :, queries], key[:, :, text], value[:, :, text])
            return _flash_backward(*own, output[:, :, queries], lse, 0.0, is_causal)

        of_text, of_image = by_text_keys(text, text_lse, True), by_text_keys(image, lse, False)
        near = _Near(*(tensor[:, :, image] for tensor in (query, key, value)), ctx.layout)
        of_near = near.gradients(gradient[:, :, image], output[:, :, image], *kept)
        found = [torch.empty_like(tensor) for tensor in (query, key, value)]
        for total, one, other, third in zip(found, of_text, of_image, of_near, strict=True):
            is_query = total is found[0]
            total[:, :, text] = one if is_query else one.add_(other)
            total[:, :, image] = third.add_(other) if is_query else third
        return *found, None


class _Near:
    """The part of the near image slots, by plain products of small matrices."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, layout: SparseAttention) -> None:
        """query, key, value  [B, H, I, K]"""
        self.layout = layout
        self.scale = query.shape[-1] ** -0.5
        self.queries = self._flat(query) * self.scale  # [C, W, K]
        self.keys = layout.windows(layout.lines(key))  # [C, keys, K]
        self.values = layout.windows(layout.lines(value))

    def merge(self, far: Tensor, far_lse: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Add this part to that of the text.

        far, far_lse  [B, H, I, K] and fp32 [B, H, I]
        returns       the same two for both parts, and what `gradients` needs: e^(score - m) [C, W, keys], with m the
                      largest score of a query, and their sum with the text's [C, W, 1]
        """
        scores = (self.queries @ self.keys.transpose(1, 2)).float()
        scores.view(-1, *self.layout.hidden.shape).masked_fill_(self.layout.hidden, -torch.inf)
        far_lse = self._flat(far_lse[..., None])  # [C, W, 1]
        largest = torch.maximum(scores.amax(dim=2, keepdim=True), far_lse)
        weights, far_weight = scores.sub_(largest).exp_(), (far_lse - largest).exp()
        total = weights.sum(dim=2, keepdim=True) + far_weight
        weights = weights.to(far.dtype)
        merged = torch.baddbmm(self._flat(far) * far_weight.to(far.dtype), weights, self.values)  # [C, W, K]
        lse = self._slots(largest + total.log(), like=far[..., :1]).squeeze(-1)
        return self._slots(merged.div_(total), like=far), lse, weights, total

    def gradients(self, gradient: Tensor, merged: Tensor, weights: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        """Give those by queries, keys and values, [B, H, I, K] each, of a gradient by the merged output."""
        by_output = self._flat(gradient).float().div(total)  # [C, W, K]
        dot = (by_output * self._flat(merged)).sum(dim=2, keepdim=True)
        by_output = by_output.to(gradient.dtype)
        by_scores = (by_output @ self.values.transpose(1, 2)).float().sub_(dot).mul_(weights).to(gradient.dtype)
        by_keys = self.layout.fold(by_scores.transpose(1, 2) @ self.queries)
        by_values = self.layout.fold(weights.transpose(1, 2) @ by_output)
        by_queries = (by_scores @ self.keys).mul_(self.scale)
        return tuple(self._slots(x, like=gradient) for x in (by_queries, by_keys, by_values))

    def _flat(self, image: Tensor) -> Tensor:
        """Lay image slots [B, H, I, N] out line by line: [C, W, N]."""
        return self.layout.lines(image).flatten(0, 1)

    def _slots(self, lines: Tensor, like: Tensor) -> Tensor:
        """Undo `_flat`, also where lines are not flattened."""
        n = self.layout.grid_size
        return self.layout.slots(lines.reshape(-1, n, n, lines.shape[-1]), like)
