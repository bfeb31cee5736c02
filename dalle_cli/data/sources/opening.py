"""Opening the data set of `--data`: a folder, tar shards, a manifest, or a folder of tokens."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dalle_cli.data.sources.captions import NO_CAPTION
from dalle_cli.data.sources.folder import FolderSource, is_tar, list_files
from dalle_cli.data.sources.manifest import ManifestSource
from dalle_cli.data.sources.pairing import PICTURE_SUFFIXES, split_name
from dalle_cli.data.sources.shards import ShardSource
from dalle_cli.data.sources.source import Source
from dalle_cli.data.sources.tokens import TokenSource
from dalle_cli.data.tables import TABLE_SUFFIXES
from dalle_cli.data.token_shards import is_encoded
from dalle_cli.errors import DalleError, UsageError, printable

LAYOUTS = (
    "a folder with pictures (001.jpg) and caption files of the same names (001.txt), tar shards of"
    " them (one.tar, 'all-*.tar', 'train-{0000..0041}.tar'), or a .csv or .jsonl manifest with"
    " `image` and `caption`"
)
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


def open_dataset(spec: str, *, captions_required: bool, tokens_allowed: bool = False) -> Source:
    """Index the captioned pictures of a folder, tar shards (one, a glob, a range) or a manifest.

    captions_required  leave out pictures without captions
    tokens_allowed     accept a folder of image tokens in place of pictures

    Raises `DalleError` if nothing is usable.
    """
    if spec.startswith("pipe:") or "://" in spec:
        raise UsageError(
            f"data must be local files: {printable(spec)}",
            "download them first; commands are never run",
        )

    try:
        if os.path.isdir(spec) and is_encoded(Path(spec)):
            return _open_tokens(spec, are_allowed=tokens_allowed)
        source = _open_pictures(spec, captions_required=captions_required)
    except OSError as error:
        place = printable(str(error.filename or spec))
        raise DalleError(f"cannot read {place}: {error.strerror or error}") from error

    if not len(source):
        raise _nothing_usable(source, captions_required=captions_required)
    return source


def _open_tokens(folder: str, *, are_allowed: bool) -> TokenSource:
    if not are_allowed:
        raise UsageError(
            f"{printable(folder)} holds image tokens, not pictures",
            "only `dalle train-transformer` reads them; name the pictures they were made of",
        )
    return TokenSource(folder)


def _open_pictures(spec: str, *, captions_required: bool) -> Source:
    if os.path.isdir(spec):
        return _open_folder(spec, captions_required=captions_required)
    if os.path.isfile(spec) and spec.lower().endswith(TABLE_SUFFIXES):
        return ManifestSource(spec, captions_required=captions_required)
    return ShardSource(spec, _shard_paths(spec), captions_required=captions_required)


def _open_folder(folder: str, *, captions_required: bool) -> Source:
    files, skipped = list_files(folder)
    shards = [os.path.join(folder, *file.split("/")) for file in files if is_tar(file)]
    if shards and not any(split_name(file)[1] in PICTURE_SUFFIXES for file in files):
        return ShardSource(folder, shards, captions_required=captions_required)
    return FolderSource(folder, files, skipped=skipped, captions_required=captions_required)


def _shard_paths(spec: str) -> list[str]:
    if os.path.isfile(spec):
        if is_tar(spec):
            return [spec]
        raise DalleError(f"not a data set: {printable(spec)}", f"expected {LAYOUTS}")

    if _RANGE.search(spec):
        return _shards_of_range(spec)

    matches = glob.glob(spec, recursive=True)
    if paths := sorted(path for path in matches if is_tar(path) and os.path.isfile(path)):
        return paths
    what = "no tar file matches" if glob.has_magic(spec) else "no such file or folder:"
    raise UsageError(f"{what} {printable(spec) or '(nothing)'}", f"expected {LAYOUTS}")


def _shards_of_range(spec: str) -> list[str]:
    paths = []
    for path in _expand_ranges(spec):  # stops at the first gap, however long the range is
        if not os.path.isfile(path):
            raise DalleError(
                f"shard is missing: {printable(path)}", "give the range of shards that exist"
            )
        paths.append(path)

    if not paths:
        raise DalleError(
            f"empty range: {printable(spec)}", "the first number must not be above the second"
        )
    return paths


def _expand_ranges(spec: str) -> Iterator[str]:
    """Expand every `{000..041}`, padded with zeros to the width of the first number."""
    match = _RANGE.search(spec)
    if not match:
        yield spec
        return

    low, high = match.groups()
    before, after = spec[: match.start()], spec[match.end() :]
    for number in range(int(low), int(high) + 1):
        yield from _expand_ranges(f"{before}{number:0{len(low)}d}{after}")


def _nothing_usable(source: Source, *, captions_required: bool) -> DalleError:
    kind = "captioned pictures" if captions_required else "pictures"
    message = f"no {kind} in {printable(source.name)}"
    counts = Counter(reason for _, reason in source.problems)
    example = {reason: where for where, reason in reversed(source.problems)}

    if list(counts) == [NO_CAPTION] and isinstance(source, FolderSource):
        picture = example[NO_CAPTION]
        advice = f"put {os.path.splitext(picture)[0]}.txt next to {picture}"
        return DalleError(message, f"found {counts[NO_CAPTION]} pictures but no captions: {advice}")

    reasons = [f"{n} x {reason} ({example[reason]})" for reason, n in counts.most_common(3)]
    found = "; ".join(reasons) or "nothing that could be a sample"
    return DalleError(message, f"found {found}; expected {LAYOUTS}")
