"""What many tests stand on.

Toy pairs, a tiny run of each model, and the command line called in this process.
"""

import contextlib
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from unittest import mock

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: tiny tensors gain nothing from threads

import numpy as np
import pytest
import torch
from processes import run, words_of
from toy_about import ABOUT

from dalle_cli.cli.main import main
from dalle_cli.config import training_command
from dalle_cli.data.rendered.shapes import render, scenes

N_PAIRS = 23  # with four or eight a step, epochs end in the middle of batches
STEPS = 11
SETTINGS = {
    "training.steps": STEPS,
    "runtime.workers": 2,
    "runtime.report_every": 1,
    "runtime.validate_every": 2,
    "runtime.preview_every": 5,
    "runtime.save_every": 3,
    "runtime.keep_checkpoints": 10,
}
SHORT_SCHEDULES = {  # which a run may be longer than, so that it may be resumed for more steps
    "dvae": ["optimizer.lr", "loss.kl_weight", "loss.temperature"],
    "transformer": ["optimizer.lr"],
    "clip": ["optimizer.lr"],
    "prior": ["optimizer.lr"],
    "prior-autoregressive": ["optimizer.lr"],
    "decoder": ["optimizer.lr"],
}
INPUTS = {  # what a kind is trained with: the option and the fixture of a run
    "transformer": ("--dvae", "dvae_run"),
    "prior": ("--clip", "clip_run"),
    "prior-autoregressive": ("--clip", "clip_run"),
    "decoder": ("--clip", "clip_run"),
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_dalle(*words: object, stdin: bytes | TextIO = b"") -> Outcome:
    """Run the `dalle` command in this process, given the words of its command line."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    arguments = mock.patch.object(sys, "argv", ["dalle", *map(str, words)])
    stream = io.TextIOWrapper(io.BytesIO(stdin), "utf-8") if isinstance(stdin, bytes) else stdin
    with (
        arguments,
        mock.patch.object(sys, "stdin", stream),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return Outcome(code, out.getvalue(), err.getvalue())


def sets(**changes: object) -> list[str]:
    """Spell the settings of the shared runs, and changes (__ for the dot), as `--set` words."""
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def fixed(kind: str, steps: int, warmup_steps: int = 2) -> list[str]:
    """Spell the lengths of all schedules of a tiny recipe in updates, as `--set` words."""
    keys = [f"{key}.steps" for key in SHORT_SCHEDULES[kind]]
    settings = {**dict.fromkeys(keys, steps), "optimizer.warmup_steps": warmup_steps}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def write_pairs(folder: Path, n_pairs: int) -> Path:
    """Draw so many captioned pictures of 32 pixels, no two captions alike."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    everything = scenes(level=1)
    for i, number in enumerate(rng.permutation(len(everything))[:n_pairs]):
        render(everything[number], 32, rng=rng).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(everything[number].caption + "\n")
    return folder


def hash_tree(folder: Path) -> dict[str, str]:
    """Map every file below a folder to the hash of its content, and every folder to nothing."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what commands keep between runs out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def every_small_number() -> None:
    """Undo what a command run in this process chose for it.

    Denormal numbers as zero, which hypothesis refuses.
    """
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def dalle() -> Callable[..., Outcome]:
    return run_dalle


@pytest.fixture(scope="session")
def settings() -> Callable[..., list[str]]:
    return sets


@pytest.fixture(scope="session")
def fixed_schedules() -> Callable[..., list[str]]:
    return fixed


@pytest.fixture(scope="session")
def make_pairs() -> Callable[[Path, int], Path]:
    return write_pairs


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, str]]:
    return hash_tree


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs", N_PAIRS)


@pytest.fixture(scope="session")
def dvae_run(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A finished run, for reading only."""
    run = tmp_path_factory.mktemp("runs") / "dvae"
    ended = run_dalle("train-dvae", "dvae/tiny", "--data", pairs, "--run", run, *sets())
    assert ended.code == 0, ended.err
    return run


@pytest.fixture(scope="session")
def transformer_run(tmp_path_factory: pytest.TempPathFactory, pairs: Path, dvae_run: Path) -> Path:
    """A finished run, for reading only."""
    run = tmp_path_factory.mktemp("runs") / "transformer"
    words = ["--data", pairs, "--dvae", dvae_run, "--run", run, *sets()]
    ended = run_dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 0, ended.err
    return run


@pytest.fixture(scope="session")
def clip_run(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A finished run, for reading only."""
    run = tmp_path_factory.mktemp("runs") / "clip"
    ended = run_dalle("train-clip", "clip/tiny", "--data", pairs, "--run", run, *sets())
    assert ended.code == 0, ended.err
    return run


def train_with_clip(kind: str, run: Path, pairs: Path, clip_run: Path) -> Path:
    """Train the tiny recipe of a kind with the shared CLIP."""
    words = ["--data", pairs, "--clip", clip_run, "--run", run, *sets()]
    ended = run_dalle(training_command(kind), f"{kind}/tiny", *words)
    assert ended.code == 0, ended.err
    return run


@pytest.fixture(scope="session")
def prior_run(tmp_path_factory: pytest.TempPathFactory, pairs: Path, clip_run: Path) -> Path:
    """A finished run, for reading only."""
    return train_with_clip("prior", tmp_path_factory.mktemp("runs") / "prior", pairs, clip_run)


@pytest.fixture(scope="session")
def autoregressive_prior_run(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path, clip_run: Path
) -> Path:
    """A finished run, for reading only."""
    run = tmp_path_factory.mktemp("runs") / "codes"
    return train_with_clip("prior-autoregressive", run, pairs, clip_run)


@pytest.fixture(scope="session")
def decoder_run(tmp_path_factory: pytest.TempPathFactory, pairs: Path, clip_run: Path) -> Path:
    """A finished run, for reading only."""
    return train_with_clip("decoder", tmp_path_factory.mktemp("runs") / "decoder", pairs, clip_run)


@pytest.fixture(scope="session")
def inputs_of(request: pytest.FixtureRequest) -> Callable[[str], list[object]]:
    """Spell what a kind of model is trained with, as words of a command line."""

    def words(kind: str) -> list[object]:
        option, fixture = INPUTS.get(kind, ("", ""))
        return [option, request.getfixturevalue(fixture)] if option else []

    return words


@pytest.fixture(scope="session")
def shipped_models_folder(
    tmp_path_factory: pytest.TempPathFactory, transformer_run: Path, clip_run: Path
) -> Path:
    """A folder of one model, `toy`, as `pretrained/` is; for reading only."""
    folder = tmp_path_factory.mktemp("shipped")
    run = shutil.copytree(transformer_run, folder / "run")
    (run / "about.toml").write_text(ABOUT)
    out = folder / "pretrained" / "toy"
    ended = run_dalle("export", run, "--clip", clip_run, "--half", "--out", out)
    assert ended.code == 0, ended.err
    return folder / "pretrained"


@pytest.fixture
def toy(shipped_models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `toy`, which is the only shipped model while a test runs."""
    # an absolute path, where the name of a folder of the package is expected, stands for itself
    monkeypatch.setattr("dalle_cli.storage.shipped.MODELS", str(shipped_models_folder))
    return shipped_models_folder / "toy"


@pytest.fixture
def own_dvae_run(dvae_run: Path, tmp_path: Path) -> Path:
    """A finished run to write into."""
    return shutil.copytree(dvae_run, tmp_path / "dvae")


@pytest.fixture
def own_transformer_run(transformer_run: Path, tmp_path: Path) -> Path:
    """A finished run to write into."""
    return shutil.copytree(transformer_run, tmp_path / "transformer")


@pytest.fixture
def own_clip_run(clip_run: Path, tmp_path: Path) -> Path:
    """A finished run to write into."""
    return shutil.copytree(clip_run, tmp_path / "clip")


@pytest.fixture
def own_decoder_run(decoder_run: Path, tmp_path: Path) -> Path:
    """A finished run to write into."""
    return shutil.copytree(decoder_run, tmp_path / "decoder")


@pytest.fixture
def hang_guard() -> Iterator[None]:
    """End a test that would hang; nothing that works comes near."""

    def give_up(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def train(pairs: Path, inputs_of: Callable) -> Callable[..., subprocess.CompletedProcess]:
    """Train a tiny recipe in a folder, with changes to the settings (__ for the dot)."""

    def train(
        kind: str, folder: Path, *words: object, **settings: object
    ) -> subprocess.CompletedProcess:
        own = [*inputs_of(kind), *fixed(kind, 1, warmup_steps=1)]  # whatever the run's length
        changes = words_of({key.replace("__", "."): value for key, value in settings.items()})
        return run(
            training_command(kind),
            f"{kind}/tiny",
            "--data",
            pairs,
            "--run",
            folder,
            *own,
            *changes,
            *words,
        )

    return train
