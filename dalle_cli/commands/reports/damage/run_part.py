"""A part of a run or an export that can be damaged: a file, or a model folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dalle_cli.commands.reports.damage import remedies
from dalle_cli.data.clip_tokenizer import find_clip_vocabulary, read_clip_vocabulary
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.loading import check_model
from dalle_cli.storage.integrity.checksums import has_checksum
from dalle_cli.storage.model_folder import has_checksums
from dalle_cli.storage.run_dir import RunDir


@dataclass(frozen=True)
class RunPart:
    """A part, how it is checked, and what helps if it is damaged.

    check         raises OSError or DalleError
    has_checksum  whether it has one, asked of a part that is sound
    """

    path: Path
    check: Callable[[], object]
    hint: str
    has_checksum: Callable[[], bool] = lambda: True


def file_part(path: Path, check: Callable[[], object], run: RunDir) -> RunPart:
    """Return a file with a checksum as a part."""
    return RunPart(path, check, remedies.how_to_get_again(run), partial(has_checksum, path))


def model_part(folder: Path, hint: str) -> RunPart:
    """Return a model folder as a part; hint: what helps if it is damaged."""
    return RunPart(folder, partial(check_model, folder), hint, partial(has_checksums, folder))


def vocabulary_parts(run: RunDir, kind: str | None) -> Iterator[RunPart]:
    """Yield the tokenizer, or the vocabulary of a public CLIP that a run keeps."""
    public = find_clip_vocabulary(run.root)
    is_clip = kind == "clip"
    if run.tokenizer.is_file() or kind == "transformer" or (is_clip and public is None):
        yield file_part(run.tokenizer, partial(Tokenizer.load, run.tokenizer), run)
    elif is_clip and public is not None:
        check = partial(read_clip_vocabulary, public)
        yield RunPart(public, check, remedies.how_to_get_again(run), lambda: False)
