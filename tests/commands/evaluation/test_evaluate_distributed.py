"""`evaluate` in several processes: the figures of one."""

import json
from pathlib import Path

import pytest
from processes import run

pytestmark = pytest.mark.distributed


def test_several_processes_measure_what_one_does(
    transformer_run: Path, dvae_run: Path, clip_run: Path, make_pairs, tmp_path: Path
) -> None:
    data = make_pairs(tmp_path / "data", 20)
    words = ["evaluate", transformer_run, dvae_run, "--data", data, "--captions", 7]
    words += ["--clip", clip_run, "--candidates", 3, "--device", "cpu", "--json"]
    found = []
    for n in (1, 2):
        folder = tmp_path / f"by-{n}"
        ended = run(*words, "--gpus", n, "--out", folder)
        assert ended.returncode == 0, ended.stderr
        files = sorted(folder.rglob("evaluation.json"))
        assert len(json.loads(ended.stdout)["evaluations"]) == len(files) == 2
        found.append([json.loads(file.read_text())["figures"] for file in files])
    assert found[0] == found[1]


def test_wrong_usage_is_told_once(transformer_run: Path, tmp_path: Path) -> None:
    ended = run("evaluate", transformer_run, "--data", tmp_path / "absent", "--gpus", 2)
    assert ended.returncode == 2 and ended.stderr.count("error:") == 1, ended.stderr
