"""The folder of drawn pictures.

What is held aside is whole and keeps, and what an interruption spoils does not.
"""

import math
from pathlib import Path

import pytest
from PIL import Image

from dalle_cli.errors import DalleError
from dalle_cli.generation.output_folder import STAGED, OutputFolder
from dalle_cli.generation.pipeline import Candidate
from dalle_cli.generation.ranking import ScoredCandidate

SETTINGS = {"seed": 3, "temperature": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path, SETTINGS)


def picture(place: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (place, 0, 0))


def unranked(place: int) -> ScoredCandidate:
    return ScoredCandidate(place, Candidate("a ring", place), None)


def ranked(place: int, rank: int | None = None) -> ScoredCandidate:
    return ScoredCandidate(
        place, Candidate("a ring", place), math.pi * place, rank, "clip" if rank else None
    )


def files(folder: OutputFolder) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}


def test_candidate_is_held_by_its_place_until_it_is_released(folder: OutputFolder) -> None:
    for place in (2, 7, 8):
        folder.stage(ranked(place), picture(place))
    assert [place for place in range(10) if folder.is_staged(place)] == [2, 7, 8]
    folder.discard(range(8))
    assert [place for place in range(10) if folder.is_staged(place)] == [8]


def test_score_of_a_held_candidate_comes_back_to_the_last_bit(folder: OutputFolder) -> None:
    for place in (0, 3):
        folder.stage(ranked(place), picture(place))
    assert [folder.staged_score(place) for place in (0, 3)] == [0, 3 * math.pi]


@pytest.mark.parametrize("make", [unranked, lambda place: ranked(place, rank=1)])
def test_added_picture_is_the_one_held_and_says_what_it_is(make, folder: OutputFolder) -> None:
    folder.stage(unranked(5) if make is unranked else ranked(5), picture(5))
    folder.add(5, make(5))
    (record,) = folder.records()
    expected = {"file": "0005.png", "caption": "a ring", "number": 5, **SETTINGS}
    ranking = (
        {} if make is unranked else {"rank": 1, "score": round(5 * math.pi, 6), "ranked_by": "clip"}
    )
    assert record == expected | ranking
    with Image.open(folder.path / "0005.png") as added:
        assert added.tobytes() == picture(5).tobytes()
        assert added.text == {key: str(value) for key, value in record.items()}


def test_unranked_candidate_is_moved_and_a_ranked_one_waits_for_its_release(
    folder: OutputFolder,
) -> None:
    folder.stage(unranked(0), picture(0))
    folder.add(0, unranked(0))
    folder.stage(ranked(1), picture(1))
    folder.add(1, ranked(1, rank=1))
    assert files(folder) == {"0000.png", "0001.png", "manifest.jsonl", f"{STAGED}/000001.png"}


@pytest.mark.parametrize("make", [unranked, ranked])
def test_candidate_is_held_whole_or_not_at_all(
    make, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(path: Path, content: bytes) -> None:
        path.write_text("half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", run_out)
    with pytest.raises(DalleError, match=r"000000\.png: No space left"):
        folder.stage(make(0), picture(0))
    assert not folder.is_staged(0) and files(folder) == set()


def test_nothing_is_aside_once_everything_is_released(folder: OutputFolder) -> None:
    folder.discard_all()
    folder.stage(ranked(0), picture(0))
    folder.discard_all()
    assert not list(folder.path.iterdir())


@pytest.mark.parametrize(("group", "n_whole"), [(1, 5), (2, 4), (3, 3), (6, 0)])
def test_manifest_is_cut_back_to_whole_groups(
    group: int, n_whole: int, folder: OutputFolder
) -> None:
    for place in range(5):
        folder.stage(unranked(place), picture(place))
        folder.add(place, unranked(place))
    with (folder.path / "manifest.jsonl").open("a") as file:
        file.write('{"file": "00')
    assert folder.truncate(group) == n_whole
    assert [record["number"] for record in folder.records()] == list(range(n_whole))
