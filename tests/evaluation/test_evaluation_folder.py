"""The folder of an evaluation: parts are measured once, and a folder is found by its job."""

import json
from pathlib import Path

import pytest

from dalle_cli.errors import DalleError
from dalle_cli.evaluation.evaluation_folder import (
    Evaluation,
    EvaluationFolder,
    Part,
    find_evaluation_folder,
    latest_evaluation,
    read_evaluation,
)
from dalle_cli.storage.job_folder import JobFolder

JOB = {"command": "evaluate", "model": "abc", "pairs": 3}
EVALUATION = Evaluation(
    run="birds",
    kind="dvae",
    protocol={"pairs": 3},
    figures={"psnr": 21.123456789012345},
    warnings=["few"],
)


def begin(run: Path, job: dict) -> Path:
    path = find_evaluation_folder(run, job)
    with JobFolder.open(path).writing(job):
        return path


def test_part_is_measured_once_and_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    folder, measured = EvaluationFolder(tmp_path), []

    def measure() -> Part:
        measured.append(1)
        return Part({"a/b": 0.1 + 0.2}, {"n": 3, "radii": [1, 2]}, ["little"])

    first = folder.measured("clip", {"clip": "x", "sizes": (1, 2)}, measure)
    assert folder.measured("clip", {"clip": "x", "sizes": (1, 2)}, measure) == first
    assert len(measured) == 1
    folder.measured("clip", {"clip": "another", "sizes": (1, 2)}, measure)
    assert len(measured) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"key": {}}', '{"key": {}, "figures": '])
def test_part_that_is_damaged_is_measured_again(content: str, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "clip.json").write_text(content)
    part = EvaluationFolder(tmp_path).measured("clip", {}, lambda: Part({"a": 1.0}))
    assert part.figures == {"a": 1.0}


def test_same_evaluation_is_found_again_and_another_begins_a_folder(tmp_path: Path) -> None:
    first = begin(tmp_path, JOB)
    assert first == tmp_path / "evaluations" / "000"
    assert begin(tmp_path, JOB) == first
    second = begin(tmp_path, {**JOB, "model": "trained further"})
    assert second == tmp_path / "evaluations" / "001"
    assert begin(tmp_path, JOB) == first


def test_folder_that_a_killed_command_left_empty_is_taken(tmp_path: Path) -> None:
    assert find_evaluation_folder(tmp_path, JOB) == find_evaluation_folder(tmp_path, JOB)


def test_folders_of_others_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "evaluations" / "7").mkdir(parents=True)
    (tmp_path / "evaluations" / "7" / "holiday.jpg").touch()
    (tmp_path / "evaluations" / "notes").mkdir()
    assert begin(tmp_path, JOB).name == "008"


def test_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    EvaluationFolder(tmp_path).write(EVALUATION)
    assert read_evaluation(tmp_path / "evaluation.json") == EVALUATION
    assert json.loads((tmp_path / "evaluation.json").read_text())["schema"] == 1


def test_changed_evaluation_is_refused(tmp_path: Path) -> None:
    EvaluationFolder(tmp_path).write(EVALUATION)
    file = tmp_path / "evaluation.json"
    file.write_text(file.read_text().replace("21.1", "31.1"))
    with pytest.raises(DalleError, match="does not match its checksum"):
        read_evaluation(file)


def test_latest_evaluation_is_the_newest_that_can_be_read(tmp_path: Path) -> None:
    assert latest_evaluation(tmp_path) is None
    for number in range(3):
        path = begin(tmp_path, {**JOB, "pairs": number})
        if number < 2:
            EvaluationFolder(path).write(EVALUATION.model_copy(update={"run": str(number)}))
    found = latest_evaluation(tmp_path)
    assert found is not None and found.run == "1"
    (tmp_path / "evaluations" / "001" / "evaluation.json").write_text("{}")
    found = latest_evaluation(tmp_path)
    assert found is not None and found.run == "0"
