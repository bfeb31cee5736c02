"""`dalle data emoji`: renders a captioned emoji data set from the system's font and names."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from PIL import ImageColor, features

from dalle_cli.console import Terminal
from dalle_cli.data.rendered.emoji_annotations import load_annotations
from dalle_cli.data.rendered.emoji_collection import Emoji, collect_emoji
from dalle_cli.data.rendered.emoji_folder import (
    TRAIN,
    Split,
    copy_licences,
    split_emoji,
    write_emoji,
)
from dalle_cli.data.rendered.emoji_font import Colour, open_emoji_font
from dalle_cli.data.rendered.installed_files import (
    annotation_files,
    find_annotations,
    licence_files,
)
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.storage.atomic import atomic_folder
from dalle_cli.storage.run_dir import check_new_folder


class EmojiOptions(NamedTuple):
    """What `dalle data emoji` was asked for; without font and annotations it looks for them."""

    font: Path | None
    annotations: Path | None
    side: int
    ground: str
    held_out_share: float
    seed: int


def run_data_emoji(folder: Path, terminal: Terminal, options: EmojiOptions) -> None:
    """Write pictures with captions, prompts, a manifest and the licences into a new folder.

    An interrupted command leaves nothing in the folder.
    """
    check_new_folder(folder)
    ground = _colour(options.ground)
    font = open_emoji_font(options.font)
    names = options.annotations or find_annotations()
    annotations = load_annotations(annotation_files(names))
    terminal.say(f"writing {folder} from {printable(str(font.path))} and {printable(str(names))}")

    collection, left_out = collect_emoji(annotations, font)
    split = split_emoji(collection, options.held_out_share, seed=options.seed)
    if not split[TRAIN]:
        raise DalleError(f"{printable(str(font.path))} has no picture of a named emoji to train on")

    licences = {"font": licence_files(font.path, "font"), "names": licence_files(names, "names")}
    with atomic_folder(folder) as staging:
        write_emoji(staging, split, font, side=options.side, ground=ground)
        copy_licences(staging / "licenses", licences)

    _report(terminal, split, left_out)
    _report_licences(terminal, licences)
    train = str(folder / TRAIN)
    terminal.suggest(["train", train, "--run", "DIR"])
    terminal.result(train, _facts(train, split, left_out))


def _colour(name: str) -> Colour:
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        hint = "give a name such as white, or a value such as #ffffff"
        raise UsageError(f"no such colour: {printable(name)}", hint) from error


def _report(terminal: Terminal, split: Split, left_out: Counter[str]) -> None:
    """Print how many pictures there are, and how many characters with a name are not among them."""
    for name, group in split.items():
        n_tones = sum(bool(emoji.skin_tone) for emoji in group)
        terminal.say(
            f"{name}: {len(group):,} pictures of {_n_concepts(group):,} concepts, "
            f"{n_tones:,} of them with a skin tone"
        )
    for reason, n in left_out.items():
        terminal.say(f"left out: {n:,} that {reason}")
    if not features.check("raqm"):
        terminal.warn(
            "emoji of several characters are left out: Pillow joins them with Raqm, "
            "for which the library FriBiDi must be installed"
        )


def _report_licences(terminal: Terminal, licences: dict[str, list[Path]]) -> None:
    for kind, files in licences.items():
        if not files:
            terminal.warn(f"no licence of the {kind} was found: see where you have it from")


def _n_concepts(group: list[Emoji]) -> int:
    return len({emoji.concept for emoji in group})


def _facts(train: str, split: Split, left_out: Counter[str]) -> dict[str, object]:
    return {
        "train": train,
        "pictures": {name: len(group) for name, group in split.items()},
        "concepts": {name: _n_concepts(group) for name, group in split.items()},
        "left_out": dict(left_out),
    }
