"""Every model that comes with the package: it loads, generates, and is described in full."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dalle_cli.loading import load_clip_parts, load_dalle
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.model_folder import is_half_precision
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.shipped import shipped_models

MODELS = shipped_models()
LARGEST = 25 * 10**6  # bytes of all models together
N_EXAMPLES = 8

every_model = pytest.mark.parametrize("name", MODELS)


def test_all_models_together_stay_small() -> None:
    files = [path for folder in MODELS.values() for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST


@every_model
def test_model_has_everything_that_a_name_may_stand_for(name: str) -> None:
    run = RunDir(MODELS[name])
    parts = load_dalle(run.root)
    assert parts.known_words is not None and parts.caption_dropout is not None
    assert load_clip_parts(run.root).clip.image_size > 0
    assert run.recipe.is_file() and run.export.is_file()
    for folder in (run.model, run.dvae, RunDir(run.clip).model):
        assert is_half_precision(folder)


@every_model
def test_card_says_what_the_author_does(name: str) -> None:
    run = RunDir(MODELS[name])
    about, card = read_about(run), run.model_card.read_text("utf-8")
    assert about.figures and len(set(about.captions)) == N_EXAMPLES
    for said in (about.title, about.draws, about.data, about.data_licence, about.training):
        assert said in card
    assert f"license: {about.licence.lower()}\n" in card
    assert all(f"- {limit}\n" in card for limit in about.limits)
    assert all(f"| {figure} | {value} |" in card for figure, value in about.figures.items())
    assert f'dalle generate {name} "a caption"' in card
    advice = about.sampling
    assert f"at temperature {advice.temperature:g} with guidance {advice.guidance:g}." in card


@every_model
def test_examples_have_no_word_that_was_not_trained_on(name: str) -> None:
    known = load_dalle(MODELS[name]).known_words
    assert known is not None
    captions = read_about(RunDir(MODELS[name])).captions
    assert not [word for caption in captions for word in known.unknown_in(caption)]


@pytest.mark.thorough
@every_model
def test_model_generates_a_picture_of_its_size(name: str, dalle: Callable, tmp_path: Path) -> None:
    caption = read_about(RunDir(MODELS[name])).captions[0]
    words = [caption, "-n", 1, "--clip", name, "--out", tmp_path / "out", "--precision", "fp32"]
    ended = dalle("generate", name, *words)
    assert ended.code == 0, ended.err
    size = json.loads(dalle("models", "--json").out)[name]["image_size"]
    with Image.open(tmp_path / "out" / "0000.png") as picture:
        assert picture.size == (size, size)
        assert len(picture.getcolors(maxcolors=size**2)) > 1
