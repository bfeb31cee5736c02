"""The metric log: means between reports, lines that programs read, and a tail to cut back."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from dalle_cli.training.metric_log import MetricLog


def make_log(
    path: Path, report_every: int = 3
) -> tuple[MetricLog, list[tuple[int, dict[str, float]]]]:
    seen: list[tuple[int, dict[str, float]]] = []
    return MetricLog(
        path,
        report_every,
        rates=rates,
        on_report=lambda done, figures: seen.append((done, figures)),
    ), seen


def rates(updates_per_second: float) -> dict[str, float]:
    return {"train/images_per_second": 4 * updates_per_second}


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_report_is_the_mean_of_the_updates_since_the_last_one(tmp_path: Path) -> None:
    log, seen = make_log(tmp_path / "metrics.jsonl")
    for done in range(1, 8):
        log.record(done, {"train/loss": torch.tensor(float(done)), "train/lr": done / 8})
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6]
    assert [line["train/loss"] for line in lines] == [2.0, 5.0]
    assert [line["train/lr"] for line in lines] == [0.25, 0.625]
    assert [(done, {"step": done, **figures}) for done, figures in seen] == [
        (line["step"], line) for line in lines
    ]


def test_figure_that_earlier_updates_lack_is_the_mean_of_the_others(tmp_path: Path) -> None:
    """A run stopped between two reports may go on in fp16, which has figures of its own."""
    log, _ = make_log(tmp_path / "metrics.jsonl")
    log.restore([{"train/loss": 1.0}], 1)
    log.record(2, {"train/loss": 3.0, "grad_scale/min": 8.0})
    log.record(3, {"train/loss": 5.0, "grad_scale/min": 16.0})
    (line,) = lines_of(tmp_path / "metrics.jsonl")
    assert (line["train/loss"], line["grad_scale/min"]) == (3.0, 12.0)


def test_pauses_are_left_out_of_the_throughput(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    log, _ = make_log(tmp_path / "metrics.jsonl", report_every=2)
    for done in (1, 2):
        clock[0] += 2
        log.record(done, {"train/loss": 0.0})
        with log.paused():
            clock[0] += 1000
    for done in (3, 4):
        clock[0] += 1
        log.record(done, {"train/loss": 0.0})
    rates = [line["train/images_per_second"] for line in lines_of(tmp_path / "metrics.jsonl")]
    assert rates == [4 * 2 / 4, 4 * 2 / 2]


def test_seconds_add_up_over_the_starts_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for start in range(2):
        log, _ = make_log(tmp_path / "metrics.jsonl", report_every=2)
        log.restore([], 2 * start)
        for done in (1, 2):
            clock[0] += 10
            log.record(2 * start + done, {"train/loss": 0.0})
        clock[0] += 1000
    assert [line["train/seconds"] for line in lines_of(tmp_path / "metrics.jsonl")] == [20, 40]


def test_every_update_is_told_once_by_a_report_or_alone(tmp_path: Path) -> None:
    told: list[int] = []
    log = MetricLog(
        None,
        3,
        rates=lambda _: {},
        on_report=lambda done, _: told.append(done),
        on_update=told.append,
    )
    for done in range(1, 8):
        log.record(done, {"train/loss": 0.0})
    assert told == list(range(1, 8))


def test_updates_before_a_resumption_do_not_count_for_the_throughput(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows how long they took."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    log, _ = make_log(tmp_path / "metrics.jsonl", report_every=2)
    log.restore([{"train/loss": 1.0}], 1)
    clock[0] += 2
    log.record(2, {"train/loss": 3.0})
    (line,) = lines_of(tmp_path / "metrics.jsonl")
    assert (line["train/loss"], line["train/images_per_second"]) == (2.0, 4 * 1 / 2)


def test_cut_back_run_has_no_gaps_and_no_repeats(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log, _ = make_log(path, report_every=1)
    for done in range(1, 8):
        log.record(done, {"train/loss": float(done)})
        log.write(done, {"valid/loss": float(done)})
    log, _ = make_log(path, report_every=1)
    log.restore([], 4)
    for done in range(5, 10):
        log.record(done, {"train/loss": float(done)})
        log.write(done, {"valid/loss": float(done)})
    for name in ("train/loss", "valid/loss"):
        assert [line[name] for line in lines_of(path) if name in line] == [
            float(done) for done in range(1, 10)
        ]


@pytest.mark.parametrize(
    "rest", ['{"step": 2, "train/lo', '{"st', "{", '{"step": 2}', "\0\0\0", "null", "[1]"]
)
def test_line_cut_short_by_a_crash_is_dropped(rest: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 1.0}\n' + rest)
    log, _ = make_log(path, report_every=1)
    log.restore([], 1)
    log.record(2, {"train/loss": 2.0})
    assert [(line["step"], line["train/loss"]) for line in lines_of(path)] == [(1, 1.0), (2, 2.0)]


def test_line_whose_end_was_cut_off_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 1.0}')
    log, _ = make_log(path, report_every=1)
    log.restore([], 1)
    log.record(2, {"train/loss": 2.0})
    assert [line["step"] for line in lines_of(path)] == [1, 2]


def test_cutting_back_a_log_that_is_not_there_makes_none(tmp_path: Path) -> None:
    log, _ = make_log(tmp_path / "metrics.jsonl")
    log.restore([], 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_not_finite_leave_the_line_valid_json(
    value: float, tmp_path: Path
) -> None:
    log, _ = make_log(tmp_path / "metrics.jsonl", report_every=1)
    log.record(1, {"train/loss": value})
    not_json: list[str] = []  # NaN and the like, which Python's reader lets pass
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=not_json.append)
    assert not_json == []


def test_nats_stand_there_in_bits_as_well(tmp_path: Path) -> None:
    log, seen = make_log(tmp_path / "metrics.jsonl")
    log.write(5, {"valid/nats_per_image_token": math.log(8192), "valid/loss": 1.0})
    (line,) = lines_of(tmp_path / "metrics.jsonl")
    assert line["valid/bits_per_image_token"] == pytest.approx(13, rel=1e-15)
    assert set(line) == {
        "step",
        "valid/nats_per_image_token",
        "valid/bits_per_image_token",
        "valid/loss",
    }
    assert seen == [(5, {name: value for name, value in line.items() if name != "step"})]


def test_previews_are_passed_on_with_their_step() -> None:
    shown: list[tuple[int, Image.Image]] = []
    log = MetricLog(
        None,
        3,
        rates=lambda _: {},
        on_report=lambda done, _: None,
        on_preview=lambda done, picture: shown.append((done, picture)),
    )
    picture = Image.new("RGB", (4, 4))
    log.preview(5, picture)
    assert shown == [(5, picture)]
