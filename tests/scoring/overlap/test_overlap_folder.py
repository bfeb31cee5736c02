"""The sheet of an overlap shows the pairs by which a threshold can be judged."""

import pytest

from dalle_cli.scoring.overlap.copy_search import Overlap, PicturePair
from dalle_cli.scoring.overlap.overlap_folder import pairs_about_threshold


@pytest.mark.parametrize(
    ("n_copies", "n_pairs", "first", "n_shown"),
    [
        (0, 10, 0, 10),  # all fit
        (5, 200, 0, 64),  # the nearest, with few copies
        (100, 200, 68, 64),  # 32 on either side of the threshold
        (190, 200, 136, 64),  # there are few beyond it
        (200, 200, 136, 64),
    ],
)
def test_pairs_on_both_sides_of_the_threshold_are_shown(
    n_copies: int, n_pairs: int, first: int, n_shown: int
) -> None:
    pairs = [PicturePair(float(i), i, i) for i in range(n_pairs)]
    overlap = Overlap(pairs, threshold=n_copies - 0.5)
    assert pairs_about_threshold(overlap) == pairs[first : first + n_shown]
