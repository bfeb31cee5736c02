"""The blur, against sums over neighbours and against scipy."""

import math

import numpy as np
import pytest
from fakes_of_pictures import random_pictures

from dalle_cli.evaluation.figures.blur import RADII, blur, blur_matrix, blur_squares

EXACT = 1e-6  # relative


def blurred_by_hand(row: list[float], radius: float) -> list[float]:
    """Weigh neighbours up to four radii away; beyond the edge the row is mirrored."""
    side, reach = len(row), int(4 * radius + 0.5)
    mirrored = [*row, *reversed(row)]
    weights = [math.exp(-(d**2) / (2 * radius**2)) for d in range(-reach, reach + 1)]
    return [
        sum(w * mirrored[(i + d) % (2 * side)] for d, w in enumerate(weights, -reach))
        / sum(weights)
        for i in range(side)
    ]


@pytest.mark.parametrize("radius", [0.5, 1, 2, 4, 8])
@pytest.mark.parametrize("side", [1, 5, 32])
def test_blur_matrix_is_a_sum_over_neighbours(side: int, radius: float) -> None:
    row = np.random.default_rng(side).random(side)
    found = blur_matrix(side, radius) @ row
    assert found.tolist() == pytest.approx(blurred_by_hand(row.tolist(), radius), rel=EXACT)


@pytest.mark.parametrize("radius", RADII[1:])
def test_blur_matches_scipy(radius: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.random.default_rng(0).random((2, 3, 24, 24))
    expected = ndimage.gaussian_filter(image, (0, 0, radius, radius), mode="reflect", truncate=4)
    np.testing.assert_allclose(blur(image, radius), expected, rtol=EXACT)


@pytest.mark.parametrize("radius", RADII)
def test_blur_keeps_the_mean_and_lowers_the_contrast(radius: int) -> None:
    image = np.random.default_rng(1).random((3, 16, 16))
    found = blur(image, radius)
    assert found.mean() == pytest.approx(image.mean(), rel=0.02)
    assert found.std() < image.std() or radius == 0


def test_pictures_are_blurred_channel_by_channel_and_rounded() -> None:
    squares = random_pictures(2, side=12)
    found = blur_squares(squares, 2)
    expected = np.rint(blur(squares[1, :, :, 2], 2))
    assert found.dtype == np.uint8 and found.shape == squares.shape
    np.testing.assert_array_equal(found[1, :, :, 2], expected)


def test_no_blur_changes_nothing() -> None:
    squares = random_pictures(1)
    assert blur_squares(squares, 0) is squares


def test_even_picture_stays_as_it_is() -> None:
    squares = np.full((1, 20, 20, 3), 200, np.uint8)
    np.testing.assert_array_equal(blur_squares(squares, 8), squares)
