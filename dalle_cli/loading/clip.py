"""Loads CLIPs: those of runs and exports, and public ones, with the tokenizer of each."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from dalle_cli.config import TrainedClipTable
from dalle_cli.data.clip_tokenizer import (
    MERGE_LISTS,
    ClipTokenizer,
    find_clip_vocabulary,
    own_clip_tokenizer,
    read_clip_vocabulary,
)
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.interop.clip_checkpoints import read_public_clip
from dalle_cli.interop.hub import fetch_from_hub
from dalle_cli.loading.kinds import build_clip
from dalle_cli.models.clip import Clip
from dalle_cli.models.weightless import meta_device
from dalle_cli.storage.model_folder import (
    check_floating_point,
    check_shapes_match,
    read_model,
    shapes_of,
)
from dalle_cli.storage.run_dir import CONFIG, RunDir, model_dir, part_of
from dalle_cli.storage.shipped import resolve_run
from dalle_cli.storage.small_files import load_json

ANOTHER_CLIP = "the vocabulary belongs to another CLIP"


def load_clip(path: Path | str) -> Clip:
    """Load a CLIP: a `train-clip` run, an export, a model folder, a shipped model, or a public one.

    path  a public checkpoint may be a file, a folder or a name on the hub

    Raises DalleError if there is none, it is damaged, its kind is not supported, or it asks to run
    code.
    """
    return _load_clip(find_clip(resolve_run(str(path))))[0]


def _load_clip(path: Path) -> tuple[Clip, str]:
    """Load a CLIP, and what had to be assumed of it, or ""."""
    if _is_run_or_model(path):
        return read_model(model_dir(path, "clip"), "clip", build_clip), ""
    public = read_public_clip(path)
    return _assign_weights(public.table, public.weights, path), public.assumption


class ClipParts(NamedTuple):
    """A CLIP with the tokenizer that its captions need, and the tokenizer's file.

    assumption  what had to be assumed of a public checkpoint, for users to read, or ""
    """

    clip: Clip
    tokenizer: ClipTokenizer
    vocabulary: Path
    assumption: str


def load_clip_parts(path: Path | str, vocabulary: Path | None = None) -> ClipParts:
    """Load a CLIP like `load_clip`, and its tokenizer like `load_clip_tokenizer`."""
    local_path = find_clip(path)
    clip, assumption = _load_clip(local_path)
    file = vocabulary or find_vocabulary(local_path)
    return ClipParts(clip, load_clip_tokenizer(local_path, clip, file), file, assumption)


def load_clip_tokenizer(
    path: Path | str, clip: Clip, vocabulary: Path | None = None
) -> ClipTokenizer:
    """Load the tokenizer of a CLIP from its path, or from a vocabulary file.

    Raises DalleError if there is none, or it does not belong to the CLIP.
    """
    tokenizer = _read_vocabulary(vocabulary or find_vocabulary(find_clip(path)))
    end_of_text = clip.text_vocab_size - 1 if clip.end_of_text is None else clip.end_of_text

    if tokenizer.end_of_text != end_of_text:
        raise DalleError(
            f"{vocabulary or path} ends captions with token {tokenizer.end_of_text}, "
            f"the CLIP of {path} looks for token {end_of_text}",
            ANOTHER_CLIP,
        )
    if tokenizer.vocab_size > clip.text_vocab_size:
        raise DalleError(
            f"{vocabulary or path} has {tokenizer.vocab_size} tokens, "
            f"the CLIP of {path} knows {clip.text_vocab_size}",
            ANOTHER_CLIP,
        )
    return tokenizer


def find_vocabulary(local_path: Path) -> Path:
    """Return the vocabulary file of a CLIP on disk; raises DalleError if there is none."""
    for run in (RunDir(local_path), RunDir(local_path.parent)):  # a run, or the model folder in it
        if run.tokenizer.is_file():
            return run.tokenizer

    found = find_clip_vocabulary(local_path if local_path.is_dir() else local_path.parent)
    if found is None:
        raise DalleError(
            f"{local_path} has no vocabulary to read captions with",
            f"put {MERGE_LISTS[0]} next to it, or name the file with `--tokenizer`",
        )
    return found


def _read_vocabulary(file: Path) -> ClipTokenizer:
    """Read a public vocabulary, or the merges of a tokenizer that this package learnt."""
    is_own = file.name == RunDir(file.parent).tokenizer.name
    return own_clip_tokenizer(Tokenizer.load(file)) if is_own else read_clip_vocabulary(file)


def find_clip(path: Path | str) -> Path:
    """Return the path of a CLIP on disk, after fetching it from the hub if it is a name there.

    Of an export that brings a CLIP, this is the CLIP's folder.

    Raises DalleError if there is none.
    """
    local_path = Path(path)
    if local_path.exists():
        return part_of(local_path, "clip")
    # an existing folder is not the name of an owner on the hub
    if local_path.parent != Path() and local_path.parent.exists():
        hint = f"{local_path.parent} exists, but has no {printable(local_path.name)}"
        raise UsageError(f"no such CLIP: {printable(str(path))}", hint)
    return fetch_from_hub(str(path))


def _is_run_or_model(local_path: Path) -> bool:
    """Whether a path is a run or a model folder of this package; other tools write configs, too."""
    if not local_path.is_dir():
        return False
    if local_path.joinpath("model").is_dir():
        return True
    try:
        return "kind" in load_json(local_path / CONFIG)
    except (OSError, ValueError, TypeError):
        return RunDir(local_path).is_run


def _assign_weights(model: TrainedClipTable, weights: dict[str, Tensor], source: Path) -> Clip:
    """Build a CLIP from weights, converted to fp32.

    Shapes are checked before anything is copied or converted.
    """
    try:
        with meta_device():
            clip = build_clip(model)
        expected = shapes_of(clip.state_dict())

        check_shapes_match(expected, shapes_of(weights), source)
        check_floating_point(weights, source)
        in_fp32 = {name: weights[name].float().contiguous() for name in expected}
        clip.load_state_dict(in_fp32, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        # torch raises all three for absurd sizes
        reason = str(error).partition("\n")[0]
        raise DalleError(f"{source} does not hold a CLIP: {reason}") from error
    return clip.eval().requires_grad_(False)
