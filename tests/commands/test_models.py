"""The list of shipped models, against their own files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.run_dir import RunDir


def test_listed_facts_are_those_of_the_files(toy: Path, dalle: Callable) -> None:
    listed = json.loads(dalle("models", "--json").out)
    assert list(listed) == ["toy"]
    facts = listed["toy"]
    assert facts.items() >= read_about(RunDir(toy)).model_dump().items()
    assert facts["bytes"] == sum(file.stat().st_size for file in toy.rglob("*") if file.is_file())
    assert (facts["folder"], facts["image_size"]) == (str(toy), 32)

    parts = {"transformer": "model", "dvae": "dvae", "clip": "clip/model"}
    for part, folder in parts.items():
        weights = load_file(toy / folder / "model.safetensors")
        assert facts["parameters"][part] == sum(tensor.numel() for tensor in weights.values())
    assert facts["held_out"] == json.loads((toy / "export.json").read_text())["held_out"]


@pytest.mark.thorough
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_list_fits_the_terminal_and_says_everything(
    columns: int, toy: Path, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = dalle("models").out
    assert max(map(len, shown.splitlines())) <= columns
    words = " ".join(shown.split())
    about = read_about(RunDir(toy))
    for text in (
        f"toy: {about.title}",
        about.draws,
        f"{about.data} ({about.data_licence})",
        about.training,
        f"licence {about.licence}",
        *about.limits,
        *(f"{name}: {value}" for name, value in about.figures.items()),
        "32 pixels on a side",
        "dalle generate toy --show",
    ):
        assert text in words


def test_examples_are_generated_where_no_caption_is_given(
    toy: Path, dalle: Callable, tmp_path: Path
) -> None:
    words = ["-n", 2, "--precision", "fp32", "--json"]
    ended = dalle("generate", "toy", *words, "--out", tmp_path / "tried")
    assert ended.code == 0, ended.err
    lines = (tmp_path / "tried" / "manifest.jsonl").read_text().splitlines()
    examples = read_about(RunDir(toy)).captions
    captions = [json.loads(line)["caption"] for line in lines]
    assert captions == [caption for caption in examples for _ in range(2)]


def test_model_without_examples_and_empty_files_of_captions_ask_for_some(
    toy: Path, transformer_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").touch()
    for words in ([transformer_run], ["toy", "--prompts", tmp_path / "empty.txt"]):
        ended = dalle("generate", *words)
        assert ended.code == 2 and "no captions" in ended.err


def test_nothing_shipped_is_an_empty_list(
    dalle: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalle_cli.storage.shipped.MODELS", str(tmp_path))
    assert json.loads(dalle("models", "--json").out) == {}
    assert "no model comes with" in dalle("models").err
