"""The folder of an emoji collection: pairs for training and held out, prompts, licences, a table.

    train/plain, train/skin-tones, held-out/...     pictures with their captions
    train.txt, held-out.txt                         short names to generate, without skin tones
    manifest.csv                                    a row for each picture
    licenses/                                       of the font and of the names

Skin tones are apart because there are many of them: a trainer can give them a smaller share.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from dalle_cli.data.images import to_png
from dalle_cli.data.rendered.emoji_captions import CaptionWriter
from dalle_cli.data.rendered.emoji_collection import Emoji
from dalle_cli.data.rendered.emoji_concepts import code_points, is_held_out
from dalle_cli.data.rendered.emoji_font import Colour, EmojiFont
from dalle_cli.storage.atomic import copy_file, make_folder, write_file

TRAIN, HELD_OUT = SPLITS = ("train", "held-out")
COLUMNS = ("file", "split", "codepoints", "emoji", "name", "concept", "skin_tone")

Split = Mapping[str, list[Emoji]]


def split_emoji(collection: Iterable[Emoji], share: float, *, seed: int) -> Split:
    """Divide emoji by their concepts; the same seed holds out the same concepts."""
    split: dict[str, list[Emoji]] = {name: [] for name in SPLITS}
    for emoji in collection:
        side = HELD_OUT if is_held_out(emoji.concept, share, seed=seed) else TRAIN
        split[side].append(emoji)
    return split


def write_emoji(folder: Path, split: Split, font: EmojiFont, *, side: int, ground: Colour) -> None:
    """Write pictures, captions, prompts and the manifest into a folder that is empty."""
    captions = CaptionWriter(emoji for group in split.values() for emoji in group)
    for name, group in split.items():
        for emoji in group:
            picture = folder / _file_of(emoji, name)
            make_folder(picture.parent)
            write_file(picture, to_png(font.render_emoji(emoji.spelling, side, ground=ground)))
            _write_lines(picture.with_suffix(".txt"), captions.captions(emoji))

        prompts = [emoji.name for emoji in group if not emoji.skin_tone]
        _write_lines(folder / f"{name}.txt", prompts)
    _write_manifest(folder / "manifest.csv", split)


def copy_licences(folder: Path, licences: Mapping[str, list[Path]]) -> None:
    """Copy licence texts into a new folder, each named after what it belongs to."""
    make_folder(folder)
    for kind, files in licences.items():
        for file in files:
            copy_file(file, folder / f"{kind}-{file.stem}{file.suffix or '.txt'}")


def _file_of(emoji: Emoji, split: str) -> str:
    return f"{split}/{'skin-tones' if emoji.skin_tone else 'plain'}/{emoji.stem}.png"


def _write_manifest(path: Path, split: Split) -> None:
    name_of = {emoji.sequence: emoji.name for group in split.values() for emoji in group}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for name, group in split.items():
        for emoji in group:
            concept = name_of.get(emoji.concept, code_points(emoji.concept))
            rows.writerow(
                [
                    _file_of(emoji, name),
                    name,
                    code_points(emoji.sequence),
                    emoji.spelling,
                    emoji.name,
                    concept,
                    emoji.skin_tone,
                ]
            )
    write_file(path, text.getvalue())


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_file(path, "".join(f"{line}\n" for line in lines))
