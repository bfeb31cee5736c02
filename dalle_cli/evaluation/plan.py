"""What an evaluation is: a run, the pairs it is measured on, and the pictures it is asked for.

The plan holds everything that the figures depend on, so that an interrupted evaluation is found
again and never mixed with another. Every process that takes part makes the same.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle_cli.config import kind_of
from dalle_cli.data.sources import Columns
from dalle_cli.errors import UsageError, printable
from dalle_cli.evaluation.evaluated_pairs import EvaluatedPairs, open_evaluated_pairs, spread
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import WEIGHTS, RunDir, dalle_paths, model_dir

MOST_REPEATED = 32  # captions of which there are several samples, for the diversity
REPEATS = 8  # samples of each of these
MEASURED = ("dvae", "clip")  # kinds of models besides transformers


@dataclass(frozen=True)
class EvaluationSettings:
    """What a user wants measured.

    n_pairs       held-out pairs, at most
    n_captions    captions to generate a picture of, at most; 0: none
    n_candidates  of each caption, of which CLIP keeps the best
    train         the training pictures to look for copies in; None: those of the run's record
    clip          what judges the pictures, as `load_clip_scorer` takes it; None: nothing does
    vocabulary    of that CLIP, where it does not come with it
    inception     a file of Inception's weights; None: the published ones
    """

    data: str
    columns: Columns
    n_pairs: int
    n_captions: int
    n_candidates: int
    seed: int
    train: str | None
    clip: str | None
    vocabulary: Path | None
    inception: Path | None


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation of one run.

    captions  of which pictures are generated; none for other models than transformers
    job       everything that the figures of all parts depend on, as JSON values
    """

    run: Path
    kind: str
    pairs: EvaluatedPairs
    captions: list[str]
    settings: EvaluationSettings
    job: dict[str, Any]

    @property
    def repeated(self) -> list[str]:
        """The captions of which there are several samples."""
        return [self.captions[i] for i in spread(len(self.captions), MOST_REPEATED)]


def plan_evaluation(
    run: Path, settings: EvaluationSettings, *, clip: str | None, device: str, precision: str
) -> EvaluationPlan:
    """Look at a run and at the data, and state what will be measured.

    clip  the identity of the CLIP that judges the pictures, if there is one

    Raises UsageError where there is no such run, and DalleError where the data cannot be used.
    """
    kind, files = _model_files(run)
    pairs = open_evaluated_pairs(
        settings.data,
        RunDir(run),
        n=settings.n_pairs,
        captions_required=kind != "dvae",
        columns=settings.columns,
    )
    captions = pairs.captions(settings.n_captions, settings.seed) if kind == "transformer" else []

    job = {
        "command": "evaluate",
        "kind": kind,
        "model": checksum_of_files(files),
        **pairs.facts,
        "captions": len(captions),
        "candidates": settings.n_candidates,
        "ranked_by": clip if settings.n_candidates > 1 else None,
        "seed": settings.seed,
        "device": device,
        "precision": precision,
    }
    return EvaluationPlan(run, kind, pairs, captions, settings, job)


def kind_of_run(run: Path) -> str:
    """Return the kind of model that a run holds; raises UsageError where there is none."""
    return kind_of(read_model_table(model_dir(run)))


def _model_files(run: Path) -> tuple[str, list[Path]]:
    """Return the kind of a run's model and the files that its figures depend on."""
    folder, kind = model_dir(run), kind_of_run(run)
    if kind == "transformer":
        paths = dalle_paths(run)
        return kind, [paths.transformer / WEIGHTS, paths.dvae / WEIGHTS, paths.tokenizer]
    if kind == "dvae-encoder":
        message = f"{printable(str(run))} holds the encoder of a dVAE, which rebuilds no picture"
        raise UsageError(message, "import its decoder with it: `dalle import dvae`")
    if kind not in MEASURED:
        message = f"{printable(str(run))} holds a {kind}, of which nothing is measured here"
        raise UsageError(message, "its held-out figures are in `dalle info` of its run")
    tokenizer = RunDir(run).tokenizer
    return kind, [folder / WEIGHTS, *([tokenizer] if tokenizer.is_file() else [])]


def checksum_of_files(files: list[Path]) -> str:
    """Hash the content of files, one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
