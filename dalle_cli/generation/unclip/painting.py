"""Points painted by a decoder without captions, and pictures made into such points.

Axes used below:

    B batch    R side of a picture
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.data.images import to_image
from dalle_cli.generation.batch_size import USABLE_SHARE, decoding_batch_size
from dalle_cli.generation.unclip.decoder_sampler import DecoderSampler
from dalle_cli.generation.unclip.latent_points import LatentPoint
from dalle_cli.generation.unclip.opening import open_decoder
from dalle_cli.generation.unclip.picture_latents import (
    PictureLatent,
    invert_latents,
    read_latent,
)
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.runtime.devices import explain_out_of_memory, free_memory, open_device
from dalle_cli.scoring.clip_scorer import ClipScorer


@dataclass(frozen=True)
class PaintOptions:
    """How pictures are painted of points.

    run         a decoder's run or export
    checkpoint  whose weights are used: "best", "last" or a step; None: the run's model
    out         a new folder; None: the next one of the run's samples
    """

    run: Path
    checkpoint: str | None
    sampling: UnclipSettings
    seed: int
    device: str
    precision: str
    out: Path | None


@dataclass(frozen=True)
class Painter:
    """A decoder and its CLIP on a device.

    settings  the fields of a picture's record that state how it was painted
    """

    decoder: DecoderSampler
    scorer: ClipScorer
    batch_size: int
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, options: PaintOptions, say: Callable[[str], None]) -> "Painter":
        """Load a decoder and its CLIP; raises DalleError like `open_decoder`.

        say  as in `open_device`
        """
        device, precision = open_device(options.device, options.precision, say=say)
        decoder, scorer = open_decoder(
            options.run,
            options.sampling,
            device=device,
            precision=precision,
            checkpoint=options.checkpoint,
        )
        per_picture, usable = decoder.bytes_per_picture(), USABLE_SHARE * free_memory(device)
        size = decoding_batch_size(per_picture, usable, kind=device.type)
        settings = {
            "seed": options.seed,
            "embedding_clip": scorer.identity,
            "device": device.type,
            "precision": precision,
            "decoding_batch_size": size,
        }
        return cls(decoder, scorer, size, settings)

    def with_eta(self, eta: float) -> "Painter":
        """Return one that paints by DDIM, with a share of the randomness of ancestral sampling."""
        return replace(self, decoder=self.decoder.with_eta(eta))

    @property
    def record(self) -> dict[str, Any]:
        """What a manifest says of how every picture was painted."""
        eta = {"eta": self.decoder.eta} if self.decoder.sampler == "ddim" else {}
        return {**self.decoder.settings, **eta, **self.settings}

    def read(self, file: Path) -> PictureLatent:
        """Read and embed a picture; raises UsageError like `read_latent`."""
        return read_latent(file, self.scorer, image_size=self.decoder.decoder.image_size)

    def invert(self, latents: Sequence[PictureLatent]) -> Tensor:
        """Find the noise of pictures: [B, 3, R, R]."""
        with explain_out_of_memory():
            return invert_latents(self.decoder, latents, batch_size=self.batch_size)

    def paint(self, points: Sequence[LatentPoint]) -> Iterator[Image.Image]:
        """Paint points in order."""
        for first in range(0, len(points), self.batch_size):
            batch = points[first : first + self.batch_size]
            with explain_out_of_memory():
                images = self.decoder.sample(
                    torch.stack([point.embedding for point in batch]),
                    None,
                    [point.key for point in batch],
                    start=torch.stack([point.start for point in batch]),
                )  # [B, 3, R, R]
            yield from map(to_image, images)
