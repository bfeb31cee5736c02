"""Files that fit into memory, read with care: one that never ends is not read, and JSON is parsed.

What stands where a run's file should be may be a pipe, a device or a stranger's. Imports no torch.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

LARGEST_FILE = 2**28  # bytes


def check_regular(path: Path) -> None:
    """Raise OSError unless a path is a regular file, or a link to one: others may have no end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder fails by itself
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def check_readable(path: Path) -> None:
    """Raise OSError unless a path is a regular file that may be read.

    For libraries that open a file by its name, and say of any that it is not there.
    """
    check_regular(path)
    with path.open("rb"):
        pass


def read_file(path: Path) -> bytes:
    """Read a regular file; raises OSError, with the reason, for any other, and for a large one."""
    check_regular(path)
    return read_input(path)


def read_input(path: Path) -> bytes:
    """Read what a user names, which may be a pipe; raises OSError if it is too large or endless."""
    with path.open("rb") as file:
        return read_stream(file, str(path))


def read_stream(stream: IO[bytes], name: str) -> bytes:
    """Read a stream to its end; raises OSError like `read_input`."""
    content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"larger than {LARGEST_FILE // 2**20} MiB", name)
    return content


def load_json(path: Path) -> Any:
    """Load a regular file of JSON.

    Raises OSError like `read_file`, and ValueError for content that is not JSON or too deep.
    """
    return parse_json(read_file(path))


def parse_json(content: bytes) -> Any:
    """Parse JSON; raises ValueError for content that is not JSON or too deep."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("too many brackets within one another") from None
