"""What both kinds of torch archives have in common: a zip with a pickle and raw numbers, from a stranger.

Members are plain, so that nothing unpacked is larger than the file. Refusals name the file and what it asks for.
"""

import zipfile
from pathlib import Path

from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

HINT = "only tensors are read from other people's files, nothing in them is run: ask for the weights as safetensors"
MAX_PICKLE = 2**24  # bytes; the largest CLIP needs a few hundred kilobytes
MAX_SHOWN = 200


def shown(text: str) -> str:
    """Make a text out of a file safe and short enough for a message."""
    return printable(text[:MAX_SHOWN])


def refusal(path: Path, request: str) -> DalleError:
    """Say that a file wants something run, and what."""
    return DalleError(f"{path} is refused: it asks to run {shown(request)}", HINT)


def refuse_bombs(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Hold an archive to the size of its file: torch neither compresses weights nor stores them twice."""
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise DalleError(f"{path} is refused: {shown(member.filename)} in it is compressed or encrypted", HINT)
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise DalleError(f"{path} is refused: the files in it are larger than it", HINT)


def read_pickle(archive: zipfile.ZipFile, top: str) -> bytes:
    """Read `data.pkl`; raises ValueError where it is larger than any checkpoint's, KeyError where there is none."""
    member = archive.getinfo(f"{top}/data.pkl")
    if member.file_size > MAX_PICKLE:
        raise ValueError(f"data.pkl has {member.file_size} bytes, more than {MAX_PICKLE}")
    return archive.read(member)
