"""What helps where a part of a run or an export is damaged."""

import shlex

from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.run_record import RunRecord
from dalle_cli.storage.shipped import shipped_name

ABOUT = "it is written by hand"
CHECKPOINT = "delete it: the run is resumed from the one before, and later ones don't need it"
METRICS = "nothing else is lost: what can't be read is left out"
RECORD = "the run can't be resumed; its model can be used and exported"


def how_to_get_again(run: RunDir) -> str:
    """Return what replaces a part that is nowhere else in the folder."""
    if shipped_name(run.root) is not None:
        return "install dalle again"
    if run.is_run:
        return "copy it from a backup, or train again"
    return "export or import it again, or copy it from a backup"


def how_to_get_model(run: RunDir, *, has_saved: bool) -> str:
    """Return what replaces the model of a run, which may have checkpoints."""
    if has_saved:
        return f"`dalle resume {shlex.quote(str(run.root))}` writes it anew"
    return how_to_get_again(run)


def how_to_get_dvae(run: RunDir) -> str:
    """Return what replaces the copy of a dVAE that a transformer's run keeps."""
    source = _recorded(run, "dvae")
    if source is None:
        return how_to_get_again(run)
    return f"copy config.json and model.safetensors of the dVAE in {printable(source)} there"


def how_to_get_clip(run: RunDir) -> str:
    """Return what replaces the copy of a CLIP that a prior's or a decoder's run keeps."""
    source = _recorded(run, "clip")
    if source is None:
        return how_to_get_again(run)
    return f"train again with `--clip {shlex.quote(printable(source))}`, which copies it"


def _recorded(run: RunDir, name: str) -> str | None:
    """Return an input of the command that began a run, None where it is not known."""
    try:
        source = RunRecord.read(run).command.get(name) if run.is_run else None
    except DalleError:
        return None
    return source if isinstance(source, str) else None
