"""Preprocessing: captions drawn, dropped, tokenised and padded as the recipe says."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import SIDE, MemorySource, pair_preprocessing, png
from PIL import Image

from dalle_cli.data.augment import centre_crop, clip_square, dvae_crop, transformer_crop
from dalle_cli.data.images import ReducedImage, decode_image
from dalle_cli.data.preprocessing import (
    ClipPreprocessing,
    DVAEPreprocessing,
    EncodingPreprocessing,
    Preprocessing,
    pad_tokens,
)
from dalle_cli.data.shuffling import derive_seed
from dalle_cli.data.sources import Sample

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos-raw-tiny" / "pairs"


def clip_preprocessing(text_len: int = 12, bpe_dropout: float = 0.0) -> ClipPreprocessing:
    return ClipPreprocessing(
        SIDE, text_len, tokenizer=pair_preprocessing().tokenizer, bpe_dropout=bpe_dropout
    )


with_captions = pytest.mark.parametrize("make", [pair_preprocessing, clip_preprocessing])


def test_captions_are_dropped_as_often_as_the_recipe_says() -> None:
    share, n = 0.25, 1200
    preprocess = pair_preprocessing(caption_dropout=share)
    sample = MemorySource().read(3)
    examples = [preprocess(sample, seed) for seed in range(n)]
    dropped = [example for example in examples if example.caption == ""]
    assert abs(len(dropped) / n - share) < 5 * (share * (1 - share) / n) ** 0.5
    assert all((example.text_tokens == -1).all() and not example.is_cut for example in dropped)


@with_captions
def test_captions_of_a_sample_are_chosen_about_equally_often(make: Callable) -> None:
    sample, n = MemorySource().read(3), 600
    counts = Counter(make()(sample, seed).caption for seed in range(n))
    assert set(counts) == set(sample.captions)
    assert abs(counts["3 first"] / n - 0.5) < 5 * (0.25 / n) ** 0.5


@with_captions
def test_bpe_dropout_tokenizes_one_caption_in_several_ways(make: Callable) -> None:
    preprocess = make(text_len=16, bpe_dropout=0.5)
    sample = Sample("key", png(0), ["first fits"])
    ways = {tuple(preprocess(sample, seed).text_tokens.tolist()) for seed in range(50)}
    assert len(ways) > 3
    n_pieces = preprocess.tokenizer.vocab_size
    own = [
        [token for token in way if 0 < token < n_pieces] for way in ways
    ]  # without padding, start and end
    assert {preprocess.tokenizer.decode(tokens) for tokens in own} == {"first fits"}


@pytest.mark.parametrize(
    ("caption", "is_cut"), [("abcdef", False), ("abcdefg", True), ("abcdefghijk", True)]
)
@pytest.mark.parametrize("seed", [None, 0])
def test_captions_with_more_tokens_than_room_are_cut_and_flagged(
    caption: str, is_cut: bool, seed: int | None
) -> None:
    preprocess = pair_preprocessing(text_len=8)
    example = preprocess(Sample("key", png(0), [caption]), seed)
    tokens = preprocess.tokenizer.encode(caption)
    assert example.is_cut == is_cut == (len(tokens) > 7)
    assert example.text_tokens.tolist() == [*tokens[:7], -1]


@pytest.mark.parametrize(
    ("caption", "is_cut"), [("abcde", False), ("abcdef", True), ("abcdefghijk", True)]
)
@pytest.mark.parametrize("seed", [None, 0])
def test_clip_reads_as_much_of_a_caption_as_fits_between_start_and_end(
    caption: str, is_cut: bool, seed: int | None
) -> None:
    preprocess = clip_preprocessing(text_len=8)
    example = preprocess(Sample("key", png(0), [caption]), seed)
    tokens, start = preprocess.tokenizer.encode(caption), preprocess.tokenizer.vocab_size
    assert example.is_cut == is_cut == (len(tokens) > 6) and example.caption == caption
    assert example.text_tokens.tolist() == [start, *tokens[:6], start + 1]


def test_clip_pads_a_short_caption_with_zeros() -> None:
    preprocess = clip_preprocessing(text_len=8)
    example = preprocess(Sample("key", png(0), ["ab"]), None)
    start = preprocess.tokenizer.vocab_size
    assert example.text_tokens.tolist() == [
        start,
        *preprocess.tokenizer.encode("ab"),
        start + 1,
        0,
        0,
        0,
    ]
    assert example.text_tokens.dtype == np.int64 and not example.is_cut


def test_clip_validates_on_the_first_caption_and_the_middle_and_trains_on_any() -> None:
    preprocess, sample = clip_preprocessing(bpe_dropout=0.5), MemorySource().read(3)
    fixed, again = preprocess(sample, None), preprocess(sample, None)
    assert (
        fixed.caption == sample.captions[0]
        and fixed.text_tokens.tolist() == again.text_tokens.tolist()
    )
    assert np.array_equal(fixed.pixels, clip_square(decode_image(sample.image), SIDE))
    assert len({preprocess(sample, seed).pixels.tobytes() for seed in range(20)}) > 5


def test_tokens_of_the_centred_crop_validate_and_those_of_the_others_train_equally_often() -> None:
    preprocess, n, crops = pair_preprocessing(), 600, np.arange(20).reshape(4, 5)
    sample = Sample("key", b"", ["first"], crops)
    assert preprocess(sample, None).image_tokens.tolist() == crops[0].tolist()
    counts = Counter(preprocess(sample, seed).image_tokens[0] // 5 for seed in range(n))
    assert set(counts) == {1, 2, 3}
    assert all(abs(count / n - 1 / 3) < 5 * (2 / 9 / n) ** 0.5 for count in counts.values())


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_text_is_the_same_whether_the_picture_comes_as_tokens_or_not(seed: int | None) -> None:
    preprocess = pair_preprocessing(caption_dropout=0.3, bpe_dropout=0.5)
    picture = MemorySource().read(3)
    left = preprocess(picture, seed)
    right = preprocess(
        Sample(picture.key, b"", picture.captions, np.zeros((3, 4), np.uint16)), seed
    )
    assert left.caption == right.caption and left.text_tokens.tolist() == right.text_tokens.tolist()
    assert left.image_tokens is None and right.pixels.size == 0


def test_crops_to_encode_are_the_centred_one_and_then_those_that_training_cuts() -> None:
    sample, pair = MemorySource().read(3), pair_preprocessing()
    crops = EncodingPreprocessing(SIDE, copies=9)(sample, 7)
    expected = [pair(sample, None), *(pair(sample, derive_seed(7, copy)) for copy in range(9))]
    assert crops.dtype == np.uint8 and np.array_equal(
        crops, np.stack([example.pixels for example in expected])
    )
    assert len({crop.tobytes() for crop in crops}) > 3


def test_padding_keeps_the_last_slot_free() -> None:
    assert pad_tokens([], 3).tolist() == [-1, -1, -1]
    assert pad_tokens([5, 6], 3).tolist() == pad_tokens([5, 6, 7, 8], 3).tolist() == [5, 6, -1]
    assert pad_tokens([5], 3).dtype == np.int64


@pytest.mark.parametrize(
    "preprocess",
    [
        DVAEPreprocessing(20),
        replace(pair_preprocessing(), image_size=20),
        replace(clip_preprocessing(), image_size=20),
    ],
    ids=lambda preprocess: type(preprocess).__name__,
)
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(
    ("size", "is_enlarged"), [((19, 40), True), ((40, 19), True), ((20, 20), False)]
)
def test_pictures_smaller_than_the_model_takes_are_flagged(
    preprocess: Preprocessing, seed: int | None, size: tuple[int, int], is_enlarged: bool
) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    assert preprocess(Sample("key", file.getvalue(), ["caption"]), seed).is_enlarged == is_enlarged


def photograph(width: int, height: int) -> bytes:
    """A JPEG of an edge, a ramp and a texture that fades with its fineness."""
    rng = np.random.default_rng(0)
    x, y = np.arange(width), np.arange(height)[:, None]
    pixels = np.zeros((height, width, 3)) + (40 * (x + y > width) + 60 * y / height)[..., None]
    for cells in (4, 8, 16, 32, 64, 128):
        noise = Image.fromarray(
            rng.normal(size=(cells, cells)).astype(np.float32) * 60 / cells**0.8
        )
        pixels += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    file = io.BytesIO()
    Image.fromarray((pixels + 70).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def crops_and_whole_crops(data: bytes, size: int, n: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield what training sees of a JPEG, and what the listings make of all its pixels."""
    image, sample = decode_image(data), Sample("key", data, ["caption"])
    picture = ReducedImage(image, image.size)
    for preprocess, crop in (
        (DVAEPreprocessing(size), dvae_crop),
        (replace(pair_preprocessing(), image_size=size), transformer_crop),
    ):
        for seed in range(n):
            rng = np.random.default_rng(derive_seed(seed, "crop"))
            found, expected = preprocess(sample, seed).pixels, crop(picture, size, rng=rng)
            yield found.astype(int), expected.astype(int)


@pytest.mark.parametrize("size", [(400, 300), (301, 407)], ids=str)
def test_jpeg_that_is_not_reduced_is_cropped_as_the_listings_do(size: tuple[int, int]) -> None:
    for found, expected in crops_and_whole_crops(photograph(*size), 256, n=2):
        assert np.array_equal(found, expected)


def assert_crops_are_near(data: bytes, size: int, n: int) -> None:
    """The bound that docs/data.md states, in levels of 0 to 255."""
    for found, expected in crops_and_whole_crops(data, size, n):
        difference = np.abs(found - expected)
        assert difference.mean() < 6 and np.percentile(difference, 99) < 50


@pytest.mark.parametrize("size", [(400, 300), (301, 407), (800, 603)], ids=str)
def test_crops_of_large_jpegs_are_near_those_of_the_listings(size: tuple[int, int]) -> None:
    data = photograph(*size)
    assert_crops_are_near(data, 64, n=4)
    assert any(
        not np.array_equal(found, expected)
        for found, expected in crops_and_whole_crops(data, 64, n=1)
    )


@pytest.mark.thorough
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_crops_of_photographs_are_near_those_of_the_listings(size: int) -> None:
    files = sorted(PHOTOS.glob("*.jpg"))
    assert len(files) == 32
    for file in files:
        assert_crops_are_near(file.read_bytes(), size, n=2)


def test_crops_to_encode_of_a_large_jpeg_are_those_that_training_and_validation_see() -> None:
    data, size = photograph(400, 300), 64
    pair = replace(pair_preprocessing(), image_size=size)
    crops = EncodingPreprocessing(size, copies=3)(Sample("key", data, ["caption"]), 7)
    expected = [pair(Sample("key", data, ["a"]), derive_seed(7, copy)) for copy in range(3)]
    assert np.array_equal(crops[0], centre_crop(decode_image(data), size))
    assert np.array_equal(crops[1:], np.stack([example.pixels for example in expected]))
