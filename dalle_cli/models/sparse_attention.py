"""Attention that computes what a sparse mask allows, and next to nothing else; for CPUs, forward and backward.

An image query sees all text, and a few image slots near it: in its own line and those above it, or in its column. The
two parts are computed apart, the first by the fused kernel, and merged by their log-sum-exps. In backward the kernel
gets the merged output and log-sum-exp, which makes its part of the gradient exact. Axes used below:

    B batch    H heads    K width of a head    T text slots    W side of the grid    I = W * W    S = T + I
    L lines of the grid, or columns: W
"""

from collections.abc import Iterator
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
        return grid.transpose(1, 2).contiguous() if self.is_column else grid

    def slots(self, lines: Tensor, like: Tensor) -> Tensor:
        """Undo `lines`."""
        return (lines.transpose(1, 2) if self.is_column else lines).reshape(like.shape)


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
        near_part = _Near(*(tensor[:, :, image] for tensor in (query, key, value)), ctx.layout)
        of_near = near_part.gradients(gradient[:, :, image], output[:, :, image], *kept)
        by_query, by_key, by_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        by_query[:, :, text] = of_text[0]
        by_query[:, :, image] = of_image[0].add_(of_near[0])
        for total, by_text, by_image, near in zip(
            (by_key, by_value), of_text[1:], of_image[1:], of_near[1:], strict=True
        ):
            total[:, :, text] = by_text.add_(by_image)
            total[:, :, image] = near
        return by_query, by_key, by_value, None


class _Near:
    """The part of the near image slots, by plain products of small matrices.

    A line's queries meet the keys of one line at a time: of their own and of each above it that they reach.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, layout: SparseAttention) -> None:
        """query, key, value  [B, H, I, K]"""
        self.layout = layout
        self.scale = query.shape[-1] ** -0.5
        self.queries = layout.lines(query) * self.scale  # [B * H, L, W, K], like the next two
        self.keys, self.values = layout.lines(key), layout.lines(value)

    def merge(self, far: Tensor, far_lse: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Add this part to that of the text.

        far, far_lse  [B, H, I, K] and fp32 [B, H, I]
        returns       the same two for both parts, and what `gradients` needs: e^(score - m) [B * H, L, W, keys], with m
                      the largest score of a query, and their sum with the text's [B * H, L, W, 1]
        """
        layout = self.layout
        scores = self._scores().masked_fill_(layout.hidden, -torch.inf)
        far_lse = layout.lines(far_lse[..., None])  # [B * H, L, W, 1]
        largest = torch.maximum(scores.amax(dim=3, keepdim=True), far_lse)
        weights, far_weight = scores.sub_(largest).exp_(), (far_lse - largest).exp()
        total = weights.sum(dim=3, keepdim=True) + far_weight
        weights = weights.to(far.dtype)
        merged = layout.lines(far) * far_weight.to(far.dtype)
        for own, other, keys in self._meetings():
            merged[:, own] += weights[:, own, :, keys] @ self.values[:, other]
        lse = layout.slots(largest + total.log(), like=far[..., :1]).squeeze(-1)
        return layout.slots(merged.div_(total), like=far), lse, weights, total

    def _scores(self) -> Tensor:
        """Multiply queries by keys: fp32 [B * H, L, W, keys], with anything where there is no line so far above."""
        if self.layout.reach == 0:
            return (self.queries @ self.keys.transpose(2, 3)).float()
        n_keys = self.layout.hidden.shape[-1]
        scores = torch.empty(*self.queries.shape[:3], n_keys, device=self.queries.device)
        for own, other, keys in self._meetings():
            scores[:, own, :, keys] = self.queries[:, own] @ self.keys[:, other].transpose(2, 3)
        return scores

    def gradients(self, gradient: Tensor, merged: Tensor, weights: Tensor, total: Tensor) -> list[Tensor]:
        """Give those by queries, keys and values, [B, H, I, K] each, of a gradient by the merged output."""
        layout = self.layout
        by_output = layout.lines(gradient).float().div(total)
        dot = (by_output * layout.lines(merged)).sum(dim=3, keepdim=True)
        by_output = by_output.to(gradient.dtype)
        found: list[Tensor] = []
        for own, other, keys in self._meetings():
            met = weights[:, own, :, keys]
            by_scores = (by_output[:, own] @ self.values[:, other].transpose(2, 3)).float()
            by_scores = by_scores.sub_(dot[:, own]).mul_(met).to(gradient.dtype)
            by_queries = by_scores @ self.keys[:, other]
            by_keys = by_scores.transpose(2, 3) @ self.queries[:, own]
            by_values = met.transpose(2, 3) @ by_output[:, own]
            if not found:  # every line meets itself first
                found = [by_queries, by_keys, by_values]
                continue
            for whole, lines, part in zip(found, (own, other, other), (by_queries, by_keys, by_values), strict=True):
                whole[:, lines] += part
        found[0].mul_(self.scale)
        return [layout.slots(lines, like=gradient) for lines in found]

    def _meetings(self) -> Iterator[tuple[slice, slice, slice]]:
        """Pair lines with those so far above them: their lines, the others, and where among the keys these stand."""
        n, reach = self.layout.grid_size, self.layout.reach
        for above in range(reach + 1):
            place = (reach - above) * n
            yield slice(above, n), slice(0, n - above), slice(place, place + n)
