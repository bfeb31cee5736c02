"""`dalle blend`: pictures between two pictures, or from one towards a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dalle_cli.commands.unclip.painted_rows import write_painted_rows
from dalle_cli.console import Terminal
from dalle_cli.errors import UsageError, printable
from dalle_cli.generation.unclip.latent_points import (
    LatentPoint,
    blend_points,
    text_blend_points,
)
from dalle_cli.generation.unclip.painting import Painter, PaintOptions
from dalle_cli.generation.unclip.picture_latents import PictureLatent
from dalle_cli.models.unclip.interpolation import text_direction
from dalle_cli.storage.run_dir import check_new_folder
from dalle_cli.viz import Row


@dataclass(frozen=True)
class TextChange:
    """A way from a picture, given in words.

    towards    what the picture is to show
    away_from  what it shows; None: the way leads to the first text itself
    strength   how far along the arc the path goes, 1: to the text
    """

    towards: str
    away_from: str | None
    strength: float


def run_blend(
    options: PaintOptions, first: Path, last: Path | TextChange, *, n: int, terminal: Terminal
) -> None:
    """Write n pictures on the way from one picture to another, or along a change of text.

    Raises DalleError for whatever a user can cause; nothing is written then.
    """
    if options.out is not None:
        check_new_folder(options.out)
    painter = Painter.open(options, terminal.say)
    begins = painter.read(first)
    if isinstance(last, Path):
        points, row = _between(painter, begins, painter.read(last), n=n, seed=options.seed)
        facts: dict[str, Any] = {}
    else:
        direction = _direction(painter, last, terminal)
        points = text_blend_points(
            begins,
            painter.invert([begins])[0],
            direction,
            n=n,
            strength=last.strength,
            seed=options.seed,
        )
        facts = {"to": last.towards, "from": last.away_from}
        row = f"{begins.name}, towards: {printable(last.towards)}", [begins.picture]

    # by DDIM without randomness: the ends are the pictures again
    write_painted_rows(
        painter.with_eta(0.0), points, [row], options=options, facts=facts, terminal=terminal
    )


def _between(
    painter: Painter, first: PictureLatent, last: PictureLatent, *, n: int, seed: int
) -> tuple[list[LatentPoint], Row]:
    starts = painter.invert([first, last])
    row = f"{first.name} and {last.name}, and the way between", [first.picture, last.picture]
    return blend_points(first, last, starts, n=n, seed=seed), row


def _direction(painter: Painter, change: TextChange, terminal: Terminal) -> Tensor:
    """Return the direction [D] of a change of text; raises UsageError where it is none."""
    texts = [change.towards, *([] if change.away_from is None else [change.away_from])]
    for warning in painter.scorer.warnings(texts):
        terminal.warn(warning)
    embeddings = painter.scorer.embed_captions(texts)  # [1 or 2, D]
    try:
        return text_direction(embeddings[:1], embeddings[1:] if len(texts) > 1 else None)[0]
    except ValueError as error:
        message = "`--from` and `--to` mean the same to this CLIP"
        raise UsageError(message, "give two texts that differ") from error
