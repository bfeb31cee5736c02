"""The folder of drawn pictures: what is held aside comes back, and what an interruption spoils does not."""

import itertools
from pathlib import Path

import pytest
from PIL import Image

from dalle_cli.drawing import Candidate
from dalle_cli.drawn_folder import HELD, DrawnFolder
from dalle_cli.reranking import Scored


def candidates(n: int) -> list[Scored]:
    return [
        Scored(Candidate("a ring", number), Image.new("RGB", (4, 4), (number, 0, 0)), 0.1 + number / 3)
        for number in range(n)
    ]


def hold(folder: DrawnFolder, drawn: list[Scored], place: int = 0) -> None:
    assert list(folder.hold(drawn, place)) == drawn


def test_candidates_held_aside_come_back_as_they_were(tmp_path: Path) -> None:
    drawn = candidates(3)
    hold(DrawnFolder(tmp_path), drawn[:2])
    back = DrawnFolder(tmp_path).held([one.candidate for one in drawn])
    assert [(one.candidate, one.score, one.picture.tobytes()) for one in back] == [
        (one.candidate, one.score, one.picture.tobytes()) for one in drawn[:2]
    ]


def test_holding_goes_on_after_what_came_back(tmp_path: Path) -> None:
    drawn = candidates(4)
    hold(DrawnFolder(tmp_path), drawn[:2])
    hold(DrawnFolder(tmp_path), drawn[2:], place=2)
    assert len(DrawnFolder(tmp_path).held([one.candidate for one in drawn])) == 4


def test_each_candidate_is_aside_before_it_is_passed_on(tmp_path: Path) -> None:
    passing = DrawnFolder(tmp_path).hold(candidates(3), 0)
    for n_held in (1, 2):
        next(passing)
        assert len((tmp_path / HELD / "manifest.jsonl").read_text().splitlines()) == n_held


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    drawn = candidates(3)
    hold(DrawnFolder(tmp_path), drawn)
    manifest = tmp_path / HELD / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    assert len(DrawnFolder(tmp_path).held([one.candidate for one in drawn])) == 2
    hold(DrawnFolder(tmp_path), drawn[2:], place=2)
    assert len(DrawnFolder(tmp_path).held([one.candidate for one in drawn])) == 3


@pytest.mark.parametrize(
    "wanted",
    [
        [],
        [Candidate("a ring", 1), Candidate("a ring", 2)],
        [Candidate("a box", 0), Candidate("a box", 1)],
    ],
)
def test_candidates_of_another_caption_do_not_come_back(wanted: list[Candidate], tmp_path: Path) -> None:
    hold(DrawnFolder(tmp_path), candidates(2))
    assert DrawnFolder(tmp_path).held(wanted) == []
    assert not (tmp_path / HELD).exists()


def test_released_candidates_are_gone(tmp_path: Path) -> None:
    folder = DrawnFolder(tmp_path)
    folder.release()
    hold(folder, candidates(2))
    folder.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("group", "n_whole"), [(1, 5), (2, 4), (3, 3), (6, 0)])
def test_manifest_is_cut_back_to_whole_groups(group: int, n_whole: int, tmp_path: Path) -> None:
    folder = DrawnFolder(tmp_path)
    for place, one in zip(itertools.count(), candidates(5)):
        folder.add(place, one, {"seed": 3})
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"file": "00')
    assert folder.cut_back(group) == n_whole
    assert [record["number"] for record in folder.records()] == list(range(n_whole))
