"""What the runs and exports of DALL-E 2's models hold, with everything that sampling asks of them.

Each run has a copy of the CLIP it was trained with. An export of a decoder may bring a prior, which
then has none: it was compared with the decoder's when both were joined.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dalle_cli.config import AutoregressivePriorModelTable, DecoderModelTable, PriorModelTable
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading.kinds import build_autoregressive_prior, build_decoder, build_prior
from dalle_cli.loading.prior_variances import PriorVariances, read_variances
from dalle_cli.loading.unclip import load_embedding_codec
from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.decoder import UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.storage.checkpoint_folder import find_saved_weights
from dalle_cli.storage.integrity.checksums import load_checksummed_json
from dalle_cli.storage.model_folder import read_model, read_model_table
from dalle_cli.storage.run_dir import WEIGHTS, RunDir, model_dir
from dalle_cli.storage.run_record import RECORD_SCHEMA


class DecoderParts(NamedTuple):
    """A decoder, as its run or export holds it.

    clip      the folder of its CLIP
    checksum  SHA-256 of its weights
    dropouts  how often training left out each condition, `embedding_dropout` and `caption_dropout`;
              empty if the recipe is missing
    step      of the checkpoint that it comes from; None: the run's model
    """

    decoder: UnclipDecoder
    table: DecoderModelTable
    clip: Path
    checksum: str
    dropouts: dict[str, float]
    step: int | None


class DiffusionPriorParts(NamedTuple):
    """A diffusion prior, as its run or export holds it.

    variances  that it samples with; None if they were not measured
    clip       the folder of its CLIP; None in an export of a decoder

    The others are those of `DecoderParts`.
    """

    prior: DiffusionPrior
    table: PriorModelTable
    variances: PriorVariances | None
    clip: Path | None
    checksum: str
    dropouts: dict[str, float]


class CodePriorParts(NamedTuple):
    """An autoregressive prior with its codec, as its run or export holds them.

    The others are those of `DiffusionPriorParts`.
    """

    prior: AutoregressivePrior
    table: AutoregressivePriorModelTable
    codec: EmbeddingCodec
    clip: Path | None
    checksum: str
    dropouts: dict[str, float]


PriorParts = DiffusionPriorParts | CodePriorParts


def load_decoder_parts(run: Path, checkpoint: str | None = None) -> DecoderParts:
    """Load a decoder's run or export.

    checkpoint  whose weights it gets, see `find_saved_weights`; None: the run's model

    Raises DalleError if a part is missing or damaged, and UsageError for another kind of model.
    """
    folder, files = model_dir(run, "decoder"), RunDir(run)
    saved = find_saved_weights(files, checkpoint) if checkpoint else None
    weights = saved.files if saved else None
    decoder = read_model(folder, "decoder", build_decoder, weights=weights)
    table = read_model_table(folder)
    assert isinstance(table, DecoderModelTable)  # as `read_model` checks
    clip = _clip_of(files)
    if clip is None:
        hint = f"put a copy of its CLIP's run into {files.clip}"
        raise DalleError(f"{run} lacks its copy of the CLIP", hint)
    return DecoderParts(
        decoder,
        table,
        clip=clip,
        checksum=_checksum(weights or [folder / WEIGHTS]),
        dropouts=_dropouts(files),
        step=saved.step if saved else None,
    )


def load_prior_parts(run: Path) -> PriorParts:
    """Load a prior of either kind from its run or export.

    Raises DalleError if a part is missing or damaged, and UsageError for another kind of model.
    """
    folder, files = model_dir(run, "prior"), RunDir(run)
    table, dropouts, clip = read_model_table(folder), _dropouts(files), _clip_of(files)
    if isinstance(table, PriorModelTable):
        prior = read_model(folder, "prior", build_prior)
        checksum, variances = _checksum([folder / WEIGHTS]), read_variances(files)
        return DiffusionPriorParts(prior, table, variances, clip, checksum, dropouts)
    if isinstance(table, AutoregressivePriorModelTable):
        codes = read_model(folder, "prior-autoregressive", build_autoregressive_prior)
        checksum = _checksum([folder / WEIGHTS, files.codec / WEIGHTS])
        codec = load_embedding_codec(files)
        return CodePriorParts(codes, table, codec, clip, checksum, dropouts)
    raise UsageError(f"{run} is not a prior", "a prior is what `dalle train-prior` trains")


def _clip_of(run: RunDir) -> Path | None:
    return run.clip if run.clip.is_dir() else None


def _dropouts(run: RunDir) -> dict[str, float]:
    try:
        loss = load_checksummed_json(run.recipe, since=RECORD_SCHEMA)["recipe"]["loss"]
        return {name: float(share) for name, share in loss.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DalleError):
        return {}


def _checksum(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
