"""Opening what `--data` names: which form of data it is, and what to say where it is none."""

import glob
import os
import shlex
from collections import Counter
from pathlib import Path

from dalle_cli.data.sources.captions import NO_CAPTION
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.encoded.embeddings import EmbeddingSource
from dalle_cli.data.sources.encoded.tokens import TokenSource
from dalle_cli.data.sources.exclusion import exclude_samples
from dalle_cli.data.sources.file_names import (
    PICTURE_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    describe_unread,
    split_name,
)
from dalle_cli.data.sources.folder import FolderSource, is_tar, list_files, pictures_by_content
from dalle_cli.data.sources.paths import expand_files
from dalle_cli.data.sources.source import Source
from dalle_cli.data.sources.tabular.coco import open_coco
from dalle_cli.data.sources.tabular.hub_dataset import HUB_PREFIX, open_hub
from dalle_cli.data.sources.tabular.image_folder import metadata_files, open_image_folder
from dalle_cli.data.sources.tabular.manifest import open_manifest
from dalle_cli.data.sources.tabular.parquet import holds_pictures, is_parquet, open_parquet
from dalle_cli.data.sources.tar.shards import ShardSource
from dalle_cli.data.tables import TABLE_SUFFIXES, is_list
from dalle_cli.data.token_shards import is_encoded
from dalle_cli.data.unclip.embedding_shards import is_embedded
from dalle_cli.errors import DalleError, UsageError, printable

LAYOUTS = (
    "a folder of pictures (001.jpg) with captions in files of the same names (001.txt, .caption or"
    " .json) or in metadata.csv or .jsonl, tar shards (one.tar, 'all-*.tar',"
    " 'train-{0000..0041}.tar'), a .csv, .tsv, .jsonl, .ndjson or .json manifest, COCO's captions"
    " .json, .parquet files, or hf:owner/name"
)


def open_dataset(
    spec: str,
    *,
    captions_required: bool,
    tokens_allowed: bool = False,
    embeddings_allowed: bool = False,
    columns: Columns = Columns(),  # noqa: B008  it is frozen
    exclude: Path | None = None,
) -> Source:
    """Index the captioned pictures that a spec names, in any form that `LAYOUTS` lists.

    captions_required   leave out pictures without captions
    tokens_allowed      accept a folder of image tokens in place of pictures
    embeddings_allowed  accept a folder of CLIP's embeddings in place of pictures
    columns             those of pictures and captions, where the form has columns
    exclude             a list of keys whose samples are left out

    Raises `DalleError` if nothing is usable.
    """
    if spec.startswith("pipe:") or "://" in spec:
        raise UsageError(
            f"data must be local files: {printable(spec)}",
            "download them first; commands are never run",
        )

    try:
        if os.path.isdir(spec) and is_encoded(Path(spec)):
            source: Source = _open_tokens(spec, are_allowed=tokens_allowed)
        elif os.path.isdir(spec) and is_embedded(Path(spec)):
            source = _open_embeddings(spec, are_allowed=embeddings_allowed)
        else:
            source = _open_pictures(spec, columns, captions_required=captions_required)
    except OSError as error:
        place = printable(str(error.filename or spec))
        raise DalleError(f"cannot read {place}: {error.strerror or error}") from error

    if not len(source):
        raise _nothing_usable(source, captions_required=captions_required)
    return source if exclude is None else exclude_samples([source], exclude)[0]


def _open_tokens(folder: str, *, are_allowed: bool) -> TokenSource:
    if not are_allowed:
        raise UsageError(
            f"{printable(folder)} holds image tokens, not pictures",
            "only `dalle train-transformer` reads them; name the pictures they were made of",
        )
    return TokenSource(folder)


def _open_embeddings(folder: str, *, are_allowed: bool) -> EmbeddingSource:
    if not are_allowed:
        raise UsageError(
            f"{printable(folder)} holds CLIP's embeddings, not pictures",
            "only `dalle train-prior` reads them; name the pictures they were made of",
        )
    return EmbeddingSource(folder)


def _open_pictures(spec: str, columns: Columns, *, captions_required: bool) -> Source:
    if os.path.isdir(spec):
        return _open_folder(spec, columns, captions_required=captions_required)
    if spec.startswith(HUB_PREFIX) and not os.path.exists(spec):
        return open_hub(spec, columns=columns, captions_required=captions_required)
    if os.path.isfile(spec) and spec.lower().endswith(".json") and not is_list(spec):
        return open_coco(spec, captions_required=captions_required)
    if os.path.isfile(spec) and spec.lower().endswith(TABLE_SUFFIXES):
        return open_manifest(spec, columns=columns, captions_required=captions_required)

    files = expand_files(spec)
    if shards := [file for file in files if is_tar(file)]:
        return ShardSource(spec, shards, columns=columns, captions_required=captions_required)
    if tables := [file for file in files if is_parquet(file)]:
        return open_parquet(spec, tables, columns=columns, captions_required=captions_required)
    raise _not_a_dataset(spec)


def _open_folder(folder: str, columns: Columns, *, captions_required: bool) -> Source:
    """Open a folder with metadata, shards, parquet files or pictures, looked for in this order.

    Raises UsageError for loose pictures beside others that are in shards or parquet files: which of
    them are the data cannot be told, and a stray picture must not take the place of thousands.
    """
    files, skipped = list_files(folder)
    if metadata_files(files):
        return open_image_folder(
            folder, files, columns=columns, captions_required=captions_required
        )

    paths = [os.path.join(folder, *file.split("/")) for file in files]
    by_content = pictures_by_content(folder, files)
    pictures = [
        path
        for file, path in zip(files, paths, strict=True)
        if split_name(file)[1] in PICTURE_SUFFIXES or file in by_content
    ]
    shards = [path for path in paths if is_tar(path)]
    tables = [path for path in paths if is_parquet(path)]
    if pictures and (shards or (tables and holds_pictures(tables[0], columns))):
        raise _ambiguous(folder, shards or tables, pictures)
    if shards:
        return ShardSource(folder, shards, columns=columns, captions_required=captions_required)
    if tables and not pictures:
        return open_parquet(folder, tables, columns=columns, captions_required=captions_required)
    return FolderSource(
        folder,
        files,
        skipped=skipped,
        pictures=by_content,
        columns=columns,
        captions_required=captions_required,
    )


def _ambiguous(folder: str, shards: list[str], pictures: list[str]) -> UsageError:
    suffix = os.path.splitext(shards[0])[1].lower()
    is_below = any(os.path.dirname(shard) != folder.rstrip(os.sep) for shard in shards)
    pattern = os.path.join(folder, "**" if is_below else "", f"*{suffix}")
    return UsageError(
        f"{printable(folder)} holds both {suffix} files ({len(shards):,}) and loose pictures "
        f"({len(pictures):,}), such as {printable(pictures[0])}: which are the data?",
        f"name the {suffix} files alone: {shlex.quote(printable(pattern))}; "
        "or keep the pictures in a folder without them",
    )


def _not_a_dataset(spec: str) -> DalleError:
    if os.path.isfile(spec):
        return DalleError(f"not a data set: {printable(spec)}", f"expected {LAYOUTS}")
    is_pattern = glob.has_magic(spec)
    what = "no tar or parquet file matches" if is_pattern else "no such file or folder:"
    return UsageError(f"{what} {printable(spec) or '(nothing)'}", f"expected {LAYOUTS}")


def _nothing_usable(source: Source, *, captions_required: bool) -> DalleError:
    kind = "captioned pictures" if captions_required else "pictures"
    message = f"no {kind} in {printable(source.name)}"
    # What follows a colon differs from sample to sample
    parts = [(where, *reason.partition(": ")) for where, reason in source.problems]
    counts = Counter(kind for _, kind, _, _ in parts)
    example = {kind: f"{where}{colon}{rest}" for where, kind, colon, rest in reversed(parts)}

    if list(counts) == [NO_CAPTION] and isinstance(source, FolderSource):
        picture = example[NO_CAPTION]
        advice = f"put {os.path.splitext(picture)[0]}.txt next to {picture}"
        found = f"found {counts[NO_CAPTION]} pictures but no captions: {advice}"
        return DalleError(message, found + _advice_on_tables(source))

    unread = describe_unread(source.unread)
    reasons = [f"{n} x {reason} ({example[reason]})" for reason, n in counts.most_common(3)]
    found = "; ".join([unread, *reasons] if unread else reasons)
    found = found or "nothing that could be a sample"
    convert = (
        "; convert them to JPEG, PNG, WebP or GIF, as with `magick mogrify -format png *.bmp`"
        if any(suffix in UNSUPPORTED_SUFFIXES for suffix in source.unread)
        else ""
    )
    advice = convert + _advice_on_tables(source)
    return DalleError(message, f"found {found}{advice}; expected {LAYOUTS}")


def _advice_on_tables(source: Source) -> str:
    tables = [s for s in source.unread if s in (*TABLE_SUFFIXES, ".parquet")]
    return f"; to read the {tables[0]} file, name it instead of the folder" if tables else ""
