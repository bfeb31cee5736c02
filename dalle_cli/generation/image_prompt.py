"""A picture to start from: some of its tokens are kept, the others are sampled (Ramesh et al. 2021,
section 3.3).

Knows nothing of captions, or of how tokens are sampled. Axes: W side of the token grid, I = W * W
image tokens.
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
from dalle_cli.errors import UsageError, printable
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.storage.small_files import read_input

DEFAULT_KEPT_SHARE = 15, 32  # of the rows


class Box(NamedTuple):
    """A rectangle of tokens; rows and columns count from 0."""

    row: int
    column: int
    n_rows: int
    n_columns: int


@dataclass(frozen=True)
class ImagePrompt:
    """A picture's file, and which of its tokens are kept: the top rows, or all but a box.

    keep_rows  None: 15 of 32, at least one
    """

    file: Path
    keep_rows: int | None = None
    redraw: Box | None = None


@dataclass(frozen=True)
class KeptTokens:
    """The tokens that are kept of a picture.

    tokens  int64 [I], -1 where a token is to be sampled
    record  which picture it was and what was kept, for a manifest
    """

    tokens: Tensor
    record: dict[str, Any]


def keep_tokens(prompt: ImagePrompt, dvae: DiscreteVAE) -> KeptTokens:
    """Crop, scale and encode a picture as for validation, and mark the tokens to be sampled.

    Raises UsageError, before anything is computed, for rows or a box outside the grid and for an
    unusable picture.
    """
    record: dict[str, Any]
    if prompt.redraw is not None:
        is_sampled = box_mask(prompt.redraw, dvae.grid_size)
        record = {"redraw": list(prompt.redraw)}
    else:
        n_rows = prompt.keep_rows
        if n_rows is None:
            n_rows = default_kept_rows(dvae.grid_size)
        is_sampled = lower_rows_mask(n_rows, dvae.grid_size)
        record = {"keep_rows": n_rows}

    try:
        data = read_input(prompt.file)
        picture = decode_image(data)
    except OSError as error:
        raise UsageError(f"cannot read the picture {prompt.file}: {error.strerror}") from error
    except BadSample as error:
        raise UsageError(f"cannot use the picture {prompt.file}: {error.reason}") from error

    source = {
        "image": printable(prompt.file.name),
        "image_sha256": hashlib.sha256(data).hexdigest(),
    }
    return KeptTokens(_kept(picture, is_sampled, dvae), source | record)


def keep_top_rows(picture: Image.Image, n_rows: int | None, dvae: DiscreteVAE) -> Tensor:
    """Return the tokens of an RGB picture in memory, of which the top rows are kept.

    n_rows   None: 15 of 32, at least one
    returns  int64 [I], -1 where a token is to be sampled

    Raises UsageError for rows outside the grid.
    """
    grid_size = dvae.grid_size
    chosen = default_kept_rows(grid_size) if n_rows is None else n_rows
    return _kept(picture, lower_rows_mask(chosen, grid_size), dvae)


def default_kept_rows(grid_size: int) -> int:
    """Return how many rows of tokens are kept where nothing else is asked for."""
    n, of = DEFAULT_KEPT_SHARE
    return max(grid_size * n // of, 1)


def lower_rows_mask(n_rows: int, grid_size: int) -> Tensor:
    """Return a mask of everything below the top n rows: bool [W, W].

    Raises UsageError where nothing would be kept, or nothing sampled.
    """
    if not 0 < n_rows < grid_size:
        hint = f"keep 1 to {grid_size - 1} rows" if grid_size > 1 else ""
        message = f"can't keep {n_rows} of {grid_size} rows of tokens and sample the others"
        raise UsageError(message, hint)
    return torch.arange(grid_size)[:, None].expand(-1, grid_size) >= n_rows


def box_mask(box: Box, grid_size: int) -> Tensor:
    """Return a mask of a box: bool [W, W].

    Raises UsageError where it is empty or not inside the grid.
    """
    rows = range(box.row, box.row + box.n_rows)
    columns = range(box.column, box.column + box.n_columns)

    if not all(0 <= cells.start < cells.stop <= grid_size for cells in (rows, columns)):
        half = grid_size // 2
        raise UsageError(
            f"no such box to redraw: {','.join(map(str, box))}",
            f"there are {grid_size}x{grid_size} tokens, counted from 0: "
            f"{half},0,{grid_size - half},{grid_size} is the lower half",
        )

    mask = torch.zeros(grid_size, grid_size, dtype=torch.bool)
    mask[rows.start : rows.stop, columns.start : columns.stop] = True
    return mask


def _kept(picture: Image.Image, is_sampled: Tensor, dvae: DiscreteVAE) -> Tensor:
    tokens = _encode(picture, dvae)
    return tokens.masked_fill(is_sampled.flatten().to(tokens.device), -1)


@torch.inference_mode()
def _encode(picture: Image.Image, dvae: DiscreteVAE) -> Tensor:
    square = to_tensor(Image.fromarray(centre_crop(picture, dvae.image_size)))
    images = square[None].to(next(dvae.parameters()).device).float() / 255  # [1, 3, H, W]
    return dvae.image_tokens(images)[0]  # [I]
