"""Public CLIP checkpoints, a file or a folder: whose they are, and one error for what is none.

Whether every weight fits is for the loader to check.
"""

from pathlib import Path

from pydantic import ValidationError

from dalle_cli.errors import DalleError
from dalle_cli.interop.hugging_face import HF_CONFIG, read_hugging_face
from dalle_cli.interop.open_clip import read_open_clip
from dalle_cli.interop.public_clip import PublicClip
from dalle_cli.untrusted import printable


def read_public_clip(path: Path) -> PublicClip:
    """Read a checkpoint file, or a folder that holds one.

    Raises DalleError for what is no CLIP, is damaged, or has a tower or preprocessing that is not supported.
    """
    try:
        return read_hugging_face(path) if (path / HF_CONFIG).is_file() else read_open_clip(path)
    except ValidationError as error:
        raise DalleError(f"{path} is not a CLIP: {_first_problem(error)}") from error
    except (
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # of arithmetic with shapes that are no CLIP's
        raise DalleError(f"{path} is not a CLIP: its weights have other shapes") from error


def _first_problem(error: ValidationError) -> str:
    """Name the first key that is wrong, and what it says where only few values are right."""
    first = error.errors()[0]
    found = (
        f", not {printable(repr(first['input'])[:80])}" if first["type"] == "literal_error" else ""
    )
    return f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}{found}"
