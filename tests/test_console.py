"""Progress as people see it: the figures of a report, in order, as the task formats them."""

from collections.abc import Callable

import pytest

from dalle_cli.console import Terminal
from dalle_cli.training.tasks.clip import ClipTask
from dalle_cli.training.tasks.dvae import DiscreteVAETask
from dalle_cli.training.tasks.transformer import TransformerTask

RATES = {"train/images_per_second": 12.3, "train/mfu": 0.451, "train/peak_memory_gib": 1.26}


@pytest.fixture
def report(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    def report(figures: dict[str, float], formats: dict[str, str]) -> str:
        with Terminal().progress(total=40, done=0, unit="step") as line:
            line.report(10, figures, formats=formats)
        return capsys.readouterr().err.partition(" left")[0]

    return report


@pytest.mark.parametrize(
    ("task", "figures", "shown"),
    [
        (
            TransformerTask,
            {"train/loss_image": 6.5, "train/loss_text": 4.25, "train/image_token_accuracy": 0.125},
            "text 4.250  image 6.500  accuracy 12.5%",
        ),
        (DiscreteVAETask, {"train/kl_per_cell": 1.234}, "kl 1.23"),
        (ClipTask, {"train/batch_accuracy": 0.5}, "accuracy 50.0%"),
    ],
)
def test_figures_of_a_task_stand_between_loss_and_rates(
    task: type, figures: dict[str, float], shown: str, report: Callable
) -> None:
    line = report(RATES | figures | {"train/loss": 2.5, "train/unknown": 1.0}, task.formats)
    assert line.startswith(f"step 10/40  loss 2.5000  {shown}  12 images/s  MFU 45%  1.3 GiB")


def test_held_out_figures_have_no_time_left(report: Callable) -> None:
    line = report({"valid/loss": 1.5, "valid/psnr": 27.25}, DiscreteVAETask.formats)
    assert line == "step 10/40  held-out loss 1.5000  PSNR 27.25 dB\n"
