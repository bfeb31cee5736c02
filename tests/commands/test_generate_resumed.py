"""`generate` into a folder it has begun.

The same pictures as without an interruption, and never another job's.
"""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from dalle_cli.runtime.signals import StopRequested
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors

CAPTIONS = ["a red circle", "a blue ring", "a red circle"]
N = 3  # with batches of 4, captions end in the middle of them
KINDS = {
    "plain": (N, []),
    "best": (2, ["--rank", "perplexity", "--best", 2]),
    "keep all": (N, ["--clip", "CLIP", "--best", 1, "--keep-all"]),
}


@dataclass(frozen=True)
class Finished:
    """A command, all its words but where to, and the folder it has filled."""

    words: list[object]
    folder: Path
    n_kept: int


@pytest.fixture(scope="module", params=KINDS)
def finished(
    request: pytest.FixtureRequest,
    transformer_run: Path,
    clip_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
    dalle: Callable,
) -> Finished:
    n_kept, options = KINDS[request.param]
    options = [clip_run if word == "CLIP" else word for word in options]
    words = [
        "generate",
        transformer_run,
        *CAPTIONS,
        "-n",
        N,
        "--batch-size",
        4,
        "--precision",
        "fp32",
        *options,
    ]
    folder = tmp_path_factory.mktemp("finished") / "drawn"
    ended = dalle(*words, "--out", folder)
    assert ended.code == 0, ended.err
    return Finished(words, folder, n_kept)


plain = pytest.mark.parametrize("finished", ["plain"], indirect=True)
ranked = pytest.mark.parametrize("finished", ["keep all"], indirect=True)


def interrupted(folder: Path, copy: Path, n_lines: int) -> Path:
    """Copy a finished folder as an interruption would have left it.

    The next picture and line half written.
    """
    shutil.copytree(folder, copy)
    (copy / "grid.png").unlink()
    lines = (copy / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    half = lines[n_lines][:30] if n_lines < len(lines) else b""
    (copy / "manifest.jsonl").write_bytes(b"".join(lines[:n_lines]) + half)
    for place in range(n_lines, len(lines)):
        picture = copy / f"{place:04d}.png"
        if place == n_lines:
            picture.write_bytes(picture.read_bytes()[:50])
        else:
            picture.unlink()
    return copy


def snapshot(folder: Path) -> dict[Path, Any]:
    """Everything that writing would change, times set back so that no clock is too coarse to show
    it.
    """
    paths = [folder, *sorted(folder.iterdir())]
    for path in paths:
        os.utime(path, (0, 0))
    return look(paths)


def look(paths: list[Path]) -> dict[Path, Any]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in paths
    }


def test_interrupted_folder_ends_as_an_uninterrupted_one(
    finished: Finished, tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    folder = interrupted(
        finished.folder, tmp_path / "drawn", finished.n_kept + 1
    )  # one into the second caption
    ended = dalle(*finished.words, "--out", folder)
    assert (ended.code, ended.out) == (0, f"{folder}\n"), ended.err
    assert tree(folder) == tree(finished.folder)
    is_ranked = {"--clip", "--rank"} & set(
        map(str, finished.words)
    )  # the candidates of a caption wait for one another
    assert f"writing {2 * finished.n_kept - (0 if is_ranked else 1)} pictures" in ended.err


@ranked
def test_folder_that_lacks_its_grid_alone_gets_it(
    finished: Finished, tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    folder = interrupted(finished.folder, tmp_path / "drawn", 3 * finished.n_kept)
    ended = dalle(*finished.words, "--out", folder)
    assert ended.code == 0 and "nothing to do" in ended.err
    assert tree(folder) == tree(finished.folder)


@plain
def test_folder_that_was_only_begun_is_filled(
    finished: Finished, tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    (tmp_path / "drawn").mkdir()
    shutil.copy(finished.folder / "job.json", tmp_path / "drawn")
    assert dalle(*finished.words, "--out", tmp_path / "drawn").code == 0
    assert tree(tmp_path / "drawn") == tree(finished.folder)


def test_finished_folder_is_left_untouched(
    finished: Finished, tmp_path: Path, dalle: Callable
) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "drawn")
    before = snapshot(folder)
    ended = dalle(*finished.words, "--out", folder)
    assert (ended.code, ended.out) == (0, f"{folder}\n") and "nothing to do" in ended.err
    assert look([folder, *sorted(folder.iterdir())]) == before


@ranked
@pytest.mark.parametrize("last", [2, 4, 8])
def test_command_that_was_stopped_in_the_middle_can_be_repeated(
    last: int,
    finished: Finished,
    tmp_path: Path,
    dalle: Callable,
    tree: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Path.write_bytes
    written = []

    def stop_at_the_last(path: Path, content: bytes) -> None:
        if path.suffix == ".png":
            written.append(path)
            if len(written) == last:
                write(path, content[: len(content) // 2])
                raise StopRequested(signal.SIGINT)
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", stop_at_the_last)
        stopped = dalle(*finished.words, "--out", tmp_path / "drawn")
    assert stopped.code == 130 and stopped.out == ""
    assert not (tmp_path / "drawn" / "grid.png").exists()
    ended = dalle(*finished.words, "--out", tmp_path / "drawn")
    assert ended.code == 0, ended.err
    assert tree(tmp_path / "drawn") == tree(finished.folder)


def test_full_disk_is_told_and_what_was_drawn_is_kept(
    finished: Finished,
    tmp_path: Path,
    dalle: Callable,
    tree: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Path.write_bytes
    written = []

    def run_out(path: Path, content: bytes) -> None:
        if path.suffix == ".png":
            written.append(path)
            if len(written) > 6:
                raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", run_out)
        stopped = dalle(*finished.words, "--out", tmp_path / "drawn")
    assert stopped.code == 1 and re.search(
        r"^error: .*: No space left on device$", stopped.err, re.MULTILINE
    )
    assert len(list((tmp_path / "drawn").rglob("0*.png"))) == 6  # and no half of the next
    ended = dalle(*finished.words, "--out", tmp_path / "drawn")
    assert ended.code == 0, ended.err
    assert tree(tmp_path / "drawn") == tree(finished.folder)


@plain
def test_candidates_that_lie_aside_are_not_drawn_again(
    finished: Finished, tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "drawn")
    (folder / "candidates").mkdir()
    for place in (2, 3, 8):
        Image.new("RGB", (32, 32), "red").save(folder / "candidates" / f"{place:06d}.png")
    (folder / "manifest.jsonl").unlink()
    ended = dalle(*finished.words, "--out", folder)
    assert ended.code == 0, ended.err
    expected = tree(finished.folder)
    changed = {name for name, content in tree(folder).items() if content != expected[name]}
    assert changed == {"0002.png", "0003.png", "0008.png", "grid.png"}


def other_weights(run: Path) -> Path:
    """Change a model by a little."""
    path = run / "model" / "model.safetensors"
    write_checksummed_tensors(
        path, {name: tensor + 1e-3 for name, tensor in load_file(path).items()}
    )
    return run


OTHER_JOBS = {
    "captions, n, seed": lambda words: [*words, "a green square", "-n", 4, "--seed", 1],
    "best, keep_all": lambda words: [*words[:-1], "--best", 2],
    "precision, sampling_batch_size, temperature": lambda words: [
        *words,
        "--batch-size",
        2,
        "--precision",
        "bf16",
        "--temperature",
        0.9,
    ],
    "clip, ranked_by": lambda words: [
        *words[: words.index("--clip")],
        "--rank",
        "perplexity",
        *words[-3:],
    ],
    "model": lambda words: [words[0], "OTHER TRANSFORMER", *words[2:]],
    "clip": lambda words: [*words, "--clip", "OTHER CLIP"],
}


@ranked
@pytest.mark.parametrize("differing", OTHER_JOBS)
def test_folder_of_another_job_is_refused_by_what_differs_and_left_alone(
    differing: str,
    finished: Finished,
    own_transformer_run: Path,
    own_clip_run: Path,
    tmp_path: Path,
    dalle: Callable,
) -> None:
    folder = interrupted(finished.folder, tmp_path / "drawn", 4)
    before = snapshot(folder)
    others = {"OTHER TRANSFORMER": own_transformer_run, "OTHER CLIP": own_clip_run}
    words = OTHER_JOBS[differing](finished.words)
    words = [other_weights(others[word]) if word in others else word for word in words]
    ended = dalle(*words, "--out", folder)
    assert (ended.code, ended.out) == (2, "")
    assert f"belongs to another job, with other {differing}\n" in ended.err
    assert look([folder, *sorted(folder.iterdir())]) == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_that_was_chosen_is_chosen_again(
    precision: str, transformer_run: Path, tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    words = ["generate", transformer_run, "a ring", "-n", 2]
    assert dalle(*words, "--precision", precision, "--out", tmp_path / "finished").code == 0
    folder = interrupted(tmp_path / "finished", tmp_path / "drawn", 1)
    ended = dalle(*words, "--out", folder)
    assert ended.code == 0, ended.err
    assert tree(folder) == tree(tmp_path / "finished")


def test_widths_that_were_chosen_are_chosen_again(
    transformer_run: Path, tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    """Free memory may be another now: what a job has recorded holds."""
    words = ["generate", transformer_run, "a ring", "-n", 6, "--precision", "fp32"]
    recorded = {"sampling_batch_size": 4, "decoding_batch_size": 3}
    (tmp_path / "drawn").mkdir()
    assert dalle(*words, "--batch-size", 4, "--out", tmp_path / "finished").code == 0
    job = json.loads((tmp_path / "finished" / "job.json").read_text())
    (tmp_path / "drawn" / "job.json").write_text(json.dumps(job | recorded))
    ended = dalle(*words, "--out", tmp_path / "drawn")
    assert ended.code == 0, ended.err
    lines = [
        json.loads(line)
        for line in (tmp_path / "drawn" / "manifest.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 6 and all(recorded.items() <= line.items() for line in lines)


@pytest.mark.parametrize("width", [0, "wide", None])
def test_width_that_is_none_is_no_width_to_go_on_with(
    width: object, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    words = [
        "generate",
        transformer_run,
        "a ring",
        "-n",
        2,
        "--precision",
        "fp32",
        "--out",
        tmp_path / "drawn",
    ]
    assert dalle(*words).code == 0
    job = json.loads((tmp_path / "drawn" / "job.json").read_text())
    (tmp_path / "drawn" / "job.json").write_text(json.dumps(job | {"sampling_batch_size": width}))
    ended = dalle(*words)
    assert (
        ended.code == 2 and "belongs to another job, with other sampling_batch_size\n" in ended.err
    )


@plain
def test_folder_with_other_things_is_refused_before_models_are_loaded(
    finished: Finished, tmp_path: Path, dalle: Callable
) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "thesis.tex").write_text("years")
    before = snapshot(tmp_path / "drawn")
    words = ["generate", tmp_path / "no run", *finished.words[2:], "--out", tmp_path / "drawn"]
    ended = dalle(*words)
    assert ended.code == 2 and "already holds something" in ended.err
    assert look(list(before)) == before
