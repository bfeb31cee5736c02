"""Pictures ranked by their scores: what happens to those that cannot be read."""

import pytest

from dalle_cli.errors import DalleError
from dalle_cli.scoring.picture_ranking import PictureScore, check_all_read

GOOD = PictureScore("a ring", 1, 0.5, "good.png")
BAD = PictureScore("a ring", None, None, "bad.png", problem="empty picture file")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([BAD], "the picture could not be read"),
        ([BAD, BAD], "none of 2 pictures could be read"),
        ([GOOD, BAD], "1 of 2 pictures could not be read; the other is ranked"),
        ([GOOD, BAD, GOOD], "1 of 3 pictures could not be read; the others are ranked"),
        ([BAD, GOOD, BAD], "2 of 3 pictures could not be read; the other is ranked"),
    ],
)
def test_every_unreadable_picture_fails_the_ranking(
    scores: list[PictureScore], message: str
) -> None:
    with pytest.raises(DalleError) as caught:
        check_all_read(scores)
    assert caught.value.message == message


def test_readable_pictures_pass() -> None:
    check_all_read([GOOD, GOOD])
