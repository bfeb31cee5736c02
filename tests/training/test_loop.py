"""The loop, with a task of one number: what is done when, stops, and skipped updates."""

import json
import math
import signal
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from dalle_cli.config import (
    Cosine,
    DataTable,
    EmaTable,
    OptimizerTable,
    RuntimeTable,
    TrainingTable,
)
from dalle_cli.data.loader import Batch, TrainingBatches, ValidationBatches
from dalle_cli.data.preprocessing import DVAEPreprocessing, Example
from dalle_cli.data.shuffling import SampleOrder, Stream
from dalle_cli.data.sources import Sample, Source, open_dataset, validation_split
from dalle_cli.runtime.distributed import single_process
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import Saver, checkpoints, load_checkpoint
from dalle_cli.training.engines.engine import EngineState
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.loop import Batches, train
from dalle_cli.training.metric_log import MetricLog, Metrics
from dalle_cli.training.optimization.divergence import Diverged, DivergenceMonitor
from dalle_cli.training.optimization.loss_scaling import scale_loss
from dalle_cli.training.stop_signals import Interrupted

CPU = torch.device("cpu")
OPTIMIZER = OptimizerTable(
    lr=Cosine(start=0.01, end=0.01, steps=1), warmup_steps=0, betas=[0.9, 0.9], eps=1e-8,
    weight_decay=0.0,
    clip_norm=0.0, clip_second_moment=0.0,
)  # fmt: skip
RUNTIME = RuntimeTable(
    workers=0, report_every=2, validate_every=4, preview_every=3, save_every=5, keep_checkpoints=99
)


class Brightness(nn.Module):
    """One number."""

    def __init__(self) -> None:
        super().__init__()
        self.guess = nn.Parameter(torch.zeros(1))

    def matrices(self) -> list[nn.Parameter]:
        return []


class BrightnessTask:
    """Learns how bright pictures are; raises a signal, or loses its way, at some step."""

    def __init__(
        self,
        signal_at: int = -1,
        number: int = signal.SIGTERM,
        lost: Iterable[int] = (),
        lost_held_out: int = -1,
        no_preview: int = -1,
        no_loss: int = -1,
        spikes: Iterable[int] = (),
    ) -> None:
        self.module = Brightness()
        self.signal_at = signal_at
        self.number = number
        self.lost = lost
        self.lost_held_out = lost_held_out
        self.no_preview = no_preview
        self.no_loss = no_loss
        self.spikes = spikes

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        if step == self.signal_at:
            signal.raise_signal(self.number)
        if step == self.no_loss:
            raise RuntimeError("can't allocate memory")
        error = (
            batch.images.mean((1, 2, 3)) - self.module.guess
        ).square().sum() / batch.global_size
        error = error * (math.nan if step in self.lost else 1)
        error = error * (100 if step in self.spikes else 1)
        return error, {"train/loss": error.detach()}

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        error = sum((b.images.mean() - self.module.guess).square().item() for b in batches)
        return {"valid/loss": math.inf if step == self.lost_held_out else float(error)}

    def preview(self, whole: nn.Module, batch: Batch, step: int) -> Image.Image:
        if step == self.no_preview:
            raise OSError(5, "Input/output error", "preview.png")
        return Image.new("RGB", (1, 1))


class Stopping(DVAEPreprocessing):
    """Requests a stop while the first batch is waited for."""

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        if seed is not None:
            signal.raise_signal(signal.SIGTERM)
        return super().__call__(sample, seed)


def held_out_batches(
    source: Source, preprocess: DVAEPreprocessing | None = None
) -> ValidationBatches:
    indices = validation_split(source, 0.1)[1]
    preprocess = preprocess or DVAEPreprocessing(32)
    return ValidationBatches(source, indices, preprocess=preprocess, batch_size=4, n_samples=8)


@pytest.fixture
def run_task(pairs: Path, tmp_path: Path) -> Callable[..., RunDir]:
    """Train a task in a folder, going on from its newest checkpoint."""

    def run(
        task: BrightnessTask,
        name: str,
        steps: int = 11,
        runtime: RuntimeTable = RUNTIME,
        *,
        is_fp16: bool = False,
        on_spike: str = "warn",
        stop_at_once: bool = False,
        warned: list[str] | None = None,
    ) -> RunDir:
        folder = RunDir(tmp_path / name)
        source = open_dataset(str(pairs), captions_required=False)
        training, _ = validation_split(source, 0.1)
        data = DataTable(validation_share=0.1, shuffle_block=64, max_bad_share=0.1)
        table = TrainingTable(steps=steps, global_batch_size=4, seed=0)
        preprocess = Stopping(32) if stop_at_once else DVAEPreprocessing(32)
        batches = Batches(
            TrainingBatches(
                source,
                training,
                preprocess=preprocess,
                data=data,
                training=table,
                workers=0,
                on_bad=lambda *_: None,
            ),
            held_out_batches(source, preprocess),
        )
        engine = ReplicaEngine(
            task.module,
            OPTIMIZER,
            ema=EmaTable(decay=0.9, every=1),
            world=single_process(CPU),
            scales=scale_loss(task.module, CPU) if is_fp16 else None,
        )
        state = EngineState({}, {})
        if saved := checkpoints(folder):
            state = load_checkpoint(saved[-1][1])
            engine.restore(state)
        log = MetricLog(
            folder.metrics, runtime.report_every, rates=lambda _: {}, on_report=lambda *_: None
        )
        log.restore(state.unreported, engine.step)
        saver = Saver(folder, {"kind": "toy"}, runtime.keep_checkpoints, engine.world)
        warn = [].append if warned is None else warned.append
        optimizer = OPTIMIZER.model_copy(update={"on_spike": on_spike})
        monitor = DivergenceMonitor(
            folder, optimizer, has_scales=is_fp16, warn=warn, losses=state.losses
        )
        train(
            task,
            engine,
            batches=batches,
            runtime=runtime,
            steps=steps,
            log=log,
            saver=saver,
            monitor=monitor,
            warn=warn,
        )
        return folder

    return run


def figures_of(run: RunDir) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{name: line[name] for name in line if name != "train/seconds"} for line in lines]


def steps_with(run: RunDir, name: str) -> list[int]:
    return [int(line["step"]) for line in figures_of(run) if name in line]


def test_everything_is_done_when_due_and_after_the_last_update(run_task: Callable) -> None:
    run = run_task(BrightnessTask(), "run")
    assert steps_with(run, "train/loss")[:5] == [2, 4, 6, 8, 10]
    assert steps_with(run, "valid/loss") == [4, 8, 11]
    assert [step for step, _ in checkpoints(run)] == [5, 10, 11]
    assert sorted(path.name for path in run.preview(0).parent.iterdir()) == [
        run.preview(step).name for step in (3, 6, 9, 11)
    ]


def test_held_out_figures_are_those_of_the_averaged_weights(
    run_task: Callable, pairs: Path
) -> None:
    task = BrightnessTask()
    run = run_task(task, "run")
    held_out = held_out_batches(open_dataset(str(pairs), captions_required=False))
    trained = float(task.module.guess.detach())
    averaged = float(load_file(run.model / "model.safetensors")["guess"])
    by_weights = {
        guess: sum((b.images.mean().item() - guess) ** 2 for b in held_out.on(CPU))
        for guess in (trained, averaged)
    }
    reported = [line["valid/loss"] for line in figures_of(run) if "valid/loss" in line][-1]
    assert reported == pytest.approx(by_weights[averaged], rel=1e-4)
    assert reported != pytest.approx(by_weights[trained], rel=1e-4)
    assert trained == float(load_checkpoint(run.checkpoint(11)).tensors["parameters"]["guess"])


def test_every_update_is_in_some_report(run_task: Callable) -> None:
    assert steps_with(run_task(BrightnessTask(), "run"), "train/loss")[-1] == 11


def test_micro_batches_change_nothing_but_rounding(run_task: Callable) -> None:
    whole, parts = BrightnessTask(), BrightnessTask()
    run_task(whole, "whole")
    run_task(parts, "parts", runtime=RUNTIME.model_copy(update={"micro_batch_size": 3}))
    torch.testing.assert_close(parts.module.guess, whole.module.guess, rtol=1e-6, atol=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4, 5])
def test_request_to_stop_saves_after_the_update_under_way(
    number: int, step: int, run_task: Callable
) -> None:
    with pytest.raises(Interrupted) as caught:
        run_task(BrightnessTask(signal_at=step - 1, number=number), "run")
    assert caught.value.exit_code == 128 + number and f"after step {step}" in caught.value.message
    assert [s for s, _ in checkpoints(run_task(BrightnessTask(), "run", steps=step + 1))][-2:] == [
        step,
        step + 1,
    ]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 9])
def test_stopped_and_resumed_run_equals_one_that_never_stopped(
    step: int, run_task: Callable
) -> None:
    """Also where a report, a validation or a preview was due at the update it stopped after."""
    whole = run_task(BrightnessTask(), "whole")
    with pytest.raises(Interrupted):
        run_task(BrightnessTask(signal_at=step - 1), "stopped")
    stopped = run_task(BrightnessTask(), "stopped")
    assert figures_of(stopped) == figures_of(whole)
    assert stopped.preview(3).exists()
    torch.testing.assert_close(
        load_checkpoint(stopped.checkpoint(11)).tensors,
        load_checkpoint(whole.checkpoint(11)).tensors,
        rtol=0,
        atol=0,
    )


def test_request_during_the_last_update_lets_the_run_finish(run_task: Callable) -> None:
    run = run_task(BrightnessTask(signal_at=10), "run")
    assert steps_with(run, "valid/loss")[-1] == 11 and checkpoints(run)[-1][0] == 11


def test_fp16_skips_updates_counts_them_warns_of_the_first_and_goes_on(run_task: Callable) -> None:
    warned: list[str] = []
    run = run_task(BrightnessTask(lost=[2, 3, 6]), "run", is_fp16=True, warned=warned)
    shares = {
        line["step"]: line["train/skipped"] for line in figures_of(run) if "train/skipped" in line
    }
    assert [shares[step] for step in (2, 4, 6, 8, 10)] == [0.0, 1.0, 0.0, 0.5, 0.0]
    numbers = load_checkpoint(run.checkpoint(11)).numbers
    assert (numbers["step"], numbers["optimizer_updates"], numbers["ema_updates"]) == (11, 8, 8)
    assert len(warned) == 1 and "step 3 was skipped" in warned[0]


def test_long_streak_of_skipped_updates_stops_fp16(run_task: Callable) -> None:
    lost = set(range(200)) - {40}
    with pytest.raises(Diverged, match="50 updates in a row were skipped") as caught:
        run_task(
            BrightnessTask(lost=lost),
            "run",
            steps=200,
            runtime=RUNTIME.model_copy(update={"save_every": 1000}),
            is_fp16=True,
        )
    assert "optimizer.lr" in caught.value.hint


@pytest.mark.parametrize("is_fp16", [False, True])
def test_run_whose_last_loss_is_not_finite_fails_and_names_what_is_sound(
    is_fp16: bool, run_task: Callable, tmp_path: Path
) -> None:
    with pytest.raises(Diverged, match="the loss is not finite at step 11") as caught:
        run_task(BrightnessTask(lost=[10]), "run", is_fp16=is_fp16)
    run = RunDir(tmp_path / "run")
    assert caught.value.exit_code == 1 and str(run.checkpoint(10)) in caught.value.hint
    assert checkpoints(run)[-1][0] == 10


def test_loss_that_is_not_finite_stops_at_once_and_names_the_samples(
    run_task: Callable, tmp_path: Path, pairs: Path
) -> None:
    """All that it saved before is finite, and the samples are those of the step."""
    with pytest.raises(Diverged, match="the loss is not finite at step 7, of the samples") as ended:
        run_task(BrightnessTask(lost=[6]), "run")
    run = RunDir(tmp_path / "run")
    assert [step for step, _ in checkpoints(run)] == [5]
    assert load_file(run.model / "model.safetensors")["guess"].isfinite().all()

    named = ended.value.message.rpartition("samples ")[2].split(", ")
    source = open_dataset(str(pairs), captions_required=False)
    indices = validation_split(source, 0.1)[0]
    order = SampleOrder([Stream(len(indices), Fraction(1))], seed=0, block=64)
    assert named == [
        source.key(int(indices[next(iter(order.candidates(position)))]))
        for position in range(24, 28)
    ]


def test_held_out_loss_that_is_not_finite_stops_the_run_unsaved(
    run_task: Callable, tmp_path: Path
) -> None:
    with pytest.raises(Diverged, match="the held-out loss is not finite after step 8"):
        run_task(BrightnessTask(lost_held_out=8), "run")
    assert [step for step, _ in checkpoints(RunDir(tmp_path / "run"))] == [5]


@pytest.mark.parametrize(
    ("task", "saved"),
    [
        ({"no_preview": 9}, [5, 9]),
        ({"no_loss": 7}, [5, 7]),
        ({"no_loss": 5}, [5]),
        ({"no_loss": 0}, []),
    ],
)
def test_failure_is_raised_after_saving_what_was_not_saved_yet(
    task: dict[str, int], saved: list[int], run_task: Callable, tmp_path: Path
) -> None:
    warned: list[str] = []
    with pytest.raises((OSError, RuntimeError), match=r"Input/output|allocate"):
        run_task(BrightnessTask(**task), "run", warned=warned)
    run = RunDir(tmp_path / "run")
    assert [step for step, _ in checkpoints(run)] == saved
    assert warned == [f"training ends early; saved after step {step}" for step in saved[1:]]

    whole, resumed = run_task(BrightnessTask(), "whole"), run_task(BrightnessTask(), "run")
    assert figures_of(resumed) == figures_of(whole)
    torch.testing.assert_close(
        load_checkpoint(resumed.checkpoint(11)).tensors,
        load_checkpoint(whole.checkpoint(11)).tensors,
        rtol=0,
        atol=0,
    )


def test_failure_to_save_does_not_hide_the_failure_before_it(
    run_task: Callable, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file in the way")
    warned: list[str] = []
    with pytest.raises(RuntimeError, match="allocate"):
        run_task(BrightnessTask(no_loss=3), "run", warned=warned)
    assert len(warned) == 1 and warned[0].startswith("step 3 is not saved: cannot write")


def test_request_before_the_first_step_says_so(run_task: Callable, tmp_path: Path) -> None:
    """Nothing is saved: there is nothing yet."""
    with pytest.raises(Interrupted) as caught:
        run_task(BrightnessTask(), "run", stop_at_once=True)
    assert caught.value.message == "stopped by SIGTERM before the first step"
    assert checkpoints(RunDir(tmp_path / "run")) == []


LONG = RUNTIME.model_copy(update={"save_every": 45, "validate_every": 99, "preview_every": 99})
SPIKES = [40, 43, 50, 52]


@pytest.mark.parametrize("on_spike", ["warn", "skip"])
def test_losses_that_leap_are_warned_of_once_and_skipped_where_the_recipe_says(
    on_spike: str, run_task: Callable
) -> None:
    warned: list[str] = []
    run = run_task(BrightnessTask(spikes=SPIKES), "run", 60, LONG, on_spike=on_spike, warned=warned)
    assert len(warned) == 1 and "the loss leapt to" in warned[0] and "at step 41" in warned[0]
    numbers = load_checkpoint(run.checkpoint(60)).numbers
    assert numbers["optimizer_updates"] == (56 if on_spike == "skip" else 60)
    skipped = [line["train/skipped"] for line in figures_of(run) if "train/skipped" in line]
    assert sum(skipped) * 2 == (4 if on_spike == "skip" else 0)


def test_run_that_skips_leaps_resumes_as_if_it_never_stopped(
    run_task: Callable, tmp_path: Path
) -> None:
    """Which losses leap depends on those before, which the checkpoint keeps."""
    whole = run_task(BrightnessTask(spikes=SPIKES), "whole", 60, LONG, on_spike="skip")
    with pytest.raises(Interrupted):
        run_task(BrightnessTask(47, spikes=SPIKES), "stopped", 60, LONG, on_spike="skip")
    stopped = run_task(BrightnessTask(spikes=SPIKES), "stopped", 60, LONG, on_spike="skip")
    assert figures_of(stopped) == figures_of(whole)
    torch.testing.assert_close(
        load_checkpoint(stopped.checkpoint(60)).tensors,
        load_checkpoint(whole.checkpoint(60)).tensors,
        rtol=0,
        atol=0,
    )


def test_leap_stops_the_run_unsaved_where_the_recipe_says(
    run_task: Callable, tmp_path: Path
) -> None:
    with pytest.raises(Diverged, match=r"the loss leapt to .* at step 51, where"):
        run_task(BrightnessTask(spikes=[50]), "run", 60, LONG, on_spike="stop")
    assert [step for step, _ in checkpoints(RunDir(tmp_path / "run"))] == [45]
