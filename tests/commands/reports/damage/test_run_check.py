"""What of a run is sound: each kind of damage, with what helps, and what is none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.commands.reports.damage.run_check import check_run
from dalle_cli.storage.run_dir import RunDir


def damaged(run: Path) -> dict[str, tuple[str, str]]:
    """Return problem and hint of each part that is damaged."""
    checks = check_run(RunDir(run))
    return {check.part: (check.problem, check.hint) for check in checks if check.problem}


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"0", b"1"))


def test_every_damage_is_told_with_what_helps(
    own_transformer_run: Path, dvae_run: Path, dalle: Callable
) -> None:
    run = own_transformer_run
    for name in (
        "recipe.json",
        "model/model.safetensors",
        "dvae/model.safetensors",
        "tokenizer/words.json",
        "checkpoints/step-00000006/ema.safetensors",
    ):
        spoil(run / name)
    (run / "tokenizer" / "merges.json").unlink()
    (run / "checkpoints" / "step-00000009" / "manifest.json").unlink()
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 12\n{"step": 13, "train/loss": 1.0}\n')

    found = damaged(run)
    assert found.keys() == {
        "recipe.json",
        "model",
        "dvae",
        "tokenizer/merges.json",
        "tokenizer/words.json",
        "metrics.jsonl",
        "checkpoints/step-00000006",
        "checkpoints/step-00000009",
    }
    assert found["model"][1] == f"`dalle resume {run}` writes it anew"
    assert "its model can be used" in found["recipe.json"][1]
    n_lines = len((run / "metrics.jsonl").read_text().splitlines())
    assert f"in 1 of its {n_lines} lines, first in line {n_lines - 1}" in found["metrics.jsonl"][0]
    assert "the one before" in found["checkpoints/step-00000006"][1]

    ended = dalle("doctor", run, "--json")
    assert ended.code == 1 and f"error: {run} is damaged: " in ended.err and "7 more" in ended.err
    parts = {part["part"]: part for part in json.loads(ended.out)["parts"]}
    assert {name for name, part in parts.items() if part["state"] == "damaged"} == found.keys()
    assert parts["checkpoints/step-00000011"]["state"] == "sound"


def test_copy_of_a_dvae_is_replaced_by_what_the_run_began_with(
    own_transformer_run: Path, dvae_run: Path
) -> None:
    shutil.rmtree(own_transformer_run / "dvae")
    assert damaged(own_transformer_run)["dvae"][1] == (
        f"copy config.json and model.safetensors of the dVAE in {dvae_run} there"
    )
    (own_transformer_run / "dvae").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(dvae_run / "model" / name, own_transformer_run / "dvae")
    assert damaged(own_transformer_run) == {}


def test_what_a_crash_leaves_is_no_damage(own_dvae_run: Path) -> None:
    shutil.rmtree(own_dvae_run / "checkpoints" / "step-00000011")
    (own_dvae_run / "checkpoints" / "step-00000011.partial").mkdir()
    with (own_dvae_run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 12, "tra')
    assert damaged(own_dvae_run) == {}


def test_run_that_has_not_saved_yet_is_sound(own_dvae_run: Path) -> None:
    for name in ("model", "checkpoints", "previews"):
        shutil.rmtree(own_dvae_run / name)
    assert damaged(own_dvae_run) == {}


@pytest.mark.parametrize("words", [["absent"], ["PAIRS"], ["RUN", "--measure"]])
def test_what_is_no_run_is_wrong_usage(
    words: list[str], dvae_run: Path, pairs: Path, dalle: Callable
) -> None:
    places = {"RUN": dvae_run, "PAIRS": pairs}
    ended = dalle("doctor", *(places.get(word, word) for word in words))
    assert ended.code == 2 and ended.err.startswith("error: ")


def test_damage_inside_an_export_is_told_of_the_part_that_has_it(
    transformer_run: Path, clip_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    assert dalle("export", transformer_run, "--clip", clip_run, "--out", out).code == 0
    spoil(out / "clip" / "model" / "model.safetensors")
    assert damaged(out).keys() == {"clip/model"}
