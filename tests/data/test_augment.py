"""The published crops against a slow, exact restatement and their stated consequences."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dalle_cli.data.augment import area_resize, centre_crop, dvae_crop, transformer_crop


def area_by_hand(row, n_out):
    """Average with exact fractions: window i covers [i*s, (i+1)*s], beyond the end the last value goes on."""
    n_in = len(row)
    scale = Fraction(n_in - 1, n_out - 1)
    means = []
    for i in range(n_out):
        start, end = i * scale, (i + 1) * scale
        total = Fraction(0)
        pixel = int(start)
        while pixel < end:
            covered = min(end, Fraction(pixel + 1)) - max(start, Fraction(pixel))
            total += covered * int(row[min(pixel, n_in - 1)])
            pixel += 1
        means.append(total / scale)
    return means


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 3), (10, 9), (16, 8), (5, 8), (33, 32)])
def test_area_resize_matches_exact_fractions(n_in, n_out):
    rng = np.random.default_rng(n_in)
    across, down = rng.integers(256, size=(2, n_in))
    wide = np.broadcast_to(across[None, :, None], (n_in, n_in, 3)).astype(np.uint8)
    tall = np.broadcast_to(down[:, None, None], (n_in, n_in, 3)).astype(np.uint8)
    for resized, exact in (
        (area_resize(wide, n_out)[0, :, 1], area_by_hand(across, n_out)),
        (area_resize(tall, n_out)[:, 0, 2], area_by_hand(down, n_out)),
    ):
        # the nearest integer; which one, where an exact half lies between two, is a matter of the last bit
        assert max(abs(int(r) - e) for r, e in zip(resized, exact, strict=True)) <= 0.5 + 1e-9


def gradient(width, height):
    """A picture whose red channel is the column and whose green channel is the line."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return Image.fromarray(pixels)


def test_dvae_crop_has_no_scale_jitter_below_nine_eighths():
    crops = [dvae_crop(gradient(36, 36), 32, np.random.default_rng(i)) for i in range(50)]
    steps = {int(abs(np.diff(crop[:, :, 0].astype(int), axis=1)).max()) for crop in crops}
    assert steps == {1}
    assert {crop[0, 0, 1] for crop in crops} == set(range(5))


def test_dvae_crop_flips_half_of_the_pictures():
    crops = [dvae_crop(gradient(32, 32), 32, np.random.default_rng(i)) for i in range(400)]
    flipped = sum(int(crop[0, 0, 0]) > int(crop[0, -1, 0]) for crop in crops)
    assert 160 < flipped < 240


def test_dvae_crop_reaches_both_ends_of_the_longer_side():
    lefts = {int(dvae_crop(gradient(60, 32), 32, np.random.default_rng(i))[0, :, 0].min()) for i in range(400)}
    assert lefts == set(range(29))


def test_transformer_crop_stays_in_the_middle_quarter_and_never_flips():
    crops = [transformer_crop(gradient(64, 32), 32, np.random.default_rng(i)) for i in range(200)]
    assert {int(crop[0, 0, 0]) for crop in crops} == set(range(12, 20))
    assert all((np.diff(crop[0, :, 0].astype(int)) == 1).all() for crop in crops)


def test_transformer_crop_scales_to_at_most_nine_eighths():
    tops = {int(transformer_crop(gradient(200, 200), 32, np.random.default_rng(i))[0, 0, 1]) for i in range(300)}
    # the square is scaled to 32..36, so the crop starts at most 4 of 36 pixels down
    assert min(tops) < 5 and 15 < max(tops) <= 200 * 4 / 36 + 6


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (17, 17), (300, 40)])
def test_every_crop_has_the_target_size_even_where_it_must_enlarge(size):
    rng = np.random.default_rng(0)
    for crop in (dvae_crop(gradient(*size), 32, rng), transformer_crop(gradient(*size), 32, rng)):
        assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8
    assert centre_crop(gradient(*size), 32).shape == (32, 32, 3)


def test_centre_crop_is_centred():
    assert centre_crop(gradient(64, 32), 32)[0, 0].tolist() == [16, 0, 0]
