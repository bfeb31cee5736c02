"""The story of a run: what its files say, and what is left out where they say nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.run_dir import RunDir


@pytest.fixture
def info(dalle: Callable) -> Callable[[Path], tuple[dict, str]]:
    """Ask for a folder's facts and their text."""

    def ask(folder: Path, code: int = 0) -> tuple[dict, str]:
        as_json, as_text = dalle("info", folder, "--json"), dalle("info", folder)
        assert as_json.code == as_text.code == code, as_json.err
        assert json.loads(as_json.out).keys() >= {"run"} or "runs" in json.loads(as_json.out)
        return json.loads(as_json.out), as_text.out

    return ask


@pytest.mark.thorough
def test_run_is_told_from_its_files(transformer_run: Path, pairs: Path, info: Callable) -> None:
    facts, text = info(transformer_run)
    story = facts["run"]
    lines = [json.loads(x) for x in RunDir(transformer_run).metrics.read_text().splitlines()]
    losses = {str(x["step"]): x["valid/loss"] for x in lines if "valid/loss" in x}
    assert story["held_out_loss"] == losses and list(losses) == ["2", "4", "6", "8", "10", "11"]
    assert story["seconds"] == [x["train/seconds"] for x in lines if "train/seconds" in x][-1]
    assert (story["step"], story["steps"], story["data"]["samples"]) == (11, 11, 23)
    assert story["data"]["sources"] == [str(pairs)]
    files = [path for path in transformer_run.rglob("*") if path.is_file()]
    assert story["bytes"] == sum(path.stat().st_size for path in files)

    assert "GPU" not in text and "_" not in text.replace(str(pairs), "").partition("changes")[0]
    for words in ("step 11 of 11", "23 samples, of which 10% are held out", "best checkpoint"):
        assert words in text
    assert f"last {losses['11']:.3f}" in text and "▁" in text and "█" in text


def test_changes_against_the_shipped_recipe_are_listed(
    dvae_run: Path, settings: Callable, info: Callable
) -> None:
    facts, text = info(dvae_run)
    assert facts["run"]["recipe"] == "dvae/tiny"
    assert facts["run"]["changes"]["training.steps"] == [8, 11]
    asked = {word.partition("=")[0] for word in settings() if "=" in word}
    assert set(facts["run"]["changes"]) <= asked
    assert "training.steps: 11, shipped: 8" in text


def test_run_that_has_saved_nothing_is_told_from_its_recipe(
    own_dvae_run: Path, info: Callable
) -> None:
    for name in ("model", "checkpoints", "previews"):
        shutil.rmtree(own_dvae_run / name)
    (own_dvae_run / "metrics.jsonl").unlink()
    facts, text = info(own_dvae_run)
    assert facts["kind"] == "dvae" and facts["run"]["step"] is None
    assert "no step yet" in text and "held-out loss" not in text


@pytest.mark.parametrize("damage", ["", "[", "[1]", "null", '{"step": "x"}', "\0\xff", "{}"])
def test_damaged_metrics_and_records_leave_the_rest_to_be_told(
    damage: str, own_dvae_run: Path, info: Callable
) -> None:
    (own_dvae_run / "metrics.jsonl").write_text(damage, "latin-1")
    (own_dvae_run / "recipe.json").write_text(damage, "latin-1")
    facts, text = info(own_dvae_run, code=1)
    assert "recipe.json is damaged" in "".join(facts["damaged"]) and "damaged" in text
    assert facts["run"]["step"] == 11 and "step 11" in text
    assert facts["run"]["best_checkpoint"] is not None


def test_folder_of_several_runs_has_a_line_for_each(
    tmp_path: Path, dvae_run: Path, clip_run: Path, info: Callable
) -> None:
    shutil.copytree(dvae_run, tmp_path / "first")
    shutil.copytree(clip_run, tmp_path / "second")
    (tmp_path / "data").mkdir()
    facts, text = info(tmp_path)
    assert {name: run["kind"] for name, run in facts["runs"].items()} == {
        "first": "dvae",
        "second": "clip",
    }
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["first", "dvae,"],
        ["second", "clip,"],
    ]


def test_strings_of_a_record_never_reach_the_terminal_raw(
    own_dvae_run: Path, info: Callable
) -> None:
    path = own_dvae_run / "recipe.json"
    record = json.loads(path.read_text())
    record["command"] |= {"recipe": "\x1b[31mx", "overrides": ["\x1b[2J"], "data": ["\x1b]0;x"]}
    record["resolved"]["device"] = "\x1b[1m"
    path.write_bytes(checksummed_json(record))
    _, text = info(own_dvae_run)
    assert "\x1b" not in text and "\ufffd[31mx" in text


@pytest.mark.thorough
def test_cost_of_a_small_recipe_has_no_zeros_and_no_table_of_gpus(dalle: Callable) -> None:
    text = dalle("info", "transformer/tiny").out
    assert " 0.0" not in text and "ZeRO" not in text
    assert "ZeRO 3: 8 GPUs" in dalle("info", "transformer/large").out


@pytest.mark.thorough
def test_export_is_told_with_its_step_and_figures(
    transformer_run: Path, tmp_path: Path, dalle: Callable, info: Callable
) -> None:
    assert dalle("export", transformer_run, "--out", tmp_path / "export").code == 0
    facts, text = info(tmp_path / "export")
    last = list(info(transformer_run)[0]["run"]["held_out_loss"].values())[-1]
    assert facts["run"]["step"] == 11 and f"{last:.3f}" in text
    assert "checkpoint" not in text
