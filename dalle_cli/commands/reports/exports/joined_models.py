"""The CLIP and the prior that an export brings: which ones, and whether they belong there."""

from pathlib import Path

from dalle_cli.config import TRAINED_WITH_CLIP, kind_of
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.generation.unclip.opening import ANOTHER_PRIOR, clip_identity
from dalle_cli.loading.unclip_parts import load_prior_parts
from dalle_cli.storage.model_folder import check_model_kind, read_model_table
from dalle_cli.storage.run_dir import RunDir, model_dir, part_of


def find_joined_clip(run: Path, clip: Path | None) -> Path | None:
    """Return the CLIP to export with a run: the one that is named, or that the run has.

    Raises UsageError for another one than a prior or a decoder was trained with.
    """
    if clip is not None and kind_of(read_model_table(model_dir(run))) in TRAINED_WITH_CLIP:
        raise UsageError(
            f"{printable(str(run))} was trained with a CLIP, which is exported with it",
            "leave out `--clip`",
        )
    own = RunDir(run).clip
    found = clip or (own if own.is_dir() else None)
    if found is None:
        return None
    found = part_of(found, "clip")
    check_model_kind(model_dir(found, "clip"), "clip")
    return found


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
