"""Progress as people see it: what fits in a line, and a bar that moves."""

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from dalle_cli.console import ProgressLine, Terminal, advance_for_all
from dalle_cli.console.progress import make_bar
from dalle_cli.quantities import duration_text
from dalle_cli.training.tasks.clip import ClipTask
from dalle_cli.training.tasks.dvae import DiscreteVAETask
from dalle_cli.training.tasks.transformer import TransformerTask

RATES = {"train/images_per_second": 12.3, "train/mfu": 0.451, "train/peak_memory_gib": 1.26}
TASKS = [
    (
        TransformerTask,
        {"train/loss_image": 6.5, "train/loss_text": 4.25, "train/image_token_accuracy": 0.125},
        "text 4.250  image 6.500  accuracy 12.5%",
    ),
    (DiscreteVAETask, {"train/kl_per_cell": 1.234}, "kl 1.23"),
    (ClipTask, {"train/batch_accuracy": 0.5}, "accuracy 50.0%"),
]


@pytest.fixture
def line_of_width() -> Callable[..., tuple[ProgressLine, list[str]]]:
    """Make a line without a bar, and the list of what it prints."""

    def line(width: int, *, total: int = 40, done: int = 0) -> tuple[ProgressLine, list[str]]:
        said: list[str] = []
        return ProgressLine(
            said.append, None, total=total, done=done, unit="step", width=width
        ), said

    return line


@pytest.mark.parametrize(("task", "figures", "shown"), TASKS)
def test_figures_of_a_task_stand_between_loss_and_rates(
    task: type, figures: dict[str, float], shown: str, line_of_width: Callable
) -> None:
    line, said = line_of_width(120)
    line.report(
        10, RATES | figures | {"train/loss": 2.5, "train/unknown": 1.0}, formats=task.formats
    )
    assert said == [f"step 10/40  loss 2.5000  {shown}  12 images/s  MFU 45%  1.3 GiB"]


@pytest.mark.parametrize(("task", "figures", "shown"), TASKS)
def test_report_of_training_fits_the_terminal_with_loss_and_time_left(
    task: type, figures: dict[str, float], shown: str, line_of_width: Callable
) -> None:
    line, said = line_of_width(80, total=20_000)
    line.reach(9_998)
    line.report(10_000, RATES | figures | {"train/loss": 2.5}, formats=task.formats)
    (report,) = said
    assert report.startswith("step 10,000/20,000  loss 2.5000  ")
    assert re.search(r"  about \d+ (s|minutes) left$", report) and len(report) <= 80


def test_held_out_figures_have_no_time_left(line_of_width: Callable) -> None:
    line, said = line_of_width(80)
    line.report(10, {"valid/loss": 1.5, "valid/psnr": 27.25}, formats=DiscreteVAETask.formats)
    assert said == ["step 10/40  held-out loss 1.5000  PSNR 27.25 dB"]


def test_held_out_figures_are_all_shown_and_no_line_breaks_within_one(
    line_of_width: Callable,
) -> None:
    figures = {
        "valid/loss": 1.5,
        **{name: 0.5 for name in ClipTask.formats if name.startswith("valid/")},
    }
    line, said = line_of_width(60)
    line.report(10, figures, formats=ClipTask.formats)
    assert said[0].splitlines() == [
        "step 10/40  held-out loss 1.5000  text recall@1 50.0%",
        "  @5 50.0%  image recall@1 50.0%  @5 50.0%",
    ]


def test_time_left_is_told_after_the_second_update_and_once(line_of_width: Callable) -> None:
    line, said = line_of_width(80, total=3000, done=500)
    for done in range(501, 510):
        line.reach(done)
        assert len(said) == (done > 501)
    assert re.fullmatch(r"step 502/3,000  about \d+ (s|minutes) left", said[0])


def test_work_that_is_soon_done_has_one_line_in_a_pipe(capsys: pytest.CaptureFixture) -> None:
    with Terminal().progress(total=1200, done=0, unit="picture") as line:
        for _ in range(1200):
            line.advance()
    assert re.fullmatch(r"picture 1,200/1,200  in \d+ s\n", capsys.readouterr().err)


@pytest.mark.parametrize("width", [30, 40, 80, 120])
def test_bar_moves_with_every_update_and_stays_on_one_line(width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system=None, width=width)
    with make_bar(console, "step") as bar:
        line = ProgressLine(print, bar, total=20_000, done=0, unit="step", width=width)
        shown = []
        for done in range(1, 5):
            line.reach(done)
            bar.refresh()
            shown.append(re.split("[\r\n]", stream.getvalue())[-1])

    texts = [re.sub("\x1b\\[.*?[A-Za-z]", "", text) for text in shown]
    assert all(len(text) <= width for text in texts)
    assert all(f"{done}/20,000" in text for done, text in enumerate(texts, 1))
    if width >= 80:
        assert " left" not in texts[0] and " left" in texts[1]


def test_time_left_of_resumed_work_is_by_the_pace_of_this_start(
    line_of_width: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    line, said = line_of_width(80, total=10_000, done=9_000)
    line.reach(9_001)
    now += 5.0
    line.reach(9_006)  # a second each
    assert said == [f"step 9,006/10,000  about {duration_text(994)} left"]


@pytest.mark.parametrize(("n_ours", "n_all"), [(1, 1), (5, 5), (3, 7), (4, 23), (1, 9)])
def test_units_of_one_process_count_for_those_of_all(n_ours: int, n_all: int) -> None:
    counted: list[int] = []
    advance = advance_for_all(lambda: counted.append(1), n_ours=n_ours, n_all=n_all)
    after_each = []
    for _ in range(n_ours):
        advance()
        after_each.append(len(counted))
    assert after_each == [n_all * k // n_ours for k in range(1, n_ours + 1)]
