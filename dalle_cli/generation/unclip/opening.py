"""Opens a decoder with its CLIP, and the prior that goes with it.

Which prior goes with which decoder is known by the CLIP that both were trained with.
"""

from pathlib import Path

import torch

from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.generation.unclip.decoder_sampler import DecoderSampler, decoder_sampler
from dalle_cli.generation.unclip.prior_samplers import (
    EmbeddingGuesser,
    NoGuesser,
    TextGuesser,
    prior_guesser,
)
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.loading.unclip_parts import (
    DecoderParts,
    PriorParts,
    load_decoder_parts,
    load_prior_parts,
)
from dalle_cli.runtime.precision import Precision
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.shipped import resolve_run

WITHOUT_PRIOR = ("text", "none")  # in place of a prior's run
ANOTHER_PRIOR = "give a prior that was trained with the decoder's CLIP: `dalle train-prior`"


def open_decoder(
    run: Path,
    settings: UnclipSettings,
    *,
    device: torch.device,
    precision: Precision,
    checkpoint: str | None = None,
) -> tuple[DecoderSampler, ClipScorer]:
    """Load a decoder's run or export onto a device, and its CLIP.

    checkpoint  whose weights are used; None: the run's model

    Raises DalleError if a part is missing or damaged, and UsageError for settings that it can't be
    sampled with.
    """
    parts = load_decoder_parts(run, checkpoint)
    sampler = decoder_sampler(parts, settings, name=str(run), device=device, precision=precision)
    scorer = load_clip_scorer(str(parts.clip), None, device=device, precision=precision)
    return sampler, scorer


def open_prior(
    choice: str | None,
    settings: UnclipSettings,
    *,
    run: Path,
    parts: DecoderParts,
    scorer: ClipScorer,
    precision: Precision,
) -> EmbeddingGuesser:
    """Load what guesses embeddings for a decoder, onto its CLIP's device.

    choice  a prior's run or export, `text`, `none`, or None: the prior that an export brings
    run     the decoder's; parts and scorer: what it holds

    Raises DalleError for a prior of another CLIP, and UsageError where there is none.
    """
    if choice in WITHOUT_PRIOR:
        _check_prior_settings(settings, choice)
        return TextGuesser() if choice == "text" else _no_guesser(parts, run)

    folder = RunDir(run).prior if choice is None else Path(resolve_run(choice))
    if choice is None and not folder.is_dir():
        raise UsageError(
            f"{printable(str(run))} is a decoder, and no prior comes with it",
            "name one with `--prior`; `--prior text` takes the caption's embedding for the "
            "picture's, and `--prior none` shows the decoder the caption alone",
        )
    found = load_prior_parts(folder)
    if found.clip is None and choice is not None:
        hint = f"put a copy of its CLIP's run into {RunDir(folder).clip}"
        raise DalleError(f"{printable(str(folder))} lacks its copy of the CLIP", hint)
    _check_same_clip(found, folder, run=run, scorer=scorer)
    return prior_guesser(
        found, settings, name=str(folder), device=scorer.device, precision=precision
    )


def _check_same_clip(found: PriorParts, folder: Path, *, run: Path, scorer: ClipScorer) -> None:
    """Raise DalleError unless a prior guesses embeddings of a decoder's CLIP.

    One that an export brings has no CLIP, and was compared when both were joined.
    """
    if found.clip is not None and clip_identity(found.clip) != scorer.identity:
        message = f"{printable(str(folder))} was trained with another CLIP than"
        raise DalleError(f"{message} {printable(str(run))}", ANOTHER_PRIOR)
    if found.table.d_embed != scorer.width:
        sizes = f"{found.table.d_embed}, and the CLIP's are of width {scorer.width}"
        message = f"{printable(str(folder))} guesses embeddings of width {sizes}"
        raise DalleError(message, ANOTHER_PRIOR)


def clip_identity(folder: Path) -> str:
    """Return what identifies a CLIP, as a `ClipScorer` has it."""
    cpu = torch.device("cpu")
    return load_clip_scorer(str(folder), None, device=cpu, precision="fp32").identity


def _check_prior_settings(settings: UnclipSettings, choice: str | None) -> None:
    usual = UnclipSettings()
    for name in ("prior_steps", "prior_guidance"):
        if getattr(settings, name) != getattr(usual, name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"`--prior {choice}` samples from no prior", f"leave out `{option}`")


def _no_guesser(parts: DecoderParts, run: Path) -> NoGuesser:
    """Return what leaves embeddings out; raises UsageError where a decoder can't do without."""
    if parts.decoder.captions is None:
        message = f"{printable(str(run))} reads no captions, and needs embeddings"
        raise UsageError(message, "name a prior with `--prior`")
    if parts.dropouts.get("embedding_dropout") == 0:
        raise UsageError(
            f"{printable(str(run))} never saw a caption without its picture's embedding in "
            "training: `loss.embedding_dropout` was 0",
            "name a prior with `--prior`",
        )
    return NoGuesser()
