"""`generate` in several processes.

The files that one process writes, whichever of them die on the way.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import LIMIT, children_of, command, run

pytestmark = pytest.mark.distributed

CAPTIONS = ["a red circle", "a blue ring", "a small green square"]
N = 90  # with batches of 4, captions end in the middle of them
KINDS = {
    "plain": [],
    "clip": ["--clip", "CLIP", "--best", 7],
    "perplexity": ["--rank", "perplexity", "--best", 1, "--keep-all"],
    "decoder": ["--prior", "PRIOR", "--steps", 3, "--prior-steps", 4],
}


@pytest.fixture(scope="module", params=KINDS)
def words(request: pytest.FixtureRequest) -> list[object]:
    """All words of a command but where to and in how many processes."""
    runs = {"CLIP": "clip_run", "PRIOR": "prior_run"}
    options = [
        request.getfixturevalue(runs[word]) if word in runs else word
        for word in KINDS[request.param]
    ]
    model = "decoder_run" if request.param == "decoder" else "transformer_run"
    common = ["-n", N, "--batch-size", 4, "--precision", "fp32", "--device", "cpu"]
    return ["generate", request.getfixturevalue(model), *CAPTIONS, *common, *options]


@pytest.fixture(scope="module")
def by_one(
    words: list[object], tmp_path_factory: pytest.TempPathFactory, tree: Callable
) -> dict[str, str]:
    """The files that one process writes."""
    folder = tmp_path_factory.mktemp("one") / "drawn"
    ended = run(*words, "--out", folder)
    assert ended.returncode == 0, ended.stderr
    return tree(folder)


plain = pytest.mark.parametrize("words", ["plain"], indirect=True)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_several_processes_write_the_files_of_one(
    n_processes: int, words: list[object], by_one: dict[str, str], tmp_path: Path, tree: Callable
) -> None:
    ended = run(*words, "--out", tmp_path / "drawn", "--gpus", n_processes)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{tmp_path / 'drawn'}\n"
    assert ended.stderr.count("writing ") == 1 and ended.stderr.count("picture 270/270") == 1
    assert tree(tmp_path / "drawn") == by_one


def begun(words: list[object], folder: Path) -> subprocess.Popen:
    """Start a command and wait until it has drawn something."""
    process = subprocess.Popen(command(*words, "--out", folder), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + LIMIT
    while not list(folder.rglob("0*.png")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("dying", "again"), [((0,), 2), ((1,), 1), ((0, 1), 3)], ids=["first", "second", "both"]
)
def test_job_goes_on_in_any_number_of_processes_after_any_of_them_died(
    dying: tuple[int, ...],
    again: int,
    words: list[object],
    by_one: dict[str, str],
    tmp_path: Path,
    tree: Callable,
) -> None:
    with begun([*words, "--gpus", 2], tmp_path / "drawn") as process:
        children = children_of(process.pid)
        for rank in dying:
            os.kill(children[rank], signal.SIGKILL)
        _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 137 and f"process {dying[0]} of 2 was ended by SIGKILL" in told
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    ended = run(*words, "--out", tmp_path / "drawn", "--gpus", again)
    assert ended.returncode == 0, ended.stderr
    assert tree(tmp_path / "drawn") == by_one


@plain
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("n_processes", [1, 2])
def test_job_goes_on_after_a_request_to_stop(
    n_processes: int,
    number: signal.Signals,
    words: list[object],
    by_one: dict[str, str],
    tmp_path: Path,
    tree: Callable,
) -> None:
    with begun([*words, "--gpus", n_processes], tmp_path / "drawn") as process:
        process.send_signal(number)
        _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number
    assert (
        "error" not in told
        and f"to resume, run the same command with `--out {tmp_path / 'drawn'}`" in told
    )
    ended = run(*words, "--out", tmp_path / "drawn")
    assert ended.returncode == 0, ended.stderr
    assert tree(tmp_path / "drawn") == by_one


@plain
def test_finished_job_needs_nothing_of_anybody(
    words: list[object], by_one: dict[str, str], tmp_path: Path, tree: Callable
):
    for _ in range(2):
        ended = run(*words, "--out", tmp_path / "drawn", "--gpus", 2)
        assert ended.returncode == 0, ended.stderr
    assert "nothing to do" in ended.stderr and tree(tmp_path / "drawn") == by_one


@plain
@pytest.mark.parametrize(
    ("changes", "told", "code"),
    [
        (["--seed", 1], "belongs to another job, with other seed", 2),
        (["--image", "absent.png"], "cannot read the picture absent.png", 2),
        (["--prompts", "-"], "standard input can't be read by several processes", 2),
    ],
    ids=["another job", "no picture", "standard input"],
)
def test_wrong_usage_is_told_once(
    changes: list[object], told: str, code: int, words: list[object], tmp_path: Path
) -> None:
    small = [*words, "-n", 4, "--out", tmp_path / "drawn"]
    assert run(*small).returncode == 0
    ended = run(*small, *changes, "--gpus", 2)
    assert ended.returncode == code and ended.stderr.count(told) == 1, ended.stderr
    assert ended.stderr.count("error") <= 1


def test_run_that_is_none_is_told_once(tmp_path: Path) -> None:
    ended = run("generate", tmp_path / "absent", "a ring", "--gpus", 2)
    message = f"error: no such run: {tmp_path / 'absent'}"
    assert ended.returncode == 2 and ended.stderr.splitlines().count(message) == 1
