"""Files that carry their own checksum: JSON and safetensors, so that every copy can be checked.

The first key of a JSON file, or of a safetensors file's metadata, is `sha256`: the SHA-256 of the
file with zeros in place of these 64 digits. Every bit of the file counts, and weights that are
renewed while others read them never disagree with a checksum in another file. A checkpoint, which
is written once, has a manifest instead (`checkpoint_folder`). Imports no torch.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.small_files import check_regular, parse_json, read_file

KEY = "sha256"
ZEROS = "0" * 64
PLACE = re.compile(rb'(?s)(?:.{8}\{"__metadata__":)?\{\s*"sha256": ?"([0-9a-f]{64})"')
PLACE_BYTES = 256  # from the start of a file, in which the checksum stands
DAMAGED_HINT = "`dalle doctor RUN` says what else is damaged, and what helps"
CHUNK = 2**20  # bytes


class _Checksum(NamedTuple):
    """The checksum that a file states, where it stands, and what it should be."""

    stated: str
    offset: int
    actual: str


def check_checksum(path: Path, *, required: bool = True) -> None:
    """Raise DalleError if a file is not as it was written; OSError if it can't be read.

    required  whether a file without a checksum is damaged, too
    """
    check_regular(path)
    with path.open("rb") as file:
        _check(path, _checksum_of(file), required=required)


def _check(path: Path, found: _Checksum | None, *, required: bool) -> None:
    if found is None and required:
        raise _damaged(path, "it has no checksum")
    if found is not None and found.stated != found.actual:
        raise _damaged(path, "it does not match its checksum")


def _damaged(path: Path, reason: str) -> DalleError:
    return DalleError(f"{printable(str(path))} is damaged: {reason}", DAMAGED_HINT)


def _checksum_of(file: IO[bytes]) -> _Checksum | None:
    """Read a file from its start; returns None if it states no checksum."""
    start = file.read(PLACE_BYTES)
    place = PLACE.match(start)
    if place is None:
        return None

    first, last = place.span(1)
    digest = hashlib.sha256(start[:first] + ZEROS.encode() + start[last:])
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return _Checksum(place[1].decode(), first, digest.hexdigest())


def checksummed_json(content: Mapping[str, Any], **style: Any) -> bytes:
    """Return an object as the content of a JSON file with its checksum.

    style  how it is written, as `json.dumps` takes it
    """
    others = {key: value for key, value in content.items() if key != KEY}
    blank = (json.dumps({KEY: ZEROS, **others}, **{"indent": 1, **style}) + "\n").encode()
    checksum = hashlib.sha256(blank).hexdigest()
    return blank.replace(ZEROS.encode(), checksum.encode(), 1)


def read_checksummed_json(path: Path, *, since: int) -> bytes:
    """Read a file of `checksummed_json`, after checking it; what is not JSON is not checked.

    since  the file's first format, by its `schema` or `schema_version`, that has a checksum

    Raises OSError if it can't be read, and DalleError if it is not as it was written.
    """
    content = read_file(path)
    found = _checksum_of(io.BytesIO(content))
    _check(path, found, required=found is None and _stated_format(content) >= since)
    return content


def _stated_format(content: bytes) -> int:
    """Return the format that a JSON file states, 0 for any other file."""
    try:
        table = parse_json(content)
        stated = table.get("schema", table.get("schema_version"))
    except (ValueError, AttributeError):
        return 0
    return stated if isinstance(stated, int) else 0


def load_checksummed_json(path: Path, *, since: int) -> Any:
    """Load a file like `read_checksummed_json`; raises ValueError, too, if it is not JSON."""
    return parse_json(read_checksummed_json(path, since=since))


def has_checksum(path: Path) -> bool:
    """Return whether a file states a checksum; raises OSError if it can't be read."""
    check_regular(path)
    with path.open("rb") as file:
        return PLACE.match(file.read(PLACE_BYTES)) is not None


def fill_in_checksum(path: Path) -> None:
    """Write a file's checksum into its place, which holds zeros."""
    with path.open("r+b") as file:
        blank = _checksum_of(file)
        assert blank is not None, "a file with a checksum begins with it"
        file.seek(blank.offset)
        file.write(blank.actual.encode())
