"""Figures of generated pictures against real ones: by Inception, by a CLIP, and among themselves.

Ramesh et al. 2021, section 3.1: FID and the Inception Score with both sides blurred by the same
radius. Knows nothing of where pictures come from. Axes: N M pictures, E CLIP's shared width.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dalle_cli.evaluation.figures.blur import RADII, blur_squares
from dalle_cli.evaluation.figures.distances import (
    FeatureMoments,
    compare_neighbourhoods,
    distances_within,
    frechet_distance,
    inception_score,
    moments_of,
)
from dalle_cli.evaluation.figures.inception import WIDTH, Inception
from dalle_cli.evaluation.figures.retrieval import retrieval_figures
from dalle_cli.evaluation.picture_sets import PictureSet, Square, stack_squares
from dalle_cli.scoring.clip_scorer import ClipScorer

Advance = Callable[[], None]


@dataclass
class _Statistics:
    """What Inception says of one side, blurred by one radius."""

    moments: FeatureMoments = field(default_factory=lambda: FeatureMoments(WIDTH))
    logits: list[np.ndarray] = field(default_factory=list)


def inception_figures(
    inception: Inception, real: PictureSet, generated: PictureSet, *, advance: Advance
) -> dict[str, float]:
    """Compute FID, and the Inception Score of the generated pictures, for every radius of blur.

    advance  called once for each picture, N + M times
    """
    of_real = _statistics(inception, real, advance, with_logits=False)
    of_generated = _statistics(inception, generated, advance, with_logits=True)

    figures: dict[str, float] = {}
    for radius in RADII:
        score = inception_score(np.concatenate(of_generated[radius].logits))
        figures |= {
            f"fid/blur_{radius}": frechet_distance(
                of_real[radius].moments, of_generated[radius].moments
            ),
            f"inception_score/blur_{radius}": score.mean,
            f"inception_score_std/blur_{radius}": score.std,
        }
    return figures


def _statistics(
    inception: Inception, pictures: PictureSet, advance: Advance, *, with_logits: bool
) -> dict[int, _Statistics]:
    statistics = {radius: _Statistics() for radius in RADII}
    for squares in pictures.batches():
        pixels = stack_squares(squares)
        for radius, found in statistics.items():
            features, logits = inception(blur_squares(pixels, radius))
            found.moments.add(features)
            if with_logits:
                found.logits.append(logits)
        for _ in squares:
            advance()
    return statistics


@dataclass(frozen=True)
class ClipFeatures:
    """The embeddings of pictures and of their captions: unit vectors fp32 [N, E] each."""

    pictures: Tensor
    captions: Tensor
    texts: list[str]

    @property
    def score(self) -> float:
        """The mean cosine of a picture and its caption."""
        return float((self.pictures * self.captions).sum(dim=1).double().mean())


def embed_set(scorer: ClipScorer, pictures: PictureSet, advance: Advance) -> ClipFeatures:
    """Embed pictures and their captions; advance is called once for each picture."""
    texts: list[str] = []
    embedded: list[Tensor] = []
    for squares in pictures.batches():
        embedded.append(embed_squares(scorer, squares))
        texts += [square.caption for square in squares]
        for _ in squares:
            advance()
    distinct = list(dict.fromkeys(texts))
    captions = dict(zip(distinct, scorer.embed_captions(distinct), strict=True))
    return ClipFeatures(torch.cat(embedded), torch.stack([captions[t] for t in texts]), texts)


def embed_squares(scorer: ClipScorer, squares: list[Square]) -> Tensor:
    """Embed squares of any side: unit vectors fp32 [B, E]."""
    pictures = [Image.fromarray(square.pixels) for square in squares]
    return scorer.embed_pictures([scorer.square(picture) for picture in pictures])


def clip_sample_figures(real: ClipFeatures, generated: ClipFeatures) -> dict[str, float]:
    """Compare generated pictures with their captions, and with real pictures, as a CLIP sees them.

    Figures `_of_data` are those of the real pictures with their own captions, for comparison.
    """
    neighbourhoods = compare_neighbourhoods(real.pictures.numpy(), generated.pictures.numpy())
    retrieval = retrieval_figures(generated.pictures, generated.captions, generated.texts)
    distance = frechet_distance(
        moments_of(real.pictures.numpy()), moments_of(generated.pictures.numpy())
    )
    figures = {
        "score": generated.score,
        "score_of_data": real.score,
        "frechet_distance": distance,
        **neighbourhoods._asdict(),
        **retrieval,
    }
    return {f"clip/{name}": value for name, value in figures.items()}


def diversity_figures(
    repeats: PictureSet,
    real: PictureSet,
    *,
    samples: int,
    scorer: ClipScorer | None,
    advance: Advance,
) -> dict[str, float]:
    """Compute how far apart the samples of one caption are, and how far real pictures are.

    repeats  pictures of a caption one after another, `samples` of each
    real     as many pictures as are compared with one another
    advance  called once for each picture

    Distances are the root of the mean squared difference of pixels in [0, 1], and one minus the
    cosine of CLIP's features; each is the mean over pairs.
    """
    pixels, features = _described(repeats, scorer, advance)
    groups = [slice(start, start + samples) for start in range(0, len(pixels), samples)]
    real_pixels, real_features = _described(real, scorer, advance)

    figures = {
        "pixel_distance": _mean_over(pixels, groups, _root_mean_square),
        "pixel_distance_of_data": _mean_over(real_pixels, [slice(None)], _root_mean_square),
    }
    if features is not None and real_features is not None:
        figures |= {
            "clip_distance": _mean_over(features, groups, _cosine_distance),
            "clip_distance_of_data": _mean_over(real_features, [slice(None)], _cosine_distance),
        }
    return {f"diversity/{name}": value for name, value in figures.items()}


def _described(
    pictures: PictureSet, scorer: ClipScorer | None, advance: Advance
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the pixels of all pictures in [0, 1], [N, 3 S S], and their embeddings [N, E]."""
    pixels: list[np.ndarray] = []
    embedded: list[np.ndarray] = []
    for squares in pictures.batches():
        pixels.append(stack_squares(squares).reshape(len(squares), -1).astype(np.float32) / 255)
        if scorer is not None:
            embedded.append(embed_squares(scorer, squares).numpy())
        for _ in squares:
            advance()
    return np.concatenate(pixels), np.concatenate(embedded) if embedded else None


def _mean_over(
    features: np.ndarray, groups: list[slice], distance: Callable[[np.ndarray], np.ndarray]
) -> float:
    pairs = itertools.chain.from_iterable(distance(features[group]) for group in groups)
    return float(np.mean(list(pairs)))


def _root_mean_square(pixels: np.ndarray) -> np.ndarray:
    return np.sqrt(distances_within(pixels) / pixels.shape[1])


def _cosine_distance(features: np.ndarray) -> np.ndarray:
    return distances_within(features) / 2  # |a - b|^2 = 2 - 2 cos of unit vectors
