"""The parts about generated pictures: by Inception, by a CLIP, and how varied they are.

Each has its key, its protocol, and a warning where there are too few pictures for its figures.
"""

from collections.abc import Callable
from typing import Any

from dalle_cli.evaluation.evaluation_folder import Part
from dalle_cli.evaluation.figures.blur import RADII
from dalle_cli.evaluation.figures.distances import NEIGHBOURS, SCORE_PARTS, SHUFFLE_SEED
from dalle_cli.evaluation.figures.inception import INPUT_SIDE, WIDTH, Inception
from dalle_cli.evaluation.figures.sample_figures import (
    clip_sample_figures,
    diversity_figures,
    embed_set,
    inception_figures,
)
from dalle_cli.evaluation.parts.measurement import Measurement
from dalle_cli.evaluation.picture_sets import PictureSet
from dalle_cli.evaluation.plan import REPEATS
from dalle_cli.evaluation.sampling import read_samples
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.storage.job_folder import JobFolder

N_DIVERSE = 64  # real pictures that are compared with one another
OF_THE_FOLDER = {"captions", "schema", "command", "first", "keep_all"}  # no settings of sampling


def inception_part(measurement: Measurement, inception: Inception) -> Part:
    """Measure FID and the Inception Score, for every radius of blur."""
    real, generated = measurement.real_pictures(), measurement.generated
    key = {"weights": inception.checksum, "torch_fidelity": inception.library}
    protocol = {
        **key,
        **_sides(measurement, real, generated),
        "resize": f"{measurement.resize}; then bilinear to {INPUT_SIDE}, as in TensorFlow 1",
        "blur": "Gaussians of these standard deviations in pixels, on both sides, mirrored at the "
        "edges, rounded to 8 bits",
        "radii": list(RADII),
        "score_parts": SCORE_PARTS,
        "shuffle_seed": SHUFFLE_SEED,
    }

    def measure(advance: Callable[[], None]) -> Part:
        figures = inception_figures(inception, real, generated, advance=advance)
        return Part(figures, protocol, few_pictures("FID", real, generated, WIDTH))

    return measurement.part("inception", key, len(real) + len(generated), measure)


def clip_part(measurement: Measurement, scorer: ClipScorer) -> Part:
    """Measure how pictures fit their captions, and the distance of their features to real ones."""
    real, generated = measurement.real_pictures(), measurement.generated
    protocol = {
        **measurement.judge,
        **_sides(measurement, real, generated),
        "resize": f"{measurement.resize}; then bicubic to {scorer.clip.image_size}",
        "neighbours": NEIGHBOURS,
        "score": "the mean cosine of a picture and its caption",
    }

    def measure(advance: Callable[[], None]) -> Part:
        of_real, of_generated = (embed_set(scorer, side, advance) for side in (real, generated))
        figures = clip_sample_figures(of_real, of_generated)
        few = few_pictures("clip/frechet_distance", real, generated, scorer.width)
        return Part(figures, protocol, few)

    return measurement.part("clip", measurement.judge, len(real) + len(generated), measure)


def diversity_part(measurement: Measurement) -> Part:
    """Measure how far apart the samples of one caption are."""
    real = measurement.real_pictures(N_DIVERSE)
    repeats = read_samples(measurement.folder.repeats)
    protocol = {
        **measurement.judge,
        "captions": len(repeats) // REPEATS,
        "samples_of_each": REPEATS,
        "real": len(real),
    }

    def measure(advance: Callable[[], None]) -> Part:
        figures = diversity_figures(
            repeats, real, samples=REPEATS, scorer=measurement.judges.scorer, advance=advance
        )
        return Part(figures, protocol)

    return measurement.part("diversity", measurement.judge, len(real) + len(repeats), measure)


def few_pictures(name: str, real: PictureSet, generated: PictureSet, width: int) -> list[str]:
    """Warn of a Fréchet distance between fewer pictures than a feature has dimensions.

    Their covariance is singular, and the distance is biased upwards (2,048 pictures for FID).
    """
    if min(len(real), len(generated)) >= width:
        return []
    counts = f"{len(generated):,} generated and {len(real):,} real pictures"
    return [f"{name} means little with {counts}: {width:,} of each are the least"]


def _sides(measurement: Measurement, real: PictureSet, generated: PictureSet) -> dict[str, Any]:
    """Return how many pictures are compared, and how the generated ones were sampled."""
    job = JobFolder.open(measurement.folder.samples).recorded or {}
    sampling = {key: value for key, value in job.items() if key not in OF_THE_FOLDER}
    return {"real": len(real), "generated": len(generated), "sampling": sampling}
