"""`evaluate` in several processes: the files of one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run

pytestmark = pytest.mark.distributed


def test_several_processes_measure_what_one_does(
    transformer_run: Path,
    dvae_run: Path,
    clip_run: Path,
    make_pairs: Callable,
    tree: Callable,
    tmp_path: Path,
) -> None:
    data = make_pairs(tmp_path / "data", 20)
    words = ["evaluate", transformer_run, dvae_run, "--data", data, "--captions", 7]
    words += ["--clip", clip_run, "--candidates", 3, "--device", "cpu", "--json"]
    by_two, by_one = tmp_path / "by-two", tmp_path / "by-one"
    ended = run(*words, "--gpus", 2, "--out", by_two)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["evaluations"]
    assert [one["kind"] for one in found] == ["transformer", "dvae"]

    # by itself, one process would choose larger batches
    for job in by_two.rglob("job.json"):
        copy = by_one / job.relative_to(by_two)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(job, copy)
    ended = run(*words, "--out", by_one)
    assert ended.returncode == 0, ended.stderr
    assert tree(by_one) == tree(by_two)


def test_wrong_usage_is_told_once(transformer_run: Path, tmp_path: Path) -> None:
    ended = run("evaluate", transformer_run, "--data", tmp_path / "absent", "--gpus", 2)
    assert ended.returncode == 2 and ended.stderr.count("error:") == 1, ended.stderr
