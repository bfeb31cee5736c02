"""Nearest training pictures: planted copies are found, and the rest is compared with held-out."""

import io

import numpy as np
import pytest
from fakes_of_pictures import MemoryPictures, random_pictures
from PIL import Image

from dalle_cli.evaluation.figures import copies
from dalle_cli.evaluation.figures.copies import (
    BY_PIXELS,
    Nearest,
    closest_pictures,
    copy_figures,
    find_nearest,
)

TRAINING = random_pictures(90, seed=0)
HELD_OUT = random_pictures(200, seed=1)


def nearest_of(generated: np.ndarray, training: np.ndarray = TRAINING) -> copies.NearestPictures:
    sets = [MemoryPictures(pixels) for pixels in (generated, HELD_OUT, training)]
    counted: list[int] = []
    found = find_nearest(*sets, scorer=None, advance=lambda: counted.append(1))
    assert list(found) == [BY_PIXELS]
    assert len(counted) == len(generated) + len(HELD_OUT) + len(training)
    return found[BY_PIXELS]


@pytest.mark.parametrize("block_size", [1, 40, 1000])
def test_nearest_is_that_of_comparing_with_every_picture(
    block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "BLOCK_SIZE", block_size)
    generated = random_pictures(7, seed=2)
    found = nearest_of(generated).generated
    gaps = generated[:, None] / 255 - TRAINING[None] / 255
    squared = (gaps.astype(np.float64) ** 2).sum(axis=(2, 3, 4))
    np.testing.assert_array_equal(found.numbers, squared.argmin(axis=1))
    np.testing.assert_allclose(found.squared, squared.min(axis=1), rtol=1e-5)


def test_planted_copies_are_close_and_other_pictures_are_not() -> None:
    noise = np.random.default_rng(3).integers(-4, 5, (10, 32, 32, 3))
    copied = (TRAINING[20:30].astype(int) + noise).clip(0, 255).astype(np.uint8)
    generated = np.concatenate([copied, random_pictures(30, seed=4)])
    found = nearest_of(generated)
    assert found.generated.numbers[:10].tolist() == list(range(20, 30))
    assert found.close_share == pytest.approx(10 / 40, abs=1.5 / 40)


def test_pictures_of_the_same_kind_as_those_held_out_are_rarely_close() -> None:
    assert nearest_of(random_pictures(400, seed=5)).close_share < 0.05


def test_distances_are_in_shares_of_the_range_of_pixels() -> None:
    white, black = np.full((1, 32, 32, 3), 255, np.uint8), np.zeros((1, 32, 32, 3), np.uint8)
    figures = copy_figures({BY_PIXELS: nearest_of(white, training=black)})
    assert figures["nearest/pixel_distance"] == pytest.approx(1)
    figures = copy_figures({BY_PIXELS: nearest_of(black, training=black)})
    assert figures["nearest/pixel_distance"] == 0


def test_first_of_equally_near_pictures_stays() -> None:
    nearest = Nearest(np.zeros((1, 2)))
    nearest.see(np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([7, 8]))
    nearest.see(np.array([[5.0, 0.0]]), np.array([9]))
    assert (nearest.squared.tolist(), nearest.numbers.tolist()) == ([25], [7])


def test_closest_pictures_are_shown_beside_what_they_are_nearest_to() -> None:
    generated = np.concatenate([random_pictures(12, seed=6), TRAINING[5:6]])
    asked: list[tuple[str, int]] = []

    def read(name: str, pixels: np.ndarray, number: int) -> Image.Image:
        asked.append((name, number))
        return Image.fromarray(pixels[number])

    png = closest_pictures(
        nearest_of(generated),
        lambda number: read("generated", generated, number),
        lambda number: read("training", TRAINING, number),
    )
    assert asked[:2] == [("generated", 12), ("training", 5)] and len(asked) == 16
    with Image.open(io.BytesIO(png)) as sheet:
        assert sheet.width > 2 * 96 and sheet.height > 8 * 96
