"""A picture to begin from: some of its tokens are kept, the others are drawn anew (Ramesh et al. 2021, section 3.3).

Knows nothing of captions, nor of how tokens are drawn. Axes: W side of the token grid, I = W * W image tokens.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, decode_image, to_tensor
from dalle_cli.errors import UsageError
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.untrusted import printable

DEFAULT_SHARE = 15, 32  # of the rows, where nobody says how many to keep


class Box(NamedTuple):
    """A rectangle of tokens; rows and columns count from 0."""

    row: int
    column: int
    n_rows: int
    n_columns: int


@dataclass(frozen=True)
class ImagePrompt:
    """A picture's file, and which of its tokens are kept: the top rows, or all but a box where there is one."""

    file: Path
    keep_rows: int | None = None  # None: 15 of 32, at least one
    redraw: Box | None = None


@dataclass(frozen=True)
class KeptTokens:
    """What is kept of a picture.

    tokens  int64 [I], -1 where one is to be drawn
    record  says for a manifest which picture it was, and what of it
    """

    tokens: Tensor
    record: dict[str, Any]


def keep_tokens(prompt: ImagePrompt, dvae: DiscreteVAE) -> KeptTokens:
    """Cut, scale and encode a picture as for validation, and keep what is asked for.

    Raises UsageError, before anything is computed, for rows or boxes there are not and for a picture of no use.
    """
    if prompt.redraw is not None:
        is_drawn = box_of_grid(prompt.redraw, dvae.grid_size)
        record = {"redraw": list(prompt.redraw)}
    else:
        n, of = DEFAULT_SHARE
        n_rows = max(dvae.grid_size * n // of, 1) if prompt.keep_rows is None else prompt.keep_rows
        is_drawn = all_but_top(n_rows, dvae.grid_size)
        record = {"keep_rows": n_rows}
    try:
        data = prompt.file.read_bytes()
        picture = decode_image(data)
    except OSError as error:
        raise UsageError(f"cannot read the picture {prompt.file}: {error.strerror}") from error
    except BadSample as error:
        raise UsageError(f"cannot use the picture {prompt.file}: {error.reason}") from error
    tokens = _encode(picture, dvae).masked_fill(is_drawn.flatten().to(_device(dvae)), -1)
    source = {
        "image": printable(prompt.file.name),
        "image_sha256": hashlib.sha256(data).hexdigest(),
    }
    return KeptTokens(tokens, source | record)


def all_but_top(n_rows: int, grid_size: int) -> Tensor:
    """Mark what lies below the top rows: bool [W, W]; raises UsageError where nothing would be kept, or drawn."""
    if not 0 < n_rows < grid_size:
        hint = f"keep 1 to {grid_size - 1} rows" if grid_size > 1 else ""
        raise UsageError(
            f"can't keep {n_rows} of {grid_size} rows of tokens and draw the others", hint
        )
    return torch.arange(grid_size)[:, None].expand(-1, grid_size) >= n_rows


def box_of_grid(box: Box, grid_size: int) -> Tensor:
    """Mark a box: bool [W, W]; raises UsageError where it is empty or not all inside."""
    rows, columns = (
        range(box.row, box.row + box.n_rows),
        range(box.column, box.column + box.n_columns),
    )
    if not all(0 <= cells.start < cells.stop <= grid_size for cells in (rows, columns)):
        raise UsageError(
            f"no such box to redraw: {','.join(map(str, box))}",
            f"there are {grid_size}x{grid_size} tokens, counted from 0: {grid_size // 2},0,{grid_size - grid_size // 2}"
            f",{grid_size} is the lower half",
        )
    is_drawn = torch.zeros(grid_size, grid_size, dtype=torch.bool)
    is_drawn[rows.start : rows.stop, columns.start : columns.stop] = True
    return is_drawn


@torch.inference_mode()
def _encode(picture: Image.Image, dvae: DiscreteVAE) -> Tensor:
    square = Image.fromarray(centre_crop(picture, dvae.image_size))
    return dvae.image_tokens(to_tensor(square)[None].to(_device(dvae)).float() / 255)[0]


def _device(dvae: DiscreteVAE) -> torch.device:
    return next(dvae.parameters()).device
