"""`train-clip`: what a run leaves behind, what its log says, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dalle_cli.data.loader import ValidationBatches
from dalle_cli.data.preprocessing import ClipPreprocessing
from dalle_cli.data.sources import open_dataset
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.loading import build_clip, load_clip
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD
from dalle_cli.runtime.distributed import single_process
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.tasks.clip import ClipTask

TINY = ["--set", "training.steps=1", "--set", "runtime.workers=0"]
FIGURES = {"valid/loss", *(f"valid/{of}_recall_at_{k}" for of in ("text", "image") for k in (1, 5))}


@pytest.fixture
def train(pairs: Path, tmp_path: Path, dalle: Callable) -> Callable:
    """Begin a run of one update in a new folder."""
    words = ["train-clip", "clip/tiny", "--data", pairs, "--run", tmp_path / "run", *TINY]
    return lambda *more: dalle(*words, *more)


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in RunDir(run).metrics.read_text().splitlines()]


def test_run_folder_is_as_designed(clip_run: Path) -> None:
    files = {str(path.relative_to(clip_run)) for path in clip_run.rglob("*") if path.is_file()}
    saved = {name for name in files if name.startswith("checkpoints/")}
    assert {name.split("/")[1] for name in saved} == {f"step-{step:08d}" for step in (3, 6, 9, 11)}
    assert files - saved == {
        "recipe.json", "metrics.jsonl", "model/config.json", "model/model.safetensors",
        "tokenizer/merges.json",
        *(f"previews/step-{step:08d}.png" for step in (5, 10, 11)),
    }  # fmt: skip
    with Image.open(RunDir(clip_run).preview(11)) as picture:
        assert picture.format == "PNG"


def test_model_folder_says_what_pixels_and_captions_must_look_like(clip_run: Path) -> None:
    config = json.loads((clip_run / "model" / "config.json").read_text())
    recipe = json.loads((clip_run / "recipe.json").read_text())["recipe"]
    n_tokens = Tokenizer.load(RunDir(clip_run).tokenizer).vocab_size
    assert config["kind"] == recipe["kind"] == "clip"
    assert config["model"] == {
        **recipe["model"], "text_vocab_size": n_tokens + 2, "end_of_text": None,
        "pixel_mean": list(PIXEL_MEAN), "pixel_std": list(PIXEL_STD),
    }  # fmt: skip


def test_log_holds_every_figure(clip_run: Path) -> None:
    lines = lines_of(clip_run)
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 12))
    assert all(
        {"train/batch_accuracy", "train/logit_scale", "train/captions_cut"} <= set(line)
        for line in steps
    )
    assert steps[0]["train/logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    held_out = [line for line in lines if "valid/loss" in line]
    assert [line["step"] for line in held_out] == [2, 4, 6, 8, 10, 11]
    assert all(set(line) - {"step"} == FIGURES for line in held_out)


def test_saved_model_has_the_figures_that_the_log_says(
    pairs: Path, train: Callable, tmp_path: Path
) -> None:
    assert train("--valid", pairs, "--set", "training.steps=3").code == 0
    run = tmp_path / "run"
    source = open_dataset(str(pairs), captions_required=True)
    prepare = ClipPreprocessing(32, 16, Tokenizer.load(RunDir(run).tokenizer), bpe_dropout=0.1)
    batches = ValidationBatches(
        source, np.arange(len(source)), preprocess=prepare, batch_size=5, n_samples=16
    )
    found = ClipTask(load_clip(run), single_process(torch.device("cpu"))).validate(
        batches.on(torch.device("cpu")), step=3
    )
    logged = lines_of(run)[-1]
    assert found == pytest.approx({name: logged[name] for name in FIGURES}, rel=1e-5)
    assert 0 < logged["valid/text_recall_at_5"] < 1  # sixteen pairs, of which it knows little


def test_weights_of_the_run_are_an_average_of_trained_ones(clip_run: Path) -> None:
    weights, last = (
        load_clip(clip_run).state_dict(),
        load_file(clip_run / "checkpoints/step-00000011/parameters.safetensors"),
    )
    assert set(weights) == set(last) and not any(
        torch.equal(weights[name], last[name]) for name in weights
    )
    torch.manual_seed(0)
    fresh = build_clip(read_model_table(clip_run / "model")).state_dict()
    assert not any(torch.equal(weights[name], fresh[name]) for name in weights)


def test_export_holds_what_ranking_needs_and_no_more(
    clip_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    out = tmp_path / "exported"
    ended = dalle("export", clip_run, "--out", out)
    assert (ended.code, ended.out) == (0, f"{out}\n")
    files = [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file()]
    copied = ["model/config.json", "model/model.safetensors", "tokenizer/merges.json"]
    assert files == ["README.md", "export.json", *copied[:2], "recipe.json", copied[2]]
    assert all((out / name).read_bytes() == (clip_run / name).read_bytes() for name in copied)


def test_stdout_is_the_run_and_the_rest_is_told_beside_it(train: Callable, tmp_path: Path) -> None:
    ended, run = train(), tmp_path / "run"
    assert (ended.code, ended.out) == (0, f"{run}\n")
    assert (
        f"writing {run}" in ended.err
        and "1 steps of 8" in ended.err
        and "learnt a vocabulary of" in ended.err
    )
    assert "next: dalle rerank" in ended.err and f"--clip {run}" in ended.err


def test_bf16_trains_and_keeps_fp32_weights(train: Callable, tmp_path: Path) -> None:
    ended = train("--precision", "bf16")
    assert ended.code == 0 and ", bf16" in ended.err
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors").values()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights)


def test_initial_weights_go_by_the_recipes_seed(
    train: Callable, tmp_path: Path, dalle: Callable, pairs: Path
) -> None:
    still = ["--set", "optimizer.lr.start=0.0", "--set", "optimizer.lr.end=0.0"]
    seeds, weights = (0, 0, 1), []
    for i, seed in enumerate(seeds):
        words = [
            "--data",
            pairs,
            "--run",
            tmp_path / str(i),
            *TINY,
            *still,
            "--set",
            f"training.seed={seed}",
        ]
        assert dalle("train-clip", "clip/tiny", *words).code == 0
        weights.append((tmp_path / str(i) / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    "words", [["--precision", "bf16"], ["--set", "tokenizer.dropout=0.9"]], ids=str
)
def test_how_it_trains_is_the_recipes_matter(
    words: list[str], tmp_path: Path, dalle: Callable, pairs: Path
) -> None:
    weights = []
    for name, changes in (("plain", []), ("again", []), ("changed", words)):
        run = tmp_path / name
        assert (
            dalle("train-clip", "clip/tiny", "--data", pairs, "--run", run, *TINY, *changes).code
            == 0
        )
        weights.append((run / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("runtime.micro_batch_size=4", "runtime.micro_batch_size"),
        ("training.global_batch_size=1", "training.global_batch_size"),
        ("model.patch_size=5", "patch_size 5"),
        ("model.text.n_heads=5", "model.text"),
        ("model.vison.n_heads=2", "did you mean `model.vision`"),
    ],
)
def test_recipe_that_cannot_be_trained_is_refused_by_key(
    setting: str, key: str, train: Callable, tmp_path: Path
) -> None:
    ended = train("--set", setting)
    assert ended.code == 2 and ended.out == "" and "1 problem" in ended.err and key in ended.err
    assert not (tmp_path / "run").exists()


def test_recipe_of_another_kind_is_told_with_the_right_command(
    pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    ended = dalle("train-clip", "dvae/tiny", "--data", pairs, "--run", tmp_path / "run")
    assert (
        ended.code == 2
        and "a recipe for dvae, not for clip" in ended.err
        and "dalle train-dvae" in ended.err
    )


def test_pictures_without_captions_are_refused(
    pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    (tmp_path / "bare").mkdir()
    for picture in sorted(pairs.glob("*.png"))[:3]:
        (tmp_path / "bare" / picture.name).write_bytes(picture.read_bytes())
    ended = dalle(
        "train-clip", "clip/tiny", "--data", tmp_path / "bare", "--run", tmp_path / "run", *TINY
    )
    assert ended.code == 1 and "no captions" in ended.err
    assert not (tmp_path / "run").exists()


def test_run_of_a_clip_is_told_where_another_model_is_asked_for(
    clip_run: Path, pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    for words, code, told in [
        (
            ["generate", clip_run, "a ring", "--out", tmp_path / "out"],
            2,
            "holds a clip, not a transformer",
        ),
        (
            ["reconstruct", clip_run, pairs, "--out", tmp_path / "out"],
            2,
            "holds a clip, not a dvae",
        ),
        (
            ["info", clip_run, "--masks", tmp_path / "out"],
            2,
            "is a clip, which has no attention masks",
        ),
    ]:
        ended = dalle(*words)
        assert ended.code == code and told in ended.err
        assert not (tmp_path / "out").exists()
