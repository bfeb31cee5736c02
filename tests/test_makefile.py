"""The Makefile's own help and the folders of its batch jobs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*words: str, **variables: str) -> str:
    environment = {**os.environ, "COLUMNS": "80", **variables}
    ended = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ended.stdout


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_targets_are_listed_with_texts_wrapped_by_word(columns: str) -> None:
    lines = make("help", COLUMNS=columns).splitlines()
    listed = [line.split()[0] for line in lines if line[0] != " "]
    described = re.findall(
        r"^([a-z0-9-]+):.*## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert listed == [name for name, _ in described]
    assert max(map(len, lines)) <= int(columns)
    assert " ".join(lines).split() == " ".join(map(" ".join, described)).split()


@pytest.mark.parametrize(("words", "name"), [([], "emoji"), (["NAME=toy"], "toy")], ids=str)
def test_a_shipped_model_is_tried_without_captions(words: list[str], name: str) -> None:
    command = make("-n", "try", *words).splitlines()[-1]
    assert (
        command.split()[1:3] == ["generate", f"'{name}'"] and f"--out 'build/try/{name}'" in command
    )


@pytest.mark.parametrize(
    ("words", "folder"), [([], "runs/x/samples/birds"), (["OUT=other"], "other")], ids=str
)
def test_batch_jobs_write_where_they_are_told(words: list[str], folder: str) -> None:
    given = ["RUN=runs/x", "PROMPTS=in/birds.txt", "CLIP=runs/clip", *words]
    generated, ranked = make("-n", "generate", *given), make("-n", "rerank", *given)
    assert f"--out '{folder}'" in generated
    assert f"dalle rerank '{folder}' --clip 'runs/clip' --out '{folder}-best'" in ranked


@pytest.mark.parametrize(
    "value", ["it's", "two words", 'a "quote"', "$$HOME", "a;b&c|d", "é✨", "''"]
)
def test_values_reach_the_command_as_they_are(value: str) -> None:
    typed = value.replace("$$", "$")  # as make wants a dollar
    names = ("RECIPE", "DATA", "RUN", "DVAE", "CLIP", "PROMPTS", "OUT")
    given = [f"{name}={value}" for name in names]
    for target, words in {
        "train": [typed, "--run", typed],
        "train-dvae": [typed, "--data", typed, "--run", typed],
        "train-transformer": [typed, "--data", typed, "--run", typed, "--dvae", typed],
        "train-prior": [typed, "--data", typed, "--run", typed, "--clip", typed],
        "train-decoder": [typed, "--data", typed, "--run", typed, "--clip", typed],
        "generate": [typed, "--prompts", typed, "--clip", typed, "--out", typed],
        "rerank": [typed, "--clip", typed, "--out", f"{typed}-best"],
    }.items():
        lines = make("-n", target, *given).splitlines()
        (command,) = (line for line in lines if f"dalle {target} " in line)
        assert shlex.split(command)[2:] == words


def test_value_with_a_quote_counts_as_given() -> None:
    lines = make("-n", "train-dvae", "RECIPE=dvae/tiny", "DATA=it's", "RUN=r").splitlines()
    (test,) = (line for line in lines if "DATA is not given" in line)
    assert shlex.split(test)[:3] == ["test", "-n", "it's"]


@pytest.mark.parametrize("target", ["train", "train-transformer", "generate", "rerank"])
def test_batch_jobs_run_in_several_processes(target: str) -> None:
    given = ["RECIPE=r", "DATA=d", "DVAE=v", "RUN=runs/x", "PROMPTS=p.txt", "CLIP=runs/clip"]
    assert "--gpus" not in make("-n", target, *given)
    assert "--gpus 4 " in make("-n", target, *given, "GPUS=4")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("words", "lack"),
    [(["test-gpu"], "no tests on a GPU"), (["bench", "DEVICE=cuda"], "no benchmarks on a GPU")],
    ids=str,
)
def test_what_needs_a_gpu_says_in_one_line_that_there_is_none(words: list[str], lack: str) -> None:
    """In an environment that `make install` has not made, either."""
    given = ["-o", "install", *words, f"BIN={Path(sys.executable).parent}"]
    of_an_outer_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    environment = {name: v for name, v in os.environ.items() if name not in of_an_outer_make}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        ["make", "--no-print-directory", *given],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    line, of_make = ended.stderr.splitlines()
    assert line.startswith(f"{lack}: torch ")
    assert "pytorch.org" in line or "nvidia-smi" in line
    assert of_make.startswith("make: ***") and of_make.endswith("Error 1") and not ended.stdout
