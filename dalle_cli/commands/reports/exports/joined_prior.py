"""The prior that an export of a decoder brings, so that the folder makes pictures of captions."""

from pathlib import Path

from dalle_cli.config import TRAINED_WITH_CLIP, kind_of
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.generation.unclip.opening import ANOTHER_PRIOR, clip_identity
from dalle_cli.loading.unclip_parts import load_prior_parts
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import RunDir, model_dir


def find_joined_prior(run: Path, prior: Path | None) -> Path | None:
    """Return the prior to export with a run: the one that is named, or that an export brings.

    Raises UsageError for a run that takes none, and DalleError for a prior of another CLIP.
    """
    own = RunDir(run).prior
    if prior is None:
        return own if own.is_dir() else None

    kind = kind_of(read_model_table(model_dir(run)))
    if kind != "decoder":
        message = f"`--prior` goes with a decoder, and {printable(str(run))} is a {kind}"
        raise UsageError(message, "leave it out")
    clip = load_prior_parts(prior).clip
    if clip is None or clip_identity(clip) != clip_identity(RunDir(run).clip):
        message = f"{printable(str(prior))} was trained with another CLIP than"
        raise DalleError(f"{message} {printable(str(run))}", ANOTHER_PRIOR)
    return prior


def check_clip_is_free(run: Path, clip: Path | None) -> None:
    """Raise UsageError for another CLIP in place of the one that a model was trained with."""
    if clip is not None and kind_of(read_model_table(model_dir(run))) in TRAINED_WITH_CLIP:
        raise UsageError(
            f"{printable(str(run))} was trained with a CLIP, which is exported with it",
            "leave out `--clip`",
        )
