"""Points and paths in the space of embedding and noise: variations, blends, projections.

Ramesh et al. 2022, sections 3 and 7. Axes used below:

    D width of CLIP's embedding    R side of a picture    n points of a row
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dalle_cli.generation.unclip.decoder_sampler import DecoderSampler
from dalle_cli.generation.unclip.noise import NoiseKey
from dalle_cli.generation.unclip.picture_latents import PictureLatent
from dalle_cli.models.unclip.embedding_codec import PrincipalComponents
from dalle_cli.models.unclip.interpolation import keep_components, slerp


@dataclass(frozen=True)
class LatentPoint:
    """A picture to be painted.

    row        the number of the row that it is in
    embedding  [D]
    start      [3, R, R], the noise that it begins with
    key        of the noise that is added on the way
    facts      what tells it from others, for a manifest
    """

    row: int
    embedding: Tensor
    start: Tensor
    key: NoiseKey
    facts: Mapping[str, Any]


def variation_points(
    decoder: DecoderSampler,
    latents: Sequence[PictureLatent],
    *,
    n: int,
    seed: int,
    starts: Tensor | None,
) -> list[LatentPoint]:
    """Return n points for each picture, which have its embedding and different noise.

    starts  [B, 3, R, R], those of the pictures, for variations that differ by the noise on the way
            alone; None: each begins with noise of its own
    """
    points = []
    for row, latent in enumerate(latents):
        keys = [NoiseKey(seed, latent.checksum, number) for number in range(n)]
        own = decoder.start(keys).cpu() if starts is None else starts[row].expand(n, -1, -1, -1)
        points += [
            LatentPoint(row, latent.embedding, start, key, {**latent.record, "number": key.number})
            for key, start in zip(keys, own, strict=True)
        ]
    return points


def blend_points(
    first: PictureLatent, last: PictureLatent, starts: Tensor, *, n: int, seed: int
) -> list[LatentPoint]:
    """Return n points on the arcs from one picture's embedding and noise to another's.

    starts  [2, 3, R, R], the noise of both pictures
    """
    shares = torch.linspace(0, 1, n, dtype=torch.float64)
    ends = first.embedding.expand(n, -1), last.embedding.expand(n, -1)  # [n, D] each
    noises = starts[0].expand(n, -1, -1, -1), starts[1].expand(n, -1, -1, -1)
    key = NoiseKey(seed, f"{first.checksum} {last.checksum}", 0)
    record = {**first.record, **{f"to_{name}": fact for name, fact in last.record.items()}}
    path = zip(slerp(*ends, shares), slerp(*noises, shares), _rounded(shares), strict=True)
    return [
        LatentPoint(0, embedding, start, key, {**record, "share": share})
        for embedding, start, share in path
    ]


def text_blend_points(
    latent: PictureLatent, start: Tensor, direction: Tensor, *, n: int, strength: float, seed: int
) -> list[LatentPoint]:
    """Return n points on the arc from a picture's embedding towards that of a text.

    start      [3, R, R], the noise of the picture, which all points share
    direction  [D], a unit vector, see `text_direction`
    strength   the share of the arc at which the path ends
    """
    shares = torch.linspace(0, strength, n, dtype=torch.float64)
    ends = latent.embedding.expand(n, -1), direction.expand(n, -1)  # [n, D] each
    key = NoiseKey(seed, latent.checksum, 0)
    return [
        LatentPoint(0, embedding, start, key, {**latent.record, "share": share})
        for embedding, share in zip(slerp(*ends, shares), _rounded(shares), strict=True)
    ]


def projection_points(
    decoder: DecoderSampler,
    latents: Sequence[PictureLatent],
    basis: PrincipalComponents,
    *,
    counts: Sequence[int],
    seed: int,
) -> list[LatentPoint]:
    """Return a point for each picture and number of components that are kept of its embedding.

    All points of a picture begin with the same noise.
    """
    points = []
    for row, latent in enumerate(latents):
        key = NoiseKey(seed, latent.checksum, 0)
        start = decoder.start([key])[0].cpu()  # [3, R, R]
        rows = latent.embedding.expand(len(counts), -1)  # [n, D]
        kept = keep_components(rows, basis, torch.tensor(counts))  # [n, D]
        points += [
            LatentPoint(row, embedding, start, key, {**latent.record, "components": count})
            for embedding, count in zip(kept, counts, strict=True)
        ]
    return points


def _rounded(shares: Tensor) -> list[float]:
    return [round(share, 6) for share in shares.tolist()]
