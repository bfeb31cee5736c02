"""`dalle train` on a few tiny pictures."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.storage.job_folder import JobFolder


@pytest.fixture
def birds(dalle: Callable, tmp_path: Path) -> Path:
    folder = tmp_path / "shapes"
    assert dalle("data", "shapes", str(folder), "--pictures", "24", "--quiet").code == 0
    return folder / "train"


def test_plan_is_printed_and_nothing_is_written(
    dalle: Callable, birds: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended = dalle("train", birds, "--run", run, "--like", "tiny", "--plan")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith(("$", "nothing")))
    assert any(line.startswith("$ dalle train-dvae") for line in lines) and not run.exists()


def test_plan_as_json_has_recipes_and_times(dalle: Callable, birds: Path, tmp_path: Path) -> None:
    ended = dalle("train", birds, "--run", tmp_path / "run", "--like", "tiny", "--plan", "--json")
    facts = json.loads(ended.out)
    assert set(facts["recipes"]) == {"dvae", "transformer", "clip"}
    assert facts["seconds"]["all"] > 0


def begin_job(run: Path, birds: Path) -> None:
    job = dict.fromkeys(("image_column", "caption_column", "hours", "gpus"))
    job |= {"command": "train", "data": str(birds), "like": "tiny"}
    with JobFolder.open(run).writing(job):
        pass


@pytest.mark.thorough
def test_folder_with_a_job_but_no_plan_yet_is_planned(
    dalle: Callable, birds: Path, tmp_path: Path
) -> None:
    begin_job(tmp_path / "run", birds)
    ended = dalle("train", birds, "--run", tmp_path / "run", "--like", "tiny", "--plan")
    assert ended.code == 0 and "$ dalle train-dvae" in ended.out


def test_plan_that_is_there_is_printed_and_not_carried_out(
    dalle: Callable, birds: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin_job(run, birds)
    plan = {"kinds": ["dvae", "transformer"], "copies": 0, "groups": ["trained"], "rank": "caption"}
    (run / "plan.json").write_text(json.dumps(plan))
    ended = dalle("train", birds, "--run", run, "--like", "tiny", "--plan")
    assert ended.code == 0 and "$ dalle generate" in ended.out
    assert {path.name for path in run.iterdir()} == {"job.json", "plan.json"}


def test_folder_of_something_else_is_refused(dalle: Callable, birds: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("mine")
    ended = dalle("train", str(birds), "--run", str(run))
    assert ended.code == 2 and "already holds something" in ended.err


def test_pictures_without_captions_are_refused(
    dalle: Callable, birds: Path, tmp_path: Path
) -> None:
    for captions in birds.glob("*.txt"):
        captions.unlink()
    ended = dalle("train", str(birds), "--run", str(tmp_path / "run"))
    assert ended.code == 1 and "no captioned pictures" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_whole_chain_ends_with_a_grid_and_is_resumed(
    dalle: Callable, birds: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train", str(birds), "--run", str(run), "--like", "tiny", "--hours", "0.02")
    ended = dalle(*words)
    assert ended.code == 0, ended.err
    assert (run / "grid.png").is_file() and ended.out.strip() == str(run / "grid.png")
    recipe = tomllib.loads((run / "recipes" / "dvae.toml").read_text())
    assert recipe["kind"] == "dvae"

    (run / "grid.png").unlink()
    metrics = {path: path.read_bytes() for path in run.glob("*/metrics.jsonl")}
    again = dalle("resume", str(run))
    assert again.code == 0, again.err
    assert (run / "grid.png").is_file()
    assert len(metrics) == 3  # nothing is trained again
    assert all(path.read_bytes() == lines for path, lines in metrics.items())
    other = dalle(*words[:-1], "1")
    assert other.code == 2 and "another job" in other.err
