"""The U-Net that denoises pictures, told of its conditions by a vector and by context slots.

Dhariwal and Nichol 2021; Nichol et al. 2022 for the context. Normalisation and the residual stream
are fp32, whatever the branches compute in. Knows nothing of captions, CLIP or schedules. Axes used
below:

    B batch    C channels    h w height and width at a level    N = h w slots    E width of the
    vector    S context slots    W width of a context slot    H heads    K width of a head
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import attend
from dalle_cli.models.diffusion.time_embedding import TimeEmbedding

Resampling = Literal["up", "down"]

# from the number of a residual block and the shape [C, h, w] of its activations to numbers that are
# uniform in [0, 1), [B, C, h, w], by which dropout chooses
Uniforms = Callable[[int, torch.Size], Tensor]


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of a U-Net.

    image_size       side of what it reads; halved at every level but the last
    channels         width at the first level; `multiples` of it are the widths of the levels
    depth            residual blocks of a level on the way down; one more on the way up
    attention_sizes  sides at which each residual block is followed by attention; if there are any,
                     the middle has it as well
    d_head           channels of an attention head
    n_groups         groups of the normalisation
    dropout          share of the activations in a residual block that training leaves out
    """

    image_size: int
    channels: int
    multiples: Sequence[int]
    depth: int
    attention_sizes: Sequence[int]
    d_head: int
    n_groups: int
    dropout: float

    @property
    def d_vector(self) -> int:
        """Width of the vector that residual blocks are told of the step and the conditions."""
        return 4 * self.channels


class UNetNorm(nn.GroupNorm):
    """Group normalisation in fp32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32)))


class UNetResBlock(nn.Module):
    """Two convolutions, the second of them scaled and shifted by the vector, added to the input.

    The second convolution starts at zero. A block may halve or double the side.
    """

    def __init__(
        self, n_in: int, n_out: int, *, sizes: UNetSizes, resampling: Resampling | None = None
    ) -> None:
        super().__init__()
        self.resampling = resampling
        self.dropout = sizes.dropout
        self.number = 0  # among the residual blocks of the network

        self.norm_1 = UNetNorm(sizes.n_groups, n_in)
        self.conv_1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.scale_shift = nn.Linear(sizes.d_vector, 2 * n_out)
        self.norm_2 = UNetNorm(sizes.n_groups, n_out)
        self.conv_2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor, uniforms: Uniforms | None) -> Tensor:
        h = F.silu(self.norm_1(x))
        h, x = self._resampled(h), self._resampled(x)
        h = self.conv_1(h)

        scale, shift = self.scale_shift(F.silu(vector))[..., None, None].chunk(2, dim=1)
        h = F.silu(self.norm_2(h) * (1 + scale) + shift)
        if self.dropout and uniforms is not None:
            is_kept = uniforms(self.number, h.shape[1:]) >= self.dropout
            h = h * is_kept / (1 - self.dropout)
        return self.skip(x) + self.conv_2(h)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resampling == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")  # [B, C, 2 h, 2 w]
        if self.resampling == "down":
            return F.avg_pool2d(x, 2)  # [B, C, h / 2, w / 2]
        return x


class UNetAttention(nn.Module):
    """Attention among the pixels of a level, and to the context, added to the input.

    One softmax covers both. The output starts at zero.
    """

    def __init__(self, n_channels: int, *, sizes: UNetSizes, d_context: int | None) -> None:
        super().__init__()
        if n_channels % sizes.d_head:
            raise ValueError(
                f"channels must be divisible by d_head: {n_channels} by {sizes.d_head}"
            )
        self.n_heads = n_channels // sizes.d_head
        self.norm = UNetNorm(sizes.n_groups, n_channels)
        self.query_key_value = nn.Linear(n_channels, 3 * n_channels)
        self.context_key_value = (
            nn.Linear(d_context, 2 * n_channels) if d_context is not None else None
        )
        self.output = nn.Linear(n_channels, n_channels)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        slots = self.norm(x).flatten(2).transpose(1, 2)  # [B, N, C]
        query, key, value = self._heads(self.query_key_value(slots), 3)

        if self.context_key_value is not None:
            context_key, context_value = self._heads(self.context_key_value(context), 2)
            key = torch.cat([context_key, key], dim=2)  # [B, H, S + N, K]
            value = torch.cat([context_value, value], dim=2)  # [B, H, S + N, K]

        merged = attend(query, key, value, mask=None)  # [B, H, N, K]
        merged = self.output(merged.transpose(1, 2).flatten(2))  # [B, N, C]
        return x + merged.transpose(1, 2).unflatten(2, x.shape[2:])  # [B, C, h, w]

    def _heads(self, rows: Tensor, n_parts: int) -> tuple[Tensor, ...]:
        """Divide rows [B, N, C * n_parts], which go head by head, into [B, H, N, K] each."""
        heads = rows.unflatten(-1, (self.n_heads, n_parts, -1))  # [B, N, H, n_parts, K]
        return heads.permute(3, 0, 2, 1, 4).unbind()


class UNetStage(nn.Module):
    """A residual block and, at some levels, attention."""

    def __init__(self, block: UNetResBlock, attention: UNetAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(
        self, x: Tensor, vector: Tensor, context: Tensor | None, uniforms: Uniforms | None
    ) -> Tensor:
        x = self.block(x, vector, uniforms)
        return x if self.attention is None else self.attention(x, context)


class UNetLevel(nn.Module):
    """The stages at one size and, but for the last level, the block that leads to the next."""

    def __init__(self, stages: Sequence[UNetStage], resample: UNetResBlock | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample


class UNet(nn.Module):
    """Levels down to the smallest size, a middle, and levels up that see the outputs on the way."""

    def __init__(
        self, sizes: UNetSizes, *, n_in: int, n_out: int, d_context: int | None = None
    ) -> None:
        """Build the network.

        n_in, n_out  channels of what it reads and of what it predicts
        d_context    width of the context that its attention reads; None: it reads none

        Raises ValueError for sizes that do not divide one another.
        """
        super().__init__()
        n_levels = len(sizes.multiples)
        if sizes.image_size % 2 ** (n_levels - 1):
            raise ValueError(
                f"image_size must be divisible by {2 ** (n_levels - 1)} "
                f"for {n_levels} levels: {sizes.image_size}"
            )
        self.sizes = sizes
        self.time = TimeEmbedding(sizes.channels, sizes.d_vector)

        widths = [sizes.channels * multiple for multiple in sizes.multiples]
        build = _LevelBuilder(sizes, d_context)
        self.input = nn.Conv2d(n_in, widths[0], 3, padding=1)
        self.down = nn.ModuleList(build.down(level, widths) for level in range(n_levels))
        self.middle = nn.ModuleList(build.middle(widths[-1]))
        self.up = nn.ModuleList(build.up(level, widths) for level in reversed(range(n_levels)))
        self.norm = UNetNorm(sizes.n_groups, widths[0])
        self.output = nn.Conv2d(widths[0], n_out, 3, padding=1)

        for number, block in enumerate(self._blocks()):
            block.number = number
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise what is added to the residual stream, and the output, with zeros."""
        if self.output.weight.is_meta:
            return  # nothing to initialise, and torch would import modules for a second to do so
        last: list[nn.Conv2d | nn.Linear] = [block.conv_2 for block in self._blocks()]
        last += [attention.output for attention in self._attentions()]
        for layer in (*last, self.output):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        uniforms: Uniforms | None = None,
    ) -> Tensor:
        """Predict from noisy pictures and the step.

        x          [B, n_in, h, w]
        timesteps  int64 [B]
        vector     [B, E], conditions that are added to the embedded step; None: none
        context    [B, S, W], conditions that attention reads
        uniforms   random numbers for dropout; None: no dropout, as for sampling
        returns    [B, n_out, h, w]
        """
        embedded = self.time(timesteps)
        vector = embedded if vector is None else embedded + vector
        run = partial(_run_stage, vector=vector, context=context, uniforms=uniforms)

        x = self.input(x)
        skips = [x]
        for level in cast(Sequence[UNetLevel], self.down):
            for stage in level.stages:
                x = run(stage, x)
                skips.append(x)
            if level.resample is not None:
                x = level.resample(x, vector, uniforms)
                skips.append(x)

        for stage in self.middle:
            x = run(stage, x)

        for level in cast(Sequence[UNetLevel], self.up):
            for stage in level.stages:
                x = run(stage, torch.cat([x, skips.pop()], dim=1))
            if level.resample is not None:
                x = level.resample(x, vector, uniforms)
        return self.output(F.silu(self.norm(x)))

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the residual blocks and attentions."""
        return [*self._blocks(), *self._attentions()]

    def _blocks(self) -> list[UNetResBlock]:
        return [module for module in self.modules() if isinstance(module, UNetResBlock)]

    def _attentions(self) -> list[UNetAttention]:
        return [module for module in self.modules() if isinstance(module, UNetAttention)]


@dataclass(frozen=True)
class _LevelBuilder:
    """Builds the levels of a U-Net from the widths of all levels, each by its number."""

    sizes: UNetSizes
    d_context: int | None

    def down(self, level: int, widths: list[int]) -> UNetLevel:
        n_in, n_out = widths[max(level - 1, 0)], widths[level]
        inputs = [n_in, *[n_out] * (self.sizes.depth - 1)]
        stages = [self._stage(n, n_out, level) for n in inputs]

        is_last = level == len(widths) - 1
        return UNetLevel(stages, None if is_last else self._block(n_out, n_out, "down"))

    def middle(self, width: int) -> list[UNetStage]:
        has_attention = bool(self.sizes.attention_sizes)
        attention = self._attention(width) if has_attention else None
        first, last = self._block(width, width), self._block(width, width)
        return [UNetStage(first, attention), UNetStage(last, None)]

    def up(self, level: int, widths: list[int]) -> UNetLevel:
        n_out, depth = widths[level], self.sizes.depth
        below = widths[min(level + 1, len(widths) - 1)]

        # the last skip of a level is the output of the block that led there, of the width before
        skips = [*[n_out] * depth, widths[max(level - 1, 0)]]
        inputs = [below, *[n_out] * depth]
        stages = [self._stage(n + m, n_out, level) for n, m in zip(inputs, skips, strict=True)]
        return UNetLevel(stages, self._block(n_out, n_out, "up") if level else None)

    def _stage(self, n_in: int, n_out: int, level: int) -> UNetStage:
        side = self.sizes.image_size // 2**level
        has_attention = side in self.sizes.attention_sizes
        return UNetStage(
            self._block(n_in, n_out), self._attention(n_out) if has_attention else None
        )

    def _block(self, n_in: int, n_out: int, resampling: Resampling | None = None) -> UNetResBlock:
        return UNetResBlock(n_in, n_out, sizes=self.sizes, resampling=resampling)

    def _attention(self, width: int) -> UNetAttention:
        return UNetAttention(width, sizes=self.sizes, d_context=self.d_context)


def _run_stage(
    stage: nn.Module,
    x: Tensor,
    *,
    vector: Tensor,
    context: Tensor | None,
    uniforms: Uniforms | None,
) -> Tensor:
    return stage(x, vector, context, uniforms)
