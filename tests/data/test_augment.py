"""The published crops against a slow, exact restatement and their stated consequences."""

import itertools
from collections import Counter

import numpy as np
import pytest
from exact_area import area_matrix
from PIL import Image

from dalle_cli.data.augment import (
    centre_crop,
    clip_crop,
    clip_square,
    dvae_crop,
    transformer_crop,
)
from dalle_cli.data.images import ReducedImage
from dalle_cli.data.pictures.area import area_resize
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD


def whole(picture):
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return ReducedImage(image, image.size)


def listing_1(pixels, target_res, uniform):
    """Transcribe listing 1, but for rint; uniform(low, high) draws an integer below high."""
    h, w = pixels.shape[:2]
    s_min = min(h, w)
    off_w = uniform(0, w - s_min + 1)
    off_h = uniform(0, h - s_min + 1)
    pixels = pixels[off_h : off_h + s_min, off_w : off_w + s_min]
    t_min = min(s_min, round(9 / 8 * target_res))
    t_max = min(s_min, round(12 / 8 * target_res))
    t = uniform(t_min, t_max + 1)
    if t != s_min:
        matrix = area_matrix(s_min, t)
        pixels = np.einsum("ih,hwc,jw->ijc", matrix, pixels, matrix)
    top, left = uniform(0, t - target_res + 1), uniform(0, t - target_res + 1)
    pixels = np.clip(pixels, 0, 255)[top : top + target_res, left : left + target_res]
    return pixels[:, ::-1] if uniform(0, 2) else pixels


def drawn_by(rng):
    """Make listing 1 draw as `dvae_crop` does: integers, and for the flip a float below a half."""
    return lambda low, high: (
        int(rng.random() < 0.5) if (low, high) == (0, 2) else int(rng.integers(low, high))
    )


@pytest.mark.parametrize(
    "size", [(24, 24), (24, 32), (41, 27), (30, 30), (26, 90), (33, 29), (60, 47)], ids=str
)
def test_dvae_crop_is_listing_1(size):
    width, height = size
    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    for seed in range(20):
        ours = dvae_crop(whole(pixels), 24, rng=np.random.default_rng(seed))
        exact = listing_1(pixels, 24, drawn_by(np.random.default_rng(seed)))
        assert np.abs(ours - exact).max() <= 0.5 + 1e-4


@pytest.mark.thorough
def test_dvae_crop_draws_evenly_from_all_that_listing_1_allows():
    """All offsets, scales, crops and flips of a picture: none is left out, none is preferred."""
    pixels = np.zeros((12, 15, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = 17 * np.arange(15), 21 * np.arange(12)[:, None]
    allowed = Counter()
    for off_w, t in itertools.product(range(4), range(9, 13)):  # of a slack of 3; 9/8 to 12/8 of 8
        crops = list(itertools.product(range(t - 8 + 1), range(t - 8 + 1), range(2)))
        for top, left, flip in crops:
            draws = iter([off_w, 0, t, top, left, flip])
            crop = np.rint(listing_1(pixels, 8, lambda *_, draws=draws: next(draws)))
            allowed[crop.astype(np.uint8).tobytes()] += 1 / (4 * 4 * len(crops))
    rng, n_drawn = np.random.default_rng(0), 20_000
    found = Counter(dvae_crop(whole(pixels), 8, rng=rng).tobytes() for _ in range(n_drawn))
    assert_drawn_evenly(found, allowed, n_drawn)


def assert_drawn_evenly(found, allowed, n_drawn):
    assert found.keys() == allowed.keys()
    chi_square = sum(
        (found[crop] - n_drawn * p) ** 2 / (n_drawn * p) for crop, p in allowed.items()
    )
    freedom = len(allowed) - 1
    assert (
        chi_square < freedom + 5 * (2 * freedom) ** 0.5
    )  # five deviations above what chance makes of it


def listing_2(pixels, target_res, uniform):
    """Transcribe listing 2, but for rint; uniform(low, high) draws an integer below high."""
    h, w = pixels.shape[:2]
    s_min = min(h, w)
    off_w = uniform(3 * (w - s_min) // 8, max(3 * (w - s_min) // 8 + 1, 5 * (w - s_min) // 8))
    off_h = uniform(3 * (h - s_min) // 8, max(3 * (h - s_min) // 8 + 1, 5 * (h - s_min) // 8))
    pixels = pixels[off_h : off_h + s_min, off_w : off_w + s_min]
    t_max = min(s_min, round(9 / 8 * target_res))
    t = uniform(target_res, t_max + 1)
    if t != s_min:
        matrix = area_matrix(s_min, t)
        pixels = np.einsum("ih,hwc,jw->ijc", matrix, pixels, matrix)
    top, left = uniform(0, t - target_res + 1), uniform(0, t - target_res + 1)
    return np.clip(pixels, 0, 255)[top : top + target_res, left : left + target_res]


@pytest.mark.parametrize(
    "size", [(24, 24), (24, 31), (41, 27), (30, 30), (26, 90), (33, 25), (60, 47)], ids=str
)
def test_transformer_crop_is_listing_2(size):
    width, height = size
    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    for seed in range(20):
        ours = transformer_crop(whole(pixels), 24, rng=np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        exact = listing_2(pixels, 24, lambda low, high, rng=rng: int(rng.integers(low, high)))
        assert np.abs(ours - exact).max() <= 0.5 + 1e-4


def test_transformer_crop_draws_evenly_from_all_that_listing_2_allows():
    """All offsets, scales and crops of a picture: none is left out, none is preferred."""
    pixels = np.zeros((18, 34, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = 7 * np.arange(34), 7 * np.arange(18)[:, None]
    allowed = Counter()
    for off_w, t in itertools.product(
        range(6, 10), range(16, 19)
    ):  # of a slack of 16; up to 9/8 of 16
        crops = list(itertools.product(range(t - 16 + 1), repeat=2))
        for top, left in crops:
            draws = iter([off_w, 0, t, top, left])
            crop = np.rint(listing_2(pixels, 16, lambda *_, draws=draws: next(draws)))
            allowed[crop.astype(np.uint8).tobytes()] += 1 / (4 * 3 * len(crops))
    rng, n_drawn = np.random.default_rng(0), 6000
    found = Counter(transformer_crop(whole(pixels), 16, rng=rng).tobytes() for _ in range(n_drawn))
    assert_drawn_evenly(found, allowed, n_drawn)


def gradient(width, height):
    """A picture whose red channel is the column and whose green channel is the line."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("crop", [dvae_crop, transformer_crop])
@pytest.mark.parametrize("reduction", [2, 4])
@pytest.mark.parametrize("size", [(128, 96), (131, 97), (97, 130), (129, 129)], ids=str)
def test_crop_of_a_reduced_picture_shows_what_that_of_the_whole_one_does(crop, reduction, size):
    """All pixels that one of the reduced picture stands for are the same here: nothing is lost."""
    width, height = (-(-side // reduction) for side in size)
    reduced = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    blocks = reduced.repeat(reduction, axis=0).repeat(reduction, axis=1)[: size[1], : size[0]]
    for seed in range(20):
        expected, found = (
            crop(picture, 24, rng=np.random.default_rng(seed)).astype(int)
            for picture in (
                whole(blocks),
                ReducedImage(Image.fromarray(reduced), size, reduction),
            )
        )
        assert np.abs(found - expected).max() <= 1  # near the half between two


def test_dvae_crop_has_no_scale_jitter_below_nine_eighths():
    crops = [
        dvae_crop(whole(gradient(36, 36)), 32, rng=np.random.default_rng(i)) for i in range(50)
    ]
    steps = {int(abs(np.diff(crop[:, :, 0].astype(int), axis=1)).max()) for crop in crops}
    assert steps == {1}
    assert {crop[0, 0, 1] for crop in crops} == set(range(5))


def test_dvae_crop_enlarges_what_is_smaller_to_the_target_and_no_further():
    pixels = np.random.default_rng(0).integers(256, size=(17, 17, 3), dtype=np.uint8)
    enlarged = area_resize(pixels, 24)
    crops = [dvae_crop(whole(pixels), 24, rng=np.random.default_rng(i)) for i in range(20)]
    assert all(
        np.array_equal(crop, enlarged) or np.array_equal(crop, enlarged[:, ::-1]) for crop in crops
    )


def test_dvae_crop_reaches_both_ends_of_the_longer_side():
    lefts = {
        int(dvae_crop(whole(gradient(60, 32)), 32, rng=np.random.default_rng(i))[0, :, 0].min())
        for i in range(400)
    }
    assert lefts == set(range(29))


def test_transformer_crop_stays_in_the_middle_quarter_and_never_flips():
    crops = [
        transformer_crop(whole(gradient(64, 32)), 32, rng=np.random.default_rng(i))
        for i in range(200)
    ]
    assert {int(crop[0, 0, 0]) for crop in crops} == set(range(12, 20))
    assert all((np.diff(crop[0, :, 0].astype(int)) == 1).all() for crop in crops)


def test_transformer_crop_scales_to_at_most_nine_eighths():
    tops = {
        int(transformer_crop(whole(gradient(200, 200)), 32, rng=np.random.default_rng(i))[0, 0, 1])
        for i in range(300)
    }
    # the square is scaled to 32..36, so the crop starts at most 4 of 36 pixels down
    assert min(tops) < 5 and 15 < max(tops) <= 200 * 4 / 36 + 6


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (17, 17), (300, 40)])
def test_every_crop_has_the_target_size_even_where_it_must_enlarge(size):
    rng = np.random.default_rng(0)
    at_random = [
        dvae_crop(whole(gradient(*size)), 32, rng=rng),
        transformer_crop(whole(gradient(*size)), 32, rng=rng),
        clip_crop(gradient(*size), 32, rng=rng),
    ]
    for crop in (*at_random, centre_crop(gradient(*size), 32), clip_square(gradient(*size), 32)):
        assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8


@pytest.mark.parametrize("crop", [centre_crop, clip_square])
def test_crop_for_validation_is_centred(crop):
    assert crop(gradient(64, 32), 32)[0, 0].tolist() == [16, 0, 0]


@pytest.mark.parametrize(
    ("crop", "picture"),
    [
        (dvae_crop, whole(gradient(90, 70))),
        (transformer_crop, whole(gradient(90, 70))),
        (clip_crop, gradient(90, 70)),
    ],
)
def test_crops_go_by_the_generator_alone(crop, picture):
    first, again, other = (crop(picture, 32, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_clip_crop_shows_every_part_of_a_long_picture_and_nothing_beyond():
    for size, channel in (((80, 32), 0), ((32, 80), 1)):
        image = Image.merge("RGB", (*gradient(*size).split()[:2], Image.new("L", size, 255)))
        crops = [clip_crop(image, 32, rng=np.random.default_rng(i)) for i in range(300)]
        assert all(
            (crop[..., 2] == 255).all() for crop in crops
        )  # beyond its borders a picture is black
        starts = sorted(int(crop[0, 0, channel]) for crop in crops)
        assert starts[0] == 0 and max(np.diff(starts)) <= 2
        assert max(int(crop[-1, -1, channel]) for crop in crops) == 79


def test_clip_crop_scales_to_at_most_nine_eighths_and_never_flips():
    crops = [clip_crop(gradient(160, 160), 32, rng=np.random.default_rng(i)) for i in range(200)]
    shown = {
        int(crop[0, -1, 0]) - int(crop[0, 0, 0]) for crop in crops
    }  # of 160 columns, by 31 of 32 to 36 pixels
    assert (
        160 * 31 / 36 - 2
        < min(shown)
        < 160 * 31 / 35
        < 160 * 31 / 33
        < max(shown)
        < 160 * 31 / 32 + 2
    )


@pytest.mark.parametrize(
    "size",
    [(37, 53), (53, 37), (101, 40), (33, 34), (20, 31), (9, 40), (32, 32), (17, 17), (200, 35)],
    ids=str,
)
def test_clip_square_is_what_transformers_makes_of_a_picture(size):
    clip = pytest.importorskip("transformers.models.clip")
    image = Image.fromarray(
        np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    )
    process = clip.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    ours = clip_square(image, 32).transpose(2, 0, 1) / 255
    plain, normalised = (process(image, do_normalize=do)["pixel_values"][0] for do in (False, True))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1 / 255)
    mean, std = np.reshape(PIXEL_MEAN, (3, 1, 1)), np.reshape(PIXEL_STD, (3, 1, 1))
    np.testing.assert_allclose(
        (ours - mean) / std, normalised, rtol=0, atol=1 / 255 / min(PIXEL_STD)
    )


@pytest.mark.parametrize("size", [(16, 400_000), (400_000, 16)])
def test_endless_picture_is_cut_before_it_is_scaled(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    picture.paste("red", (size[0] // 2 - 8, size[1] // 2 - 8, size[0] // 2 + 8, size[1] // 2 + 8))
    square = clip_square(picture, 224)
    assert square.shape == (224, 224, 3) and (square[112, 112] == (255, 0, 0)).all()
