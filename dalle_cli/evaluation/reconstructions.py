"""Pictures in files, encoded and decoded by a discrete VAE, by one process or several.

Axes: G side of the token grid.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, decode_image, to_image, to_png, to_tensor
from dalle_cli.evaluation.figures.reconstruction_figures import (
    Reconstruction,
    measure_reconstruction,
)
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.small_files import read_input
from dalle_cli.viz import grid

EACH = 8  # pictures that a process reconstructs before those of all are gathered


class ReconstructedPicture(NamedTuple):
    """A picture and its reconstruction, side by side as a file, and how good it is."""

    pair: list[Image.Image]
    png: bytes
    found: Reconstruction


def reconstruct_files(
    files: list[Path], dvae: DiscreteVAE, world: World
) -> Iterator[tuple[Path, ReconstructedPicture | str]]:
    """Yield the comparison of each picture, in order, or the problem that it has instead.

    Every rank iterates, and only the main one gets anything.
    """
    n_together = EACH * world.size
    for start in range(0, len(files), n_together):
        part = files[start : start + n_together]
        share = world.share_of_batches(len(part), 1)
        ours = part[share.start : share.stop]
        compared = [(file, _reconstruct(file, dvae)) for file in ours]
        world.reach(f"picture {start + len(part):,}")
        yield from world.gather(compared)


def _reconstruct(file: Path, dvae: DiscreteVAE) -> ReconstructedPicture | str:
    """Reconstruct the picture in a file; returns its problem if it can't be read."""
    try:
        square = centre_crop(decode_image(read_input(file)), dvae.image_size)
    except BadSample as error:
        return error.reason
    except OSError as error:
        return error.strerror or str(error)
    original = to_tensor(Image.fromarray(square)).float() / 255  # [3, H, W]
    image_tokens, rebuilt = _rebuild(dvae, original)

    pair = [to_image(original), to_image(rebuilt)]
    found = measure_reconstruction(original, rebuilt, image_tokens=image_tokens)
    return ReconstructedPicture(pair, to_png(grid(pair, columns=2)), found)


@torch.inference_mode()
def _rebuild(dvae: DiscreteVAE, original: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a picture [3, H, W] and decode its hard tokens: int64 [G * G] and [3, H, W]."""
    device = next(dvae.parameters()).device
    image_tokens = dvae.image_tokens(original[None].to(device))
    return image_tokens[0].cpu(), dvae.decode(image_tokens)[0].cpu()
