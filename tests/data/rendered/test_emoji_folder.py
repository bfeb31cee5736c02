"""The folder of a collection: every emoji on one side, in pairs that the sources read."""

import csv
from pathlib import Path

import numpy as np
import pytest
from emoji_files import write_font
from PIL import Image

from dalle_cli.data.rendered.emoji_captions import CaptionWriter
from dalle_cli.data.rendered.emoji_collection import Emoji
from dalle_cli.data.rendered.emoji_folder import COLUMNS, copy_licences, split_emoji, write_emoji
from dalle_cli.data.rendered.emoji_font import EmojiFont
from dalle_cli.data.sources import open_datasets

GROUND = (255, 255, 255)
DOG = Emoji("🐶", "🐶", "dog face", ("dog", "pet"), "🐶", "")
HAND = Emoji("👋", "👋", "waving hand", ("wave",), "👋", "")
LIGHT_HAND = Emoji("👋🏻", "👋", "waving hand: light skin tone", (), "👋", "light skin tone")
PIZZA = Emoji("🍕", "🍕", "pizza", ("cheese", "pizza"), "🍽", "")
SPLIT = {"train": [DOG, HAND, LIGHT_HAND], "held-out": [PIZZA]}


@pytest.fixture
def font(tmp_path: Path) -> EmojiFont:
    return EmojiFont(write_font(tmp_path / "emoji.ttf"))


@pytest.fixture
def folder(font: EmojiFont, tmp_path: Path) -> Path:
    folder = tmp_path / "emoji"
    folder.mkdir()
    write_emoji(folder, SPLIT, font, side=32, ground=GROUND)
    return folder


def test_pairs_are_beside_each_other_and_skin_tones_apart(folder: Path, font: EmojiFont) -> None:
    files = {
        "train/plain/1f436-dog-face": DOG,
        "train/plain/1f44b-waving-hand": HAND,
        "train/skin-tones/1f44b-1f3fb-waving-hand-light-skin-tone": LIGHT_HAND,
        "held-out/plain/1f355-pizza": PIZZA,
    }
    written = {str(path.relative_to(folder))[:-4] for path in folder.rglob("*.png")}
    assert written == set(files)

    writer = CaptionWriter([DOG, HAND, LIGHT_HAND, PIZZA])
    for name, emoji in files.items():
        with Image.open(folder / f"{name}.png") as picture:
            rendered = font.render_emoji(emoji.spelling, 32, ground=GROUND)
            assert np.array_equal(np.asarray(picture), np.asarray(rendered))
        assert (folder / f"{name}.txt").read_text().splitlines() == writer.captions(emoji)


def test_prompts_are_names_without_skin_tones(folder: Path) -> None:
    assert (folder / "train.txt").read_text() == "dog face\nwaving hand\n"
    assert (folder / "held-out.txt").read_text() == "pizza\n"


def test_manifest_has_a_row_for_each_picture(folder: Path) -> None:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    assert rows[0] == COLUMNS
    tone = "train/skin-tones/1f44b-1f3fb-waving-hand-light-skin-tone.png"
    assert rows[3][:4] == (tone, "train", "1f44b-1f3fb", "👋")
    assert rows[3][4:] == ("waving hand: light skin tone", "waving hand", "light skin tone")
    assert rows[4][4:] == ("pizza", "1f37d", "") and len(rows) == 5  # a concept without a name


def test_a_source_reads_both_folders_and_can_weigh_them(folder: Path) -> None:
    train = str(folder / "train")
    assert len(open_datasets([train], captions_required=True)) == 3
    mixed = open_datasets([f"{train}/plain", f"{train}/skin-tones@0.3"], captions_required=True)
    shares = [float(stream.share) for stream in mixed.streams(np.arange(len(mixed)))]
    assert len(mixed) == 3 and shares == [0.7, 0.3]


def test_all_variants_of_a_concept_are_on_one_side() -> None:
    concepts = [chr(code) for code in range(0x1F300, 0x1F400)]
    everything = [
        Emoji(concept + tone, "", "", (), concept, tone) for concept in concepts for tone in "🏻🏿"
    ]
    split = split_emoji(everything, 0.2, seed=3)
    sides = [{emoji.concept for emoji in group} for group in split.values()]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(concepts)
    assert 25 < len(sides[1]) < 80
    assert split_emoji(everything, 0.0, seed=3) == {"train": everything, "held-out": []}


def test_licences_are_copied_under_what_they_belong_to(tmp_path: Path) -> None:
    for name in ("copyright", "OFL.txt"):
        (tmp_path / name).write_text(f"licence {name}")
    licences = {"font": [tmp_path / "copyright", tmp_path / "OFL.txt"], "names": []}
    copy_licences(tmp_path / "licenses", licences)
    copied = {path.name: path.read_text() for path in (tmp_path / "licenses").iterdir()}
    assert copied == {"font-copyright.txt": "licence copyright", "font-OFL.txt": "licence OFL.txt"}
