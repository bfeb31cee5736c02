"""Previews of a prior: what it guesses from captions, next to the pictures that these belong to."""

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.data.images import to_image
from dalle_cli.data.loader import Batch
from dalle_cli.training.tasks.unclip.clip_pairs import ClipPairs
from dalle_cli.viz import labelled_grid

TILE = 16  # pixels


def embedding_sheet(batch: Batch, pairs: ClipPairs, guessed: Tensor) -> Image.Image:
    """Render how close guessed embeddings [B, D] are to those of the pictures of a batch.

    Under each caption are the pictures, the closest first. Where they were embedded beforehand, and
    there are none to show, a grey tile stands for each in the order of the captions, the brighter
    the closer: the diagonal should be bright.
    """
    cosines = F.normalize(guessed, dim=1) @ pairs.images.T  # [B, B]
    if batch.embeddings is not None:
        tiles = [[_tile(cosine) for cosine in row] for row in cosines.clamp(0, 1).tolist()]
        return labelled_grid(list(zip(batch.captions, tiles, strict=True)))

    pictures = [to_image(image) for image in batch.images]
    order = cosines.argsort(dim=1, descending=True).tolist()
    return labelled_grid(
        [
            (caption, [pictures[i] for i in best])
            for caption, best in zip(batch.captions, order, strict=True)
        ],
        columns=("closest",),
    )


def _tile(brightness: float) -> Image.Image:
    level = round(255 * brightness)
    return Image.new("RGB", (TILE, TILE), (level, level, level))
