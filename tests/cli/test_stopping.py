"""Requests to stop, in every command: a line, a code of its own, and nothing half written."""

import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import released_dvae
from emoji_files import write_annotations, write_font
from safetensors.torch import load_file

from dalle_cli.runtime.signals import SAME_REQUEST, STOP_SIGNALS
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import checkpoints, incomplete_checkpoints

PATIENCE = 120  # seconds until a process that does not do as it should is given up
TRAINING = "dalle_cli.commands.training"

# where each command is stopped: something that it calls in the middle of its work
PLACES = {
    "data shapes": "dalle_cli.commands.data.shapes.render",
    "data emoji": "dalle_cli.data.rendered.emoji_font.EmojiFont.render_emoji",
    "data check": "dalle_cli.commands.reports.dataset_findings.DatasetFindings.add",
    "data encode": "dalle_cli.commands.data.token_encoding.write_shard",
    "import dvae": "dalle_cli.storage.model_folder.write_checksummed_tensors",
    "export": "dalle_cli.commands.export.model_card",
    "reconstruct": "dalle_cli.commands.reconstruct.grid",
    "rerank": "dalle_cli.scoring.ranked_folder._write_grid",
    "generate": "dalle_cli.generation.output_folder.labelled_grid",
    "vary": "dalle_cli.generation.unclip.point_folder.labelled_grid",
    "train-dvae": f"{TRAINING}.train_dvae.dvae_setup",
    "train-transformer": f"{TRAINING}.train_transformer.keep_tokenizer",
    "train-clip": f"{TRAINING}.train_clip.keep_tokenizer",
    "train": f"{TRAINING}.train.make_plan",
    "demo": "dalle_cli.commands.demo._run_commands",
}


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Make the next call of a function begin with a signal to this process."""

    def stop(place: str, number: int) -> None:
        function, sent = pkgutil.resolve_name(place), []

        def signalling(*args: object, **kwargs: object) -> object:
            if not sent:
                sent.append(number)
                signal.raise_signal(number)
            return function(*args, **kwargs)

        monkeypatch.setattr(place, signalling)

    return stop


@pytest.fixture
def words(
    tmp_path: Path,
    pairs: Path,
    dvae_run: Path,
    transformer_run: Path,
    clip_run: Path,
    decoder_run: Path,
) -> Callable[[str], list[object]]:
    """The words of a command that writes `out`, if it writes anything."""
    out = tmp_path / "out"
    short = ["--set", "training.steps=1", "--set", "runtime.workers=0"]

    def emoji() -> list[object]:
        font, names = write_font(tmp_path / "font"), write_annotations(tmp_path / "names")
        return [out, "--font", font, "--annotations", names, "--held-out-share", 0]

    def public() -> list[object]:
        return [released_dvae.pickle_module(released_dvae.Encoder(n_hid=8), tmp_path / "encoder")]

    options: dict[str, Callable[[], list[object]]] = {
        "data shapes": lambda: [out, "--pictures", 9],
        "data emoji": emoji,
        "data check": lambda: [pairs],
        "data encode": lambda: [pairs, "--dvae", dvae_run, "--out", out],
        "import dvae": lambda: [*public(), "--run", out],
        "export": lambda: [transformer_run, "--clip", clip_run, "--out", out],
        "reconstruct": lambda: [dvae_run, pairs / "000.png", pairs / "001.png", "--out", out],
        "rerank": lambda: [pairs, "--clip", clip_run, "--out", out],
        "generate": lambda: [transformer_run, "a ring", "--out", out],
        "vary": lambda: [decoder_run, pairs / "000.png", "--steps", 3, "--out", out],
        "train-dvae": lambda: ["dvae/tiny", "--data", pairs, "--run", out, *short],
        "train-transformer": lambda: [
            "transformer/tiny", "--data", pairs, "--dvae", dvae_run, "--run", out, *short
        ],
        "train-clip": lambda: ["clip/tiny", "--data", pairs, "--run", out, *short],
        "train": lambda: [pairs, "--run", out, "--like", "tiny", "--plan"],
        "demo": lambda: ["--run", out],
    }  # fmt: skip
    return lambda command: [*command.split(), *options[command]()]


def hidden(folder: Path) -> list[Path]:
    """List what is being written, which has a name that begins with a dot."""
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.mark.thorough
@pytest.mark.parametrize("command", PLACES)
def test_stopped_command_leaves_nothing_half_written_and_may_be_repeated(
    command: str, words: Callable, stop: Callable, tmp_path: Path, dalle: Callable
) -> None:
    typed = words(command)
    stop(PLACES[command], signal.SIGTERM)
    ended = dalle(*typed)
    assert (ended.code, ended.out) == (143, "")
    *_, last = ended.err.splitlines()
    assert last == "stopped by SIGTERM" and "Traceback" not in ended.err
    assert not hidden(tmp_path)
    if command != "demo":
        assert dalle(*typed).code == 0


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_request_has_its_name_and_its_code(
    number: signal.Signals, words: Callable, stop: Callable, tmp_path: Path, dalle: Callable
) -> None:
    stop(PLACES["data shapes"], number)
    ended = dalle(*words("data shapes"))
    assert (ended.code, ended.err) == (128 + number, f"stopped by {number.name}\n")
    assert not list(tmp_path.iterdir())


# where a training is stopped once it has begun, and the step after which it saves
STEPS = {
    "dalle_cli.training.loop.update": 1,
    "dalle_cli.training.loop.save_preview": 5,
    "dalle_cli.training.tasks.dvae.DiscreteVAETask.validate": 2,
    "dalle_cli.training.checkpoint.write_sealed": 3,
    "dalle_cli.training.checkpoint.write_model": 3,
}


@pytest.mark.thorough
@pytest.mark.parametrize("place", STEPS)
def test_training_stopped_anywhere_goes_on_as_if_it_had_not_been(
    place: str,
    stop: Callable,
    tmp_path: Path,
    pairs: Path,
    dvae_run: Path,
    settings: Callable,
    dalle: Callable,
) -> None:
    number = signal.SIGUSR2
    typed = ["train-dvae", "dvae/tiny", "--data", pairs, "--run", tmp_path / "run", *settings()]
    stop(place, number)
    ended = dalle(*typed)
    step, run = STEPS[place], RunDir(tmp_path / "run")
    assert ended.code == 128 + number
    assert f"error: stopped by SIGUSR2 after step {step}; saved\nhint: " in ended.err
    assert max(saved for saved, _ in checkpoints(run)) == step
    assert not incomplete_checkpoints(run) and not hidden(tmp_path)

    assert dalle(*typed).code == 0
    weights, undisturbed = (
        load_file(RunDir(root).model / "model.safetensors") for root in (run.root, dvae_run)
    )
    assert all(weights[name].equal(undisturbed[name]) for name in undisturbed)


SLOW_CLEANUP = """
import signal, sys, time
from unittest import mock
from dalle_cli.cli.main import main
from dalle_cli.commands.data import shapes

def render(*args, **kwargs):
    try:
        signal.raise_signal({number})
        time.sleep({patience})
    finally:
        print(flush=True)
        {cleanup}

shapes.render = render
sys.argv = ["dalle", "data", "shapes", {folder!r}]
main()
"""
COMPUTING = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"


@pytest.mark.thorough
@pytest.mark.parametrize("cleanup", [f"time.sleep({PATIENCE})", COMPUTING], ids=["waits", "busy"])
def test_second_request_ends_a_command_at_once(cleanup: str, tmp_path: Path) -> None:
    number = int(signal.SIGINT)
    script = SLOW_CLEANUP.format(
        number=number, patience=PATIENCE, cleanup=cleanup, folder=str(tmp_path / "shapes")
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(2 * SAME_REQUEST)
        os.kill(process.pid, number)
        assert process.wait(timeout=PATIENCE // 2) == 130
        process.kill()


def test_request_that_arrives_twice_is_one(
    words: Callable, stop: Callable, monkeypatch: pytest.MonkeyPatch, dalle: Callable
) -> None:
    """A scheduler signals the whole process group, and a parent forwards the same to its child."""
    before = threading.active_count()
    stop(PLACES["data shapes"], signal.SIGTERM)
    stop("dalle_cli.storage.atomic.shutil.rmtree", signal.SIGTERM)
    ended = dalle(*words("data shapes"))
    assert (ended.code, ended.err) == (143, "stopped by SIGTERM\n")
    assert threading.active_count() == before
