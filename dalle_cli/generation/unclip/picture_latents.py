"""Pictures as DALL-E 2 sees them: CLIP's embedding, and what is left of them without it.

Ramesh et al. 2022, section 3: the embedding holds what CLIP recognises; the noise that DDIM finds
for a picture holds the rest. Axes used below:

    B batch    D width of CLIP's embedding    R side of a picture
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.data.images import BadSample, decode_image, to_tensor
from dalle_cli.data.unclip.preprocessing import squares_for_both
from dalle_cli.errors import UsageError, printable
from dalle_cli.generation.unclip.decoder_sampler import DecoderSampler
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.storage.small_files import read_input


@dataclass(frozen=True)
class PictureLatent:
    """A picture, cropped to the square that both models see.

    checksum   SHA-256 of the file
    picture    as the decoder would paint it
    embedding  [D], of unit length
    """

    file: Path
    checksum: str
    picture: Image.Image
    embedding: Tensor

    @property
    def name(self) -> str:
        """The file's name, fit for a terminal."""
        return printable(self.file.name)

    @property
    def record(self) -> dict[str, Any]:
        """Fields of a manifest that state which picture it was."""
        return {"picture": printable(str(self.file)), "picture_sha256": self.checksum}


def read_latent(file: Path, scorer: ClipScorer, *, image_size: int) -> PictureLatent:
    """Read a picture and embed it.

    image_size  of the decoder's pictures

    Raises UsageError where the file can't be read, or is no usable picture.
    """
    try:
        data = read_input(file)
        picture = decode_image(data)
    except OSError as error:
        message = f"cannot read the picture {printable(str(file))}: {error.strerror}"
        raise UsageError(message) from error
    except BadSample as error:
        message = f"cannot use the picture {printable(str(file))}: {error.reason}"
        raise UsageError(message) from error

    clip_size = scorer.clip.image_size
    pixels, clip_pixels = squares_for_both(picture, image_size=image_size, clip_size=clip_size)
    embedding = scorer.embed_pictures([clip_pixels])[0]  # [D]
    return PictureLatent(file, hashlib.sha256(data).hexdigest(), Image.fromarray(pixels), embedding)


def invert_latents(
    decoder: DecoderSampler, latents: Sequence[PictureLatent], *, batch_size: int
) -> Tensor:
    """Find the noise from which the decoder paints pictures again: [B, 3, R, R], on the CPU."""
    found = []
    for first in range(0, len(latents), batch_size):
        batch = latents[first : first + batch_size]
        images = torch.stack([to_tensor(latent.picture) for latent in batch]).float() / 255
        embeddings = torch.stack([latent.embedding for latent in batch])  # [B, D]
        found.append(decoder.invert(images, embeddings).cpu())
    return torch.cat(found)
