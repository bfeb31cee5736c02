"""`dalle data emoji`: what it writes and reports, and the same bytes from the same files."""

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emoji_files import NAMES, picture_of, write_annotations, write_font
from PIL import Image, ImageFont, features

from dalle_cli.data.rendered.emoji_annotations import load_annotations
from dalle_cli.data.rendered.installed_files import (
    annotation_files,
    find_annotations,
    find_emoji_fonts,
)
from dalle_cli.errors import DalleError

SOME = {  # emoji and their names, None for what is left out
    "🐶": "dog face",
    "🇯🇵": "flag: Japan",
    "🇳🇴": "flag: Norway",
    "🇸🇯": "flag: Svalbard & Jan Mayen",
    "👋🏽": "waving hand: medium skin tone",
    "👩🏻‍🤝‍👩🏿": None,
    "🏻": None,
    "#": None,
    "€": None,
}


@pytest.fixture
def inputs(tmp_path: Path) -> list[object]:
    """The words that name a font and annotations, both of a few emoji."""
    annotations = write_annotations(tmp_path / "own" / "common")
    font = write_font(tmp_path / "own" / "emoji.ttf")
    return ["--font", font, "--annotations", annotations]


@pytest.fixture(
    scope="module", params=[8, pytest.param(1, marks=pytest.mark.slow)], ids="every {}".format
)
def nth(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def installed(nth: int, tmp_path_factory: pytest.TempPathFactory, dalle: Callable) -> Path:
    """The folder that the command makes of every nth installed name, for reading only."""
    try:
        find_emoji_fonts()
        everything = load_annotations(annotation_files(find_annotations()))
    except DalleError as missing:
        pytest.skip(missing.message)
    if not features.check("raqm"):
        pytest.skip("this Pillow has no Raqm")

    names = {
        sequence: (name, " | ".join(keywords))
        for i, (sequence, (name, keywords)) in enumerate(everything.items())
        if i % nth == 0 or sequence in SOME
    }
    folder = tmp_path_factory.mktemp("data")
    words = ["--annotations", write_annotations(folder / "common", names), "--size", 16]
    ended = dalle("data", "emoji", folder / "emoji", *words)
    assert ended.code == 0, ended.err
    return folder / "emoji"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_folder_and_report(tmp_path: Path, inputs: list[object], dalle: Callable) -> None:
    folder = tmp_path / "emoji"
    ended = dalle("data", "emoji", folder, *inputs, "--size", 20, "--held-out-share", 0)
    assert (ended.code, ended.out) == (0, f"{folder / 'train'}\n")
    assert {path.name for path in folder.iterdir()} == {
        "train", "train.txt", "held-out.txt", "manifest.csv", "licenses",
    }  # fmt: skip
    assert len(rows_of(folder)) == 6 and (folder / "train.txt").read_text().count("\n") == 6
    assert "train: 6 pictures of 5 concepts, 0 of them with a skin tone" in ended.err
    assert ended.err.count("left out: 1 that") == 3
    assert ended.err.count("no licence of the") == 2
    assert f"next: dalle train {folder / 'train'} --run DIR" in ended.err


def test_ground_and_size_are_those_asked_for(
    tmp_path: Path, inputs: list[object], dalle: Callable
) -> None:
    font = write_font(tmp_path / "narrow.ttf", {"🐶": picture_of("red", margin=8)})
    words = ["--font", font, *inputs[2:], "--ground", "#00f", "--size", 40, "--held-out-share", 0]
    assert dalle("data", "emoji", tmp_path / "emoji", *words).code == 0
    with Image.open(tmp_path / "emoji/train/plain/1f436-dog-face.png") as picture:
        assert picture.size == (40, 40)
        assert [picture.getpixel((x, 20)) for x in (2, 20)] == [(0, 0, 255), (255, 0, 0)]


def test_json_counts_everything(tmp_path: Path, inputs: list[object], dalle: Callable) -> None:
    ended = dalle("data", "emoji", tmp_path / "emoji", *inputs, "--json")
    facts = json.loads(ended.out)
    assert facts["train"] == str(tmp_path / "emoji" / "train")
    assert sum(facts["pictures"].values()) + sum(facts["left_out"].values()) == len(NAMES)


def test_same_files_and_options_give_the_same_bytes(
    tmp_path: Path, inputs: list[object], dalle: Callable, tree: Callable
) -> None:
    words = [*inputs, "--held-out-share", 0.5, "--quiet"]
    for name, seed in (("one", 2), ("same", 2), ("other", 5)):
        assert dalle("data", "emoji", tmp_path / name, *words, "--seed", seed).code == 0
    one, same, other = (tree(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same and one["manifest.csv"] != other["manifest.csv"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--font", "none.ttf"], 2, "no such font file: none.ttf"),
        (["--annotations", "none"], 2, "no such file: none/annotations/en.xml"),
        (["--ground", "no-colour"], 2, "no such colour: no-colour"),
        (["--held-out-share", "0.95"], 2, "--held-out-share"),
        (["--font", "README"], 1, "README is no intact font"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(
    tmp_path: Path,
    inputs: list[object],
    dalle: Callable,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README").write_text("not a font")
    ended = dalle("data", "emoji", tmp_path / "emoji", *inputs, *words)
    assert ended.code == code and message in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"README", "own"}


def test_warning_tells_why_sequences_are_missing(
    tmp_path: Path, inputs: list[object], dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFont.core, "HAVE_RAQM", False)
    ended = dalle("data", "emoji", tmp_path / "emoji", *inputs)
    assert ended.code == 0 and "FriBiDi must be installed" in ended.err


def test_font_without_any_named_emoji_is_told(
    tmp_path: Path, inputs: list[object], dalle: Callable
) -> None:
    font = write_font(tmp_path / "other.ttf", {"A": picture_of("red")})
    ended = dalle("data", "emoji", tmp_path / "emoji", *inputs, "--font", font)
    assert ended.code == 1 and "no picture of a named emoji" in ended.err


def test_installed_font_and_names_give_thousands_of_pairs(installed: Path, nth: int) -> None:
    rows = rows_of(installed)
    pictures = {str(path.relative_to(installed)) for path in installed.rglob("*.png")}
    assert {row["file"] for row in rows} == pictures and len(rows) == len(pictures) > 3000 / nth
    assert all((installed / row["file"]).with_suffix(".txt").stat().st_size for row in rows)

    names = {row["emoji"]: row["name"] for row in rows}
    assert {emoji: names.get(emoji) for emoji in SOME} == SOME


def test_installed_concepts_and_pictures_are_on_one_side_of_the_split(installed: Path) -> None:
    sides, pictures = defaultdict(set), defaultdict(set)
    for row in rows_of(installed):
        sides[row["concept"]].add(row["split"])
        with Image.open(installed / row["file"]) as picture:
            pictures[np.asarray(picture).tobytes()].add(row["split"])
    assert all(len(split) == 1 for split in (*sides.values(), *pictures.values()))
    held_out = sum(split == {"held-out"} for split in sides.values())
    assert 0.03 < held_out / len(sides) < 0.2


def test_installed_captions_are_distinct_and_skin_tones_in_all_of_theirs(installed: Path) -> None:
    for row in rows_of(installed):
        captions = (installed / row["file"]).with_suffix(".txt").read_text("utf-8").splitlines()
        assert captions[0] == row["name"] and all(captions)
        assert len({caption.casefold() for caption in captions}) == len(captions)
        assert all(row["skin_tone"] in caption for caption in captions)
