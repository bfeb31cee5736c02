"""The U-Net: published sizes, blocks against restatements with loops, what reaches its output."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.unclip.unet import UNet, UNetAttention, UNetResBlock, UNetSizes

SMALL: dict[str, Any] = {
    **{"image_size": 8, "channels": 8, "multiples": (1, 2, 3), "depth": 2},
    **{"attention_sizes": (4,), "d_head": 4, "n_groups": 4, "dropout": 0.0},
}
PUBLISHED = {  # sizes; channels in and out, width of the context; parameters
    "decoder": (
        UNetSizes(64, 512, (1, 2, 3, 4), 3, (32, 16, 8), d_head=64, n_groups=32, dropout=0.1),
        (3, 6, 2048),
        2_238_164_486,
    ),
    "upsampler to 256": (
        UNetSizes(256, 320, (1, 2, 3, 4), 3, (), d_head=64, n_groups=32, dropout=0.1),
        (6, 3, None),
        729_702_083,
    ),
    "upsampler to 1024": (
        UNetSizes(1024, 192, (1, 1, 2, 2, 4, 4), 2, (), d_head=64, n_groups=32, dropout=0.0),
        (6, 3, None),
        282_059_139,
    ),
    "decoder of karlo": (
        UNetSizes(64, 320, (1, 2, 3, 4), 3, (32, 16, 8), d_head=64, n_groups=32, dropout=0.0),
        (3, 6, 1536),
        885_439_686,
    ),
}
E, S, W = 32, 5, 6  # width of the vector, context slots and their width


def randomise(module: nn.Module) -> None:
    """Nothing can hide behind zeros and ones."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)


def small_unet(**changes: Any) -> UNet:
    unet = UNet(UNetSizes(**{**SMALL, **changes}), n_in=3, n_out=6, d_context=W)
    randomise(unet)
    return unet.requires_grad_(False)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(2, 3, 8, 8, generator=generator),
        "timesteps": torch.tensor([3, 700]),
        "vector": torch.randn(2, E, generator=generator),
        "context": torch.randn(2, S, W, generator=generator),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_numbers_of_parameters(name: str) -> None:
    sizes, (n_in, n_out, d_context), count = PUBLISHED[name]
    with torch.device("meta"):
        unet = UNet(sizes, n_in=n_in, n_out=n_out, d_context=d_context)
    assert sum(parameter.numel() for parameter in unet.parameters()) == count


def attend_by_hand(layer: UNetAttention, x: Tensor, context: Tensor) -> Tensor:
    """One pixel, one head and one key at a time; rows of the matrices go head by head."""
    n_channels, width = x.shape[1], x.shape[1] // layer.n_heads
    normed = F.group_norm(x, 4, layer.norm.weight, layer.norm.bias, eps=1e-5)
    result = x.clone()
    for b in range(len(x)):
        pixels = [normed[b, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])]
        rows = [layer.query_key_value(pixel) for pixel in pixels]
        context_rows = [layer.context_key_value(slot) for slot in context[b]]
        for number, row in enumerate(rows):
            merged = torch.zeros(n_channels)
            for head in range(layer.n_heads):
                own, other = 3 * width * head, 2 * width * head
                query = row[own : own + width]
                keys = [r[other : other + width] for r in context_rows]
                keys += [r[own + width : own + 2 * width] for r in rows]
                values = [r[other + width : other + 2 * width] for r in context_rows]
                values += [r[own + 2 * width : own + 3 * width] for r in rows]
                scores = [float(query @ key) / math.sqrt(width) for key in keys]
                weights = [math.exp(score - max(scores)) for score in scores]
                for weight, value in zip(weights, values, strict=True):
                    merged[head * width : (head + 1) * width] += weight / sum(weights) * value
            i, j = divmod(number, x.shape[3])
            result[b, :, i, j] += layer.output(merged)
    return result


def test_attention_matches_an_explicit_softmax_over_context_and_pixels() -> None:
    layer = UNetAttention(8, sizes=UNetSizes(**SMALL), d_context=W)
    randomise(layer)
    layer.requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 8, 3, 3, generator=generator)
    context = torch.randn(2, S, W, generator=generator)
    torch.testing.assert_close(
        layer(x, context), attend_by_hand(layer, x, context), rtol=1e-5, atol=1e-5
    )


def convolve_by_hand(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A same-size 3x3 convolution, one pixel of the kernel at a time."""
    height, width = x.shape[2:]
    padded, result = F.pad(x, (1, 1, 1, 1)), layer.bias[None, :, None, None]
    for i in range(3):
        for j in range(3):
            part = padded[:, :, i : i + height, j : j + width]
            result = result + torch.einsum("bchw,oc->bohw", part, layer.weight[:, :, i, j])
    return result


def normalise_by_hand(x: Tensor, layer: nn.GroupNorm) -> Tensor:
    groups = x.unflatten(1, (layer.num_groups, -1)).flatten(2)
    centred = groups - groups.mean(dim=2, keepdim=True)
    scaled = centred / (groups.var(dim=2, correction=0, keepdim=True) + 1e-5).sqrt()
    return scaled.view_as(x) * layer.weight[:, None, None] + layer.bias[:, None, None]


@pytest.mark.parametrize("resampling", [None, "up", "down"])
@pytest.mark.parametrize("n_out", [8, 12])
def test_residual_block_matches_its_definition(resampling, n_out: int) -> None:
    block = UNetResBlock(8, n_out, sizes=UNetSizes(**SMALL), resampling=resampling)
    randomise(block)
    block.requires_grad_(False).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 8, 4, 4, generator=generator, dtype=torch.float64)
    vector = torch.randn(2, E, generator=generator, dtype=torch.float64)

    def resampled(y: Tensor) -> Tensor:
        if resampling == "up":
            return y.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        if resampling == "down":
            return y.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean(dim=(3, 5))
        return y

    h = normalise_by_hand(x, block.norm_1)
    h = convolve_by_hand(resampled(h * h.sigmoid()), block.conv_1)
    shifts = block.scale_shift(vector * vector.sigmoid())
    scale, shift = shifts[:, :n_out, None, None], shifts[:, n_out:, None, None]
    h = normalise_by_hand(h, block.norm_2) * (1 + scale) + shift
    h = convolve_by_hand(h * h.sigmoid(), block.conv_2)
    torch.testing.assert_close(block(x, vector, None), block.skip(resampled(x)) + h)


def test_output_starts_at_zero_and_residual_branches_at_identity(inputs) -> None:
    unet = UNet(UNetSizes(**SMALL), n_in=3, n_out=6, d_context=W)
    assert not unet(**inputs).any()
    block = unet.down[0].stages[0].block
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(block(x, inputs["vector"], None), x)
    zeros = {
        name
        for name, parameter in unet.named_parameters()
        if parameter.ndim > 1 and not parameter.any()
    }
    attention_outputs = {name for name in zeros if name.endswith("attention.output.weight")}
    assert all(
        name.endswith((".conv_2.weight", "attention.output.weight")) or name == "output.weight"
        for name in zeros
    )
    # levels 4 x 4: two stages down and three up; the middle
    assert len(attention_outputs) == 6


@pytest.mark.parametrize("name", ["x", "timesteps", "vector", "context"])
def test_output_depends_on_every_input_of_its_own_sample_alone(inputs, name: str) -> None:
    unet = small_unet()
    before = unet(**inputs)
    changed = {**inputs, name: inputs[name].clone()}
    changed[name][1] += 1
    after = unet(**changed)
    assert (after - before)[1].abs().max() > 1e-3
    torch.testing.assert_close(after[0], before[0])


def test_every_stage_on_the_way_down_is_seen_on_the_way_up(inputs) -> None:
    """As many skips are taken as there are, from the last to the first."""
    unet, seen = small_unet(), []
    for level in unet.up:
        for stage in level.stages:
            stage.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1:]))
    unet(**inputs)
    widths = [24 + 24, 24 + 24, 24 + 16, 24 + 16, 16 + 16, 16 + 8, 16 + 8, 8 + 8, 8 + 8]
    sides = [2, 2, 2, 4, 4, 4, 8, 8, 8]
    assert seen == [(c, side, side) for c, side in zip(widths, sides, strict=True)]


def test_every_parameter_has_a_gradient(inputs) -> None:
    unet = small_unet().requires_grad_(True)
    unet(**inputs).square().sum().backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_without_attention_there_is_none_in_the_middle() -> None:
    unet = UNet(UNetSizes(**{**SMALL, "attention_sizes": ()}), n_in=6, n_out=3)
    assert not [m for m in unet.modules() if isinstance(m, UNetAttention)]
    assert unet(torch.zeros(1, 6, 8, 8), torch.tensor([1])).shape == (1, 3, 8, 8)


def test_dropout_follows_from_the_given_numbers(inputs) -> None:
    unet, asked = small_unet(dropout=0.25), []

    def uniforms(number: int, shape: torch.Size) -> Tensor:
        asked.append(number)
        generator = torch.Generator().manual_seed(number)
        return torch.rand(2, *shape, generator=generator)

    first = unet(**inputs, uniforms=uniforms)
    assert sorted(asked) == list(range(len(asked))) and len(asked) == 2 * 3 + 2 + 2 + 3 * 3 + 2
    assert torch.equal(unet(**inputs, uniforms=uniforms), first)
    assert (first - unet(**inputs)).abs().max() > 1e-3
    kept = unet(**inputs, uniforms=lambda number, shape: torch.ones(2, *shape))
    assert (kept - unet(**inputs)).abs().max() > 1e-3  # what is kept is enlarged


def test_dropped_activations_are_zero_and_others_enlarged() -> None:
    block = UNetResBlock(8, 8, sizes=UNetSizes(**{**SMALL, "dropout": 0.5}))
    randomise(block)
    x, vector = torch.randn(1, 8, 4, 4), torch.randn(1, E)
    all_dropped = block(x, vector, lambda number, shape: torch.zeros(1, *shape))
    torch.testing.assert_close(all_dropped, x + block.conv_2.bias[:, None, None])
    all_kept = block(x, vector, lambda number, shape: torch.full((1, *shape), 0.5))
    bias = block.conv_2.bias[:, None, None]
    torch.testing.assert_close(
        all_kept - x - bias, 2 * (block(x, vector, None) - x - bias), rtol=1e-4, atol=1e-5
    )


def test_normalisation_is_fp32_in_half_precision() -> None:
    block = UNetResBlock(8, 8, sizes=UNetSizes(**SMALL))
    assert block.norm_1(torch.randn(1, 8, 4, 4).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 10}, "divisible by 4 for 3 levels: 10"),
        ({"d_head": 5}, "divisible by d_head: 16 by 5"),
        ({"n_groups": 3}, "num_channels"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(UNetSizes(**{**SMALL, **changes}), n_in=3, n_out=3)
