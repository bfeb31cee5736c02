"""`metrics.jsonl`: what is written is read, and what a crash or a stranger left does no harm."""

import json
import math
from pathlib import Path

import pytest

from dalle_cli.errors import DalleError
from dalle_cli.storage.metrics_file import (
    append_report,
    cut_reports,
    last_held_out,
    read_reports,
)


def write(path: Path, n_steps: int) -> Path:
    for step in range(1, n_steps + 1):
        append_report(path, step, {"train/loss": 1.0 / step})
        append_report(path, step, {"valid/loss": 2.0 / step, "valid/psnr": 20.0 + step})
    return path


def test_reports_come_back_in_order_with_their_steps(tmp_path: Path) -> None:
    reports = read_reports(write(tmp_path / "run" / "metrics.jsonl", 2))
    assert reports == [
        {"step": 1, "train/loss": 1.0},
        {"step": 1, "valid/loss": 2.0, "valid/psnr": 21.0},
        {"step": 2, "train/loss": 0.5},
        {"step": 2, "valid/loss": 1.0, "valid/psnr": 22.0},
    ]


def test_a_figure_that_is_not_finite_is_null_in_the_file_and_no_number_when_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    append_report(path, 1, {"train/loss": math.nan, "train/lr": 0.5})
    assert json.loads(path.read_text()) == {"step": 1, "train/loss": None, "train/lr": 0.5}
    assert read_reports(path) == [{"step": 1, "train/lr": 0.5}]


@pytest.mark.parametrize(
    "line", ['{"step": 2, "tr', "{}", "null", "[1]", "\0", '{"step": "x"}', "[" * 100_000, ""]
)
def test_lines_that_are_none_are_passed_over(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", 1)
    before = read_reports(path)
    with path.open("a") as file:
        file.write(line + "\n")
    assert read_reports(path) == before
    cut_reports(path, 1)
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_is_not_there_has_no_reports_and_is_not_made(tmp_path: Path) -> None:
    cut_reports(tmp_path / "metrics.jsonl", 3)
    assert read_reports(tmp_path / "metrics.jsonl") == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("up_to", "step"), [(math.inf, 5), (3, 3), (0, None)])
def test_last_held_out_figures_up_to_a_step(up_to: float, step: int | None, tmp_path: Path) -> None:
    found, figures = last_held_out(read_reports(write(tmp_path / "metrics.jsonl", 5)), up_to)
    assert found == step
    assert figures == ({} if step is None else {"loss": 2.0 / step, "psnr": 20.0 + step})


@pytest.mark.parametrize(
    "line", ["[" * 100_000, f'{{"step": {10**400}}}', '{"step": 1e999}', "\xff\xfe", "1", "null"]
)
def test_line_that_is_no_report_is_none(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", 2)
    whole = read_reports(path)
    with path.open("a", encoding="latin-1") as file:
        file.write(f"{line}\n")
    assert read_reports(path) == whole
    cut_reports(path, 2)
    assert read_reports(path) == whole and len(path.read_text().splitlines()) == len(whole)


def test_reports_in_a_file_without_an_end_are_none(tmp_path: Path, hang_guard: None) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/zero")
    assert read_reports(path) == []
    with pytest.raises(DalleError, match=r"cannot read .*metrics\.jsonl: not a regular file"):
        cut_reports(path, 2)
