"""A bit that is turned in a run's files, or a file that is cut: who notices, and what is said."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dalle_cli.commands.reports.damage.run_check import check_run, problems_of
from dalle_cli.storage.run_dir import RunDir

CPU = ["--device", "cpu", "--precision", "fp32"]
WEIGHTS = "model/model.safetensors"


def turn_bit(path: Path, place: int) -> None:
    """Turn a bit of a file, counted from its first."""
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def turn_middle(path: Path) -> None:
    turn_bit(path, path.stat().st_size * 4)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, transformer_run: Path, clip_run: Path,
           dalle: Callable) -> Path:  # fmt: skip
    """An export with everything, for reading only."""
    out = tmp_path_factory.mktemp("export") / "out"
    assert dalle("export", transformer_run, "--clip", clip_run, "--out", out).code == 0
    return out


USES = {  # a file that is damaged, and commands that read it, with DIR for the run and OUT
    "model/config.json": ["generate DIR ring", "export DIR --out OUT", "info DIR", "doctor DIR"],
    WEIGHTS: [
        "generate DIR ring",
        "export DIR --out OUT",
        "info DIR",
        "doctor DIR",
        "train-transformer transformer/tiny --data PAIRS --dvae DVAE --init-from DIR --run OUT",
    ],
    "dvae/config.json": ["generate DIR ring", "export DIR --out OUT", "info DIR", "doctor DIR"],
    "dvae/model.safetensors": [
        "generate DIR ring",
        "reconstruct DIR PAIRS --out OUT",
        "export DIR --out OUT",
        "info DIR",
        "doctor DIR",
        "data encode PAIRS --dvae DIR --out OUT",
        "train-transformer transformer/tiny --data PAIRS --dvae DIR --run OUT",
    ],
    "tokenizer/merges.json": [
        "generate DIR ring",
        "export DIR --out OUT",
        "info DIR",
        "doctor DIR",
        "train-clip clip/tiny --data PAIRS --tokenizer DIR/tokenizer/merges.json --run OUT",
    ],
    "tokenizer/words.json": ["generate DIR ring", "export DIR --out OUT", "doctor DIR"],
    f"clip/{WEIGHTS}": [
        "generate DIR ring --clip DIR",
        "rerank PAIRS ring --clip DIR --out OUT",
        "export DIR --out OUT",
        "info DIR",
        "doctor DIR",
    ],
    "clip/tokenizer/merges.json": ["generate DIR ring --clip DIR", "export DIR --out OUT"],
    "recipe.json": ["recipes show DIR", "info DIR", "doctor DIR"],
    "export.json": ["export DIR --out OUT", "info DIR", "doctor DIR"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("damaged", USES)
def test_turned_bit_is_told_with_the_file_before_anything_is_written(
    damaged: str, export: Path, pairs: Path, dvae_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    folder = shutil.copytree(export, tmp_path / "export")
    turn_middle(folder / damaged)
    places = {"DIR": folder, "OUT": tmp_path / "out", "PAIRS": pairs, "DVAE": dvae_run}
    for use in USES[damaged]:
        command = use
        for name, place in places.items():
            command = command.replace(name, str(place))
        words = command.split()
        if words[0] in ("generate", "reconstruct", "rerank"):
            words += CPU
        ended = dalle(*words)
        assert ended.code == 1, (use, ended.err)
        assert f"{folder / damaged} is damaged" in ended.err + ended.out, use
        assert "Traceback" not in ended.err
        assert not (tmp_path / "out").exists() and not (folder / "samples").exists(), use


@pytest.mark.thorough
@pytest.mark.parametrize("damage", [cut, empty, zero, turn_middle])
@pytest.mark.parametrize("name", [WEIGHTS, "model/config.json", "dvae/config.json"])
def test_damaged_model_is_not_passed_on_and_told_by_info(
    damage: Callable, name: str, own_transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    damage(own_transformer_run / name)
    exported = dalle("export", own_transformer_run, "--out", tmp_path / "out")
    assert exported.code == 1 and name in exported.err and not (tmp_path / "out").exists()
    asked = dalle("info", own_transformer_run)
    assert asked.code == 1 and name in asked.out + asked.err


@pytest.mark.parametrize("name", ["dvae/config.json", "dvae/model.safetensors"])
def test_part_that_is_missing_is_told_by_info(
    name: str, own_transformer_run: Path, dalle: Callable
) -> None:
    remove(own_transformer_run / name)
    asked = dalle("info", own_transformer_run)
    assert asked.code == 1 and "damaged" in asked.out and name in asked.out


def test_damaged_run_is_told_among_others(
    own_transformer_run: Path, own_dvae_run: Path, dalle: Callable
) -> None:
    turn_middle(own_transformer_run / WEIGHTS)
    asked = dalle("info", own_transformer_run.parent)
    assert asked.code == 1
    lines = {line.split()[0]: line for line in asked.out.splitlines()}
    assert "damaged" in lines["transformer"] and "damaged" not in lines["dvae"]


@pytest.mark.parametrize("kind", ["dvae", "transformer", "clip"])
def test_resuming_a_finished_run_writes_a_damaged_model_anew(
    kind: str, request: pytest.FixtureRequest, tree: Callable, dalle: Callable
) -> None:
    run = request.getfixturevalue(f"own_{kind}_run")
    before = tree(run / "model")
    turn_middle(run / WEIGHTS)
    told = dalle("doctor", run)
    assert told.code == 1 and f"`dalle resume {run}` writes it anew" in told.out
    ended = dalle("resume", run)
    assert ended.code == 0 and "anew: it was missing or damaged" in ended.err
    assert tree(run / "model") == before and dalle("doctor", run).code == 0


def test_damaged_token_shard_is_told_before_training(
    pairs: Path, dvae_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    tokens = tmp_path / "tokens"
    assert dalle("data", "encode", pairs, "--dvae", dvae_run, "--out", tokens, *CPU).code == 0
    shard = tokens / "tokens-00000.safetensors"
    turn_bit(shard, shard.stat().st_size * 8 - 3)
    words = ["--data", tokens, "--dvae", dvae_run, "--run", tmp_path / "run"]
    ended = dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 1 and f"{shard} is damaged" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["dvae", "transformer", "clip"])
def test_every_part_of_a_sound_run_is_told_as_sound(
    kind: str, request: pytest.FixtureRequest, export: Path, dalle: Callable
) -> None:
    for folder in (request.getfixturevalue(f"{kind}_run"), export):
        ended = dalle("doctor", folder)
        assert ended.code == 0, ended.out
        assert {line.split()[-1] for line in ended.out.splitlines()} == {"sound"}


def as_of_0_1_0(run: Path) -> None:
    """Write a run's files without checksums, in the formats of before."""
    for name, old in (("model/config.json", {"schema": 1}), ("dvae/config.json", {"schema": 1}),
                      ("tokenizer/merges.json", {"schema_version": 1}),
                      ("tokenizer/words.json", {"schema_version": 1}),
                      ("recipe.json", {"schema": 3})):  # fmt: skip
        content = json.loads((run / name).read_text("utf-8"))
        del content["sha256"]
        (run / name).write_text(json.dumps(content | old))
    for name in (WEIGHTS, "dvae/model.safetensors"):
        save_file(load_file(run / name), run / name)


@pytest.mark.thorough
def test_run_without_checksums_is_read_and_exported_with_them(
    own_transformer_run: Path,
    transformer_run: Path,
    tmp_path: Path,
    dalle: Callable,
    tree: Callable,
) -> None:
    as_of_0_1_0(own_transformer_run)
    told = dalle("doctor", own_transformer_run)
    assert told.code == 0 and told.out.count("sound, but it has no checksum") == 5
    for name, run in (("old", own_transformer_run), ("new", transformer_run)):
        ended = dalle("export", run, "--out", tmp_path / name / "model")
        assert ended.code == 0, ended.err
    old, new = tree(tmp_path / "old"), tree(tmp_path / "new")
    assert {name for name in old if old[name] != new[name]} == {"model/recipe.json"}
    assert dalle("resume", own_transformer_run).code == 0

    cut(own_transformer_run / WEIGHTS)
    assert dalle("info", own_transformer_run).code == 1
    assert dalle("export", own_transformer_run, "--out", tmp_path / "cut").code == 1


def files_that_matter(run: Path) -> list[Path]:
    """Return the files whose content is checked: all but figures and pictures, for people."""
    for_people = ("metrics.jsonl", "README.md", ".png")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    return [path for path in files if not path.name.endswith(for_people)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformer", "export"])
def test_a_hundred_turned_bits_are_noticed_a_hundred_times(
    kind: str, own_transformer_run: Path, export: Path, tmp_path: Path
) -> None:
    folder = own_transformer_run
    if kind == "export":
        folder = shutil.copytree(export, tmp_path / "export")
    run, random_places = RunDir(folder), random.Random(0)
    files = files_that_matter(folder)
    assert problems_of(check_run(run)) == []
    for number in range(100):
        path = files[number % len(files)]  # each in turn: most bits are those of the weights
        place = random_places.randrange(path.stat().st_size * 8)
        turn_bit(path, place)
        problems = problems_of(check_run(run))
        assert len(problems) == 1, (path, place)
        turn_bit(path, place)
    assert problems_of(check_run(run)) == []
