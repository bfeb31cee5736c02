"""The discrete VAE against the published sizes and the published architecture, written out."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.losses import logit_laplace_nll
from dalle_cli.models.dvae import DiscreteVAE, map_pixels, relax, unmap_pixels

BLOCK_NAMES = [f"group_{i}.block_{j}" for i in range(1, 5) for j in (1, 2)]
ENCODER_COUNTS = [238_016, 238_016, 787_840, 951_168, 3_148_544, 3_802_880, 12_588_544, 15_207_936]
DECODER_COUNTS = [
    14_489_088,
    15_207_936,
    6_163_200,
    3_802_880,
    1_541_504,
    951_168,
    385_728,
    238_016,
]


@pytest.fixture(scope="module")
def published() -> DiscreteVAE:
    with torch.device("meta"):
        return DiscreteVAE(256, 8192, n_hidden=256, n_init=128, n_groups=4, blocks_per_group=2)


@pytest.fixture
def dvae() -> DiscreteVAE:
    """A small one with random biases: nothing can hide behind zeros."""
    torch.manual_seed(0)
    dvae = DiscreteVAE(16, 12, n_hidden=8, n_init=6, n_groups=3, blocks_per_group=2)
    for parameter in dvae.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.3)
    return dvae.requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def parts(tower: nn.Module) -> dict[str, nn.Module]:
    """Submodules by their published names: what our trunks group is flat there."""
    return {name.removeprefix("trunk."): module for name, module in tower.named_modules()}


def tensors(tower: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("trunk."): tensor for name, tensor in tower.state_dict().items()}


def test_published_model_has_the_published_number_of_parameters(published: DiscreteVAE) -> None:
    assert (n_parameters(published.encoder), n_parameters(published.decoder)) == (
        53_786_240,
        43_829_766,
    )


@pytest.mark.parametrize(
    ("tower", "blocks", "first", "last"),
    [
        ("encoder", ENCODER_COUNTS, 37_888, 16_785_408),
        ("decoder", DECODER_COUNTS, 1_048_704, 1_542),
    ],
)
def test_published_blocks_have_the_published_numbers_of_parameters(
    published: DiscreteVAE, tower: str, blocks: list[int], first: int, last: int
) -> None:
    counts = {
        name: n_parameters(module) for name, module in parts(getattr(published, tower)).items()
    }
    assert [counts[name] for name in BLOCK_NAMES] == blocks
    assert (counts["input"], counts["output"]) == (first, last)


def test_published_towers_hold_74_and_76_tensors(published: DiscreteVAE) -> None:
    assert (len(published.encoder.state_dict()), len(published.decoder.state_dict())) == (74, 76)


@pytest.mark.parametrize(
    ("tower", "expected"), [("encoder", [3, 3, 3, 1]), ("decoder", [1, 3, 3, 3])]
)
def test_kernels_of_a_block_stand_in_the_published_order(
    published: DiscreteVAE, tower: str, expected: list[int]
) -> None:
    modules = parts(getattr(published, tower))
    for name in BLOCK_NAMES:
        convolutions = [part for part in modules[name].res_path if isinstance(part, nn.Conv2d)]
        assert [convolution.kernel_size[0] for convolution in convolutions] == expected


@pytest.mark.parametrize(
    ("n_groups", "blocks_per_group", "gain"), [(4, 2, 1 / 64), (3, 1, 1 / 9), (2, 3, 1 / 36)]
)
def test_residual_paths_are_added_with_the_inverse_square_of_their_number(
    n_groups: int, blocks_per_group: int, gain: float
) -> None:
    torch.manual_seed(0)
    dvae = DiscreteVAE(16, 4, 8, 4, n_groups, blocks_per_group).requires_grad_(False)
    for block in (parts(tower)["group_1.block_1"] for tower in (dvae.encoder, dvae.decoder)):
        last = block.res_path[-1]
        x = torch.randn(1, block.res_path[1].in_channels, 4, 4)
        before = block(x)
        last.bias += 1
        torch.testing.assert_close(
            block(x) - before, torch.full_like(before, gain), rtol=0, atol=1e-6
        )


def convolve(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)


def max_pool(x: Tensor) -> Tensor:
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5))


def repeat_pixels(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def tower_by_hand(tower: nn.Module, x: Tensor, resample: Callable[[Tensor], Tensor]) -> Tensor:
    """The published architecture as a list of steps, for three groups of two blocks."""
    weights = tensors(tower)
    x = convolve(weights, "input", x)
    for i in range(1, 4):
        for j in range(1, 3):
            block = f"group_{i}.block_{j}"
            residual = x
            for k in range(1, 5):
                residual = convolve(weights, f"{block}.res_path.conv_{k}", residual.relu())
            if f"{block}.id_path.weight" in weights:
                x = convolve(weights, f"{block}.id_path", x)
            x = x + residual / 36
        x = resample(x) if i < 3 else x
    return convolve(weights, "output", x.relu())


def test_encoder_equals_the_published_steps(dvae: DiscreteVAE, images: Tensor) -> None:
    expected = tower_by_hand(dvae.encoder, 0.8 * images + 0.1, max_pool)
    torch.testing.assert_close(dvae.codebook_logits(images), expected, rtol=1e-5, atol=1e-5)


def test_decoder_equals_the_published_steps_and_gives_mu_before_log_scale(
    dvae: DiscreteVAE,
) -> None:
    relaxed = torch.randn(2, 12, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    expected = tower_by_hand(dvae.decoder, relaxed, repeat_pixels)
    mu, log_scale = dvae.decode_soft(relaxed)
    torch.testing.assert_close(mu, expected[:, :3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_scale, expected[:, 3:], rtol=1e-5, atol=1e-5)


def test_pixel_maps_are_inverse_and_clamp() -> None:
    pixels = torch.linspace(0, 1, 256)
    torch.testing.assert_close(unmap_pixels(map_pixels(pixels)), pixels, rtol=0, atol=1e-6)
    torch.testing.assert_close(map_pixels(torch.tensor([0.0, 1.0])), torch.tensor([0.1, 0.9]))
    assert unmap_pixels(torch.tensor([0.0, 0.05, 0.95, 1.0])).tolist() == [0, 0, 1, 1]


def test_relaxation_is_the_softmax_of_noisy_logits_over_the_codebook() -> None:
    logits, gumbel = torch.randn(2, 2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = ((logits + gumbel) / 0.5).exp()
    torch.testing.assert_close(
        relax(logits, 0.5, gumbel), weights / weights.sum(dim=1, keepdim=True)
    )


def test_relaxation_at_a_low_temperature_is_one_hot_at_the_noisy_maximum() -> None:
    logits, gumbel = torch.randn(2, 2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    one_hot = F.one_hot((logits + gumbel).argmax(dim=1), 5).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(relax(logits, 1e-3, gumbel), one_hot)


def test_decoding_tokens_equals_decoding_their_one_hot_vectors(dvae: DiscreteVAE) -> None:
    tokens = torch.randint(12, (3, 16), generator=torch.Generator().manual_seed(0))
    one_hot = torch.zeros(3, 12, 4, 4)
    for b in range(3):
        for i in range(16):
            one_hot[b, tokens[b, i], i // 4, i % 4] = 1
    mu, _ = dvae.decode_soft(one_hot)
    expected = ((mu.sigmoid() - 0.1) / 0.8).clamp(0, 1)
    torch.testing.assert_close(dvae.decode(tokens), expected, rtol=0, atol=1e-5)


def test_reconstruction_is_the_median_whatever_the_scale(dvae: DiscreteVAE) -> None:
    tokens = torch.randint(12, (1, 16), generator=torch.Generator().manual_seed(0))
    before = dvae.decode(tokens)
    parts(dvae.decoder)["output"].weight[3:] += 1
    assert torch.equal(dvae.decode(tokens), before)


def test_image_tokens_are_the_best_entries_in_raster_order(
    dvae: DiscreteVAE, images: Tensor
) -> None:
    logits = dvae.codebook_logits(images)
    tokens = dvae.image_tokens(images)
    assert tokens.dtype == torch.int64 and len(tokens.unique()) > 1
    for b in range(2):
        for i in range(16):
            scores = logits[b, :, i // 4, i % 4].tolist()
            assert tokens[b, i] == scores.index(max(scores))


@pytest.mark.parametrize("position", [0, 1, 6, 12, 15])
def test_a_token_changes_the_picture_most_in_its_own_cell(dvae: DiscreteVAE, position: int) -> None:
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    changed = tokens.clone()
    changed[0, position] = 5
    difference = (dvae.decode(changed) - dvae.decode(tokens)).abs().sum(dim=1)
    by_cell = F.avg_pool2d(difference[:, None], 4).flatten()
    assert int(by_cell.argmax()) == position


@pytest.mark.parametrize(
    ("image_size", "n_groups", "grid_size"), [(32, 4, 4), (24, 3, 6), (16, 1, 16), (20, 3, 5)]
)
def test_every_group_but_the_last_halves_the_grid(
    image_size: int, n_groups: int, grid_size: int
) -> None:
    dvae = DiscreteVAE(image_size, 5, 4, 4, n_groups, 1).requires_grad_(False)
    tokens = dvae.image_tokens(torch.zeros(1, 3, image_size, image_size))
    assert (dvae.grid_size, tokens.shape) == (grid_size, (1, grid_size**2))
    assert dvae.decode(tokens).shape == (1, 3, image_size, image_size)


def test_weights_start_normal_with_the_published_deviation_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    dvae = DiscreteVAE(16, 256, n_hidden=32, n_init=32, n_groups=2, blocks_per_group=1)
    for convolution in (module for module in dvae.modules() if isinstance(module, nn.Conv2d)):
        _, n_in, kernel, _ = convolution.weight.shape
        relative = float(convolution.weight.detach().std()) * (n_in * kernel**2) ** 0.5
        assert relative == pytest.approx(1, abs=5 / (2 * convolution.weight.numel()) ** 0.5)
        assert float(convolution.bias.detach().abs().max()) == 0


def test_matrices_are_all_parameters_but_the_biases(dvae: DiscreteVAE) -> None:
    biases = [parameter for name, parameter in dvae.named_parameters() if name.endswith("bias")]
    split = sorted(id(parameter) for parameter in [*dvae.matrices(), *biases])
    assert split == sorted(id(parameter) for parameter in dvae.parameters())


def test_every_parameter_learns_from_the_likelihood(images: Tensor) -> None:
    torch.manual_seed(0)
    dvae = DiscreteVAE(16, 12, n_hidden=8, n_init=6, n_groups=3, blocks_per_group=2)
    gumbel = torch.zeros(2, 12, 4, 4)
    mu, log_scale = dvae.decode_soft(relax(dvae.codebook_logits(images), 1.0, gumbel))
    logit_laplace_nll(map_pixels(images), mu, log_scale).sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in dvae.parameters())


def test_picture_size_that_the_groups_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 8 for 4 groups: 36"):
        DiscreteVAE(36, 16, 8, 8, n_groups=4, blocks_per_group=1)


def test_width_that_has_no_quarter_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4: 6"):
        DiscreteVAE(32, 16, 6, 8, n_groups=2, blocks_per_group=1)


@pytest.mark.parametrize("shape", [(1, 3, 16, 15), (1, 1, 16, 16), (3, 16, 16), (1, 3, 32, 32)])
def test_pictures_of_another_shape_are_named(dvae: DiscreteVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"[B, 3, 16, 16], got {list(shape)}")):
        dvae.codebook_logits(torch.zeros(shape))
