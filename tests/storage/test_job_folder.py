"""Jobs: a folder is begun once, gone on with by the same job, and never given to another."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.atomic import exclusive_lock
from dalle_cli.storage.job_folder import JOB_SCHEMA, JobFolder, stopwatch

JOB = {
    "command": "paint",
    "captions": ["a ring", "ein Kreis \ud800"],
    "sizes": (3, 4),
    "top": {"k": None},
}


def begin_job(folder: Path, job: dict) -> None:
    with JobFolder.open(folder).writing(job):
        pass


def recorded_job(folder: Path) -> object:
    return JobFolder.open(folder).recorded


@pytest.mark.parametrize("is_there", [False, True])
def test_folder_that_is_new_or_empty_is_begun(is_there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    if is_there:
        folder.mkdir(parents=True)
    assert recorded_job(folder) is None and folder.exists() == is_there
    begin_job(folder, JOB)
    assert [path.name for path in folder.iterdir()] == ["job.json"]
    assert recorded_job(folder) == {"schema": JOB_SCHEMA, **json.loads(json.dumps(JOB))}


def test_same_job_goes_on_and_touches_nothing(tmp_path: Path, tree: Callable) -> None:
    begin_job(tmp_path / "out", JOB)
    (tmp_path / "out" / "0000.png").write_bytes(b"done")
    before = tree(tmp_path)
    begin_job(tmp_path / "out", dict(reversed(JOB.items())))
    assert tree(tmp_path) == before


def test_folder_of_another_command_is_told_whose_it_is(tmp_path: Path) -> None:
    begin_job(tmp_path / "out", JOB)
    with pytest.raises(UsageError, match=r"out holds what `dalle paint` wrote"):
        begin_job(tmp_path / "out", {**JOB, "command": "draw", "seed": 0})


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"sizes": [3, 5]}, "sizes"), ({"seed": 0, "top": {}}, "seed, top"), ({"seed": 0}, "seed")],
)
def test_another_job_is_told_what_differs_and_touches_nothing(
    changes: dict, named: str, tmp_path: Path, tree: Callable
) -> None:
    begin_job(tmp_path / "out", JOB)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=f"belongs to another job, with other {named}"):
        begin_job(tmp_path / "out", {**JOB, **changes})
    assert tree(tmp_path) == before


def test_what_a_job_no_longer_has_makes_it_another(tmp_path: Path) -> None:
    begin_job(tmp_path / "out", {**JOB, "seed": 0})
    with pytest.raises(UsageError, match="belongs to another job, with other seed"):
        begin_job(tmp_path / "out", JOB)


def test_values_that_differ_are_shown_then_and_now(tmp_path: Path) -> None:
    begin_job(tmp_path / "out", {**JOB, "long": "x" * 500, "seed": 0})
    now = {**JOB, "captions": ["a ring", "b\x1b"], "sizes": [3], "long": "y", "seed": None}
    with pytest.raises(UsageError) as caught:
        begin_job(tmp_path / "out", now)
    lines = caught.value.message.splitlines()
    assert lines[0].endswith("with other captions, long, seed, sizes")
    assert lines[1].endswith(' then, "b\\u001b" now') and "Kreis" in lines[1]
    assert lines[2].endswith('… then, "y" now') and len(lines[2]) < 100
    assert lines[3:] == ["  seed: 0 then, none now", "  sizes: 2 of them then, 1 now"]


@pytest.mark.parametrize(
    "make", [Path.touch, lambda path: (path / "thesis").mkdir(parents=True)], ids=["file", "full"]
)
def test_what_belongs_to_someone_else_is_left_alone(
    make: Callable, tmp_path: Path, tree: Callable
) -> None:
    make(tmp_path / "out")
    before = tree(tmp_path)
    for ask in (recorded_job, lambda folder: begin_job(folder, JOB)):
        with pytest.raises(UsageError, match="already holds something"):
            ask(tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"3", b"\xff", b"[" * 100_000], ids=lambda b: repr(b)[:8]
)
def test_damaged_description_is_told(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_bytes(text)
    with pytest.raises(DalleError, match=r"job\.json is damaged") as told:
        begin_job(tmp_path, JOB)
    assert told.value.exit_code == 1 and (tmp_path / "job.json").read_bytes() == text


def test_description_that_is_a_folder_belongs_to_someone_else(tmp_path: Path) -> None:
    (tmp_path / "job.json").mkdir()
    with pytest.raises(UsageError, match="already holds something"):
        recorded_job(tmp_path)


def test_job_of_another_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"command": "paint", "decode_width": 8}')
    with pytest.raises(
        DalleError, match=r"job\.json is of format 1, but this version of dalle reads"
    ):
        JobFolder.open(tmp_path)


def test_choices_are_recalled_from_the_job_a_folder_was_begun_for(tmp_path: Path) -> None:
    fresh = JobFolder.open(tmp_path / "out")
    assert fresh.recall("sizes", 7) == 7
    assert fresh.recall_choice("precision", "auto") == "auto"
    begin_job(tmp_path / "out", {**JOB, "precision": "bf16"})
    begun = JobFolder.open(tmp_path / "out")
    assert begun.recall("sizes", 7) == [3, 4] and begun.recall("seed", 7) == 7
    assert begun.recall_choice("precision", "auto") == "bf16"
    assert begun.recall_choice("precision", "fp32") == "fp32"


def test_job_known_in_part_is_compared_by_what_is_known(tmp_path: Path) -> None:
    begin_job(tmp_path / "out", JOB)
    folder = JobFolder.open(tmp_path / "out")
    folder.check({"command": "paint", "sizes": (3, 4)})
    with pytest.raises(UsageError, match="with other sizes"):
        folder.check({"command": "paint", "sizes": (3, 5)})


def test_command_without_a_folder_recalls_nothing_and_fits_any_job() -> None:
    folder = JobFolder.open(None)
    folder.check(JOB)
    assert folder.recall("sizes", 1) == 1


def test_folder_that_another_command_has_taken_meanwhile_is_left_to_it(
    tmp_path: Path, tree: Callable
) -> None:
    """Minutes may lie between reading a folder and beginning a job in it."""
    early = JobFolder.open(tmp_path / "out")
    begin_job(tmp_path / "out", JOB)
    before = tree(tmp_path)
    with (
        pytest.raises(UsageError, match="with other sizes"),
        early.writing({**JOB, "sizes": (1, 1)}),
    ):
        pass
    assert tree(tmp_path) == before


def test_folder_is_held_before_the_job_is_written(tmp_path: Path, tree: Callable) -> None:
    """Of two jobs begun at once in an empty folder, one leaves no trace."""
    (tmp_path / "out").mkdir()
    early = JobFolder.open(tmp_path / "out")
    before = tree(tmp_path)
    with (
        exclusive_lock(tmp_path / "out"),
        pytest.raises(DalleError, match="another command is writing"),
        early.writing(JOB),
    ):
        pass
    assert tree(tmp_path) == before


def test_description_cut_short_by_a_crash_is_no_reason_to_refuse_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".job.json").write_text('{"schema"')
    begin_job(tmp_path, JOB)
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_seconds_add_up_over_starts_that_were_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [5.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for expected in (10.0, 20.0):
        with pytest.raises(KeyboardInterrupt), stopwatch(tmp_path / "seconds.json") as seconds:
            clock[0] += 10
            assert seconds() == expected
            raise KeyboardInterrupt
        clock[0] += 1000
    with stopwatch(tmp_path / "seconds.json") as seconds:
        assert seconds() == 20.0


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"seconds": "x"}', "{}"])
def test_damaged_file_counts_from_nothing(damage: str, tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text(damage)
    with stopwatch(tmp_path / "seconds.json") as seconds:
        assert seconds() < 60
