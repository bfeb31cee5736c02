"""Names of shipped models on the command line: wherever a run is named, and nothing is written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle_cli.storage.run_dir import RunDir

FP32 = ["--precision", "fp32"]
STILL = ["--steps", "1", "--set", "optimizer.lr={start=0.0, end=0.0, share=1.0}"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


@pytest.fixture
def run(dalle: Callable) -> Callable:
    """Run a command that must succeed."""

    def succeed(*words: object):
        ended = dalle(*words)
        assert ended.code == 0, ended.err
        return ended

    return succeed


def pictures_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("0*.png"))}


def test_name_generates_the_pictures_of_its_folder(toy: Path, run: Callable) -> None:
    words = ["a blue ring", "-n", 3, "--best", 2, *FP32]
    run("generate", "toy", *words, "--clip", "toy", "--out", "named")
    run("generate", toy, *words, "--clip", toy / "clip", "--out", "spelt")
    named = pictures_in(Path("named"))
    assert len(named) == 2 and named == pictures_in(Path("spelt"))


@pytest.mark.thorough
def test_shipped_folder_is_never_written_into(
    toy: Path, run: Callable, pairs: Path, tree: Callable, elsewhere: Path
) -> None:
    before = tree(toy)
    for folder, _, _ in os.walk(toy):  # root may write all the same: the tree is compared, too
        os.chmod(folder, 0o555)
    try:
        for word in ("toy", toy):
            run("generate", word, "a blue ring", "-n", 2, "--clip", word, "--best", 1, *FP32)
        run("rerank", pairs, "a ring", "--clip", "toy", *FP32)
        run("info", "toy")
        run("export", "toy", "--out", "exported")
        run("reconstruct", "toy", pairs, "--out", "compared", *FP32)
    finally:
        for folder, _, _ in os.walk(toy):
            os.chmod(folder, 0o755)
    assert tree(toy) == before
    samples = [elsewhere / "samples" / "toy" / number for number in ("000", "001")]
    assert all((folder / "grid.png").is_file() for folder in samples)


def test_clip_of_a_shipped_model_ranks_as_the_clip_it_was_made_from(
    toy: Path, run: Callable, pairs: Path, clip_run: Path
) -> None:
    words = ["rerank", pairs, "a blue ring", "--json", *FP32]
    named, own = (json.loads(run(*words, "--clip", clip).out) for clip in ("toy", clip_run))
    for scores in (named, own):
        scores["scores"].sort(key=lambda score: score["picture"])
    for ours, theirs in zip(named["scores"], own["scores"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=0.005)


def test_dvae_of_a_shipped_model_reconstructs_and_encodes(
    toy: Path, run: Callable, pairs: Path
) -> None:
    by_name = run("reconstruct", "toy", pairs, "--out", "named", "--json", *FP32)
    by_path = run("reconstruct", toy / "dvae", pairs, "--out", "spelt", "--json", *FP32)
    figures = [json.loads(ended.out) for ended in (by_name, by_path)]
    assert figures[0]["psnr"] == figures[1]["psnr"] and figures[0]["psnr"] > 0

    run("data", "encode", pairs, "--dvae", "toy", "--out", "tokens", *FP32)
    words = ["--data", "tokens", "--dvae", "toy", "--run", "dalle", *STILL]
    run("train-transformer", "transformer/tiny", *words)
    kept = Path("dalle/dvae/model.safetensors").read_bytes()
    assert kept == (toy / "dvae" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("kind", "part"), [("dvae", "dvae"), ("transformer", "model"), ("clip", "clip/model")]
)
def test_training_starts_from_the_part_of_its_kind(
    kind: str, part: str, toy: Path, run: Callable, pairs: Path
) -> None:
    own = ["--dvae", "toy"] if kind == "transformer" else []
    words = ["--data", pairs, "--run", "run", "--init-from", "toy", *own, *STILL]
    started = run(f"train-{kind}", f"{kind}/tiny", *words)
    assert "fresh: " not in started.err and "learnt the image tokens of another" not in started.err

    given = load_file(toy / part / "model.safetensors")
    after = load_file("run/model/model.safetensors")
    assert given.keys() == after.keys()
    for name, weight in given.items():
        assert torch.equal(after[name], weight.float()), name
    if kind != "dvae":
        tokenizer = RunDir(toy if kind == "transformer" else toy / "clip").tokenizer
        assert RunDir(Path("run")).tokenizer.read_bytes() == tokenizer.read_bytes()


@pytest.mark.parametrize("kind", ["dvae", "clip"])
def test_run_that_started_from_a_name_is_resumed(
    kind: str, toy: Path, run: Callable, pairs: Path, dalle: Callable
) -> None:
    words = [f"train-{kind}", f"{kind}/tiny", "--data", pairs, "--run", "run", *STILL]
    run(*words, "--init-from", "toy")
    before = load_file("run/model/model.safetensors")
    for part in ("checkpoints", "model"):
        shutil.rmtree(Path("run") / part)
    assert "started from" in run("resume", "run").err
    after = load_file("run/model/model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    run(*words, "--init-from", "toy")
    assert "did not start from" in dalle(*words, "--init-from", pairs).err


def test_recipe_of_a_shipped_model_can_be_read(toy: Path, run: Callable) -> None:
    shown = run("recipes", "show", "toy").out
    assert 'kind = "transformer"' in shown
    Path("mine.toml").write_text(shown)
    assert json.loads(run("recipes", "check", "mine.toml", "--json").out) == json.loads(
        run("recipes", "check", "toy", "--json").out
    )
    assert json.loads(run("info", "toy", "--json").out)["kind"] == "transformer"


def test_path_comes_before_the_name(
    toy: Path, run: Callable, dalle: Callable, own_transformer_run: Path
) -> None:
    Path("toy").symlink_to(own_transformer_run)
    # an export has no checkpoints
    ended = run("generate", "toy", "a ring", "-n", 1, "--checkpoint", "last", *FP32)
    assert ended.out == "toy/samples/000\n"
    Path("toy").unlink()

    Path("toy").mkdir()
    ended = dalle("generate", "toy", "a ring")
    assert ended.code == 2 and "toy is not a run" in ended.err
    assert "`toy` is a shipped model where nothing else has this name" in ended.err


MEANT = "did you mean the shipped model `toy`?"
ALL = "shipped models: `toy`"


@pytest.mark.parametrize(("typed", "hint"), [("tyo", MEANT), ("birds", ALL)])
@pytest.mark.parametrize(
    "words",
    [
        ["generate", None, "a ring"],
        ["generate", "toy", "a ring", "--clip", None],
        ["rerank", ".", "a ring", "--clip", None],
        ["reconstruct", None, ".", "--out", "out"],
        ["export", None, "--out", "out"],
        ["export", "toy", "--clip", None, "--out", "out"],
        ["info", None],
        ["recipes", "show", None],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_name_that_is_none_is_answered_with_those_there_are(
    words: list[str | None], typed: str, hint: str, toy: Path, dalle: Callable, pairs: Path
) -> None:
    shutil.copy(pairs / "000.png", "000.png")
    ended = dalle(*(typed if word is None else word for word in words))
    assert ended.code == 2 and "no such" in ended.err and hint in ended.err
    assert not Path("out").exists()


def test_path_of_several_parts_is_answered_without_names(toy: Path, dalle: Callable) -> None:
    ended = dalle("generate", "runs/tyo", "a ring")
    assert ended.code == 2 and "shipped" not in ended.err
