"""Reading public CLIP checkpoints, files or folders, in whichever layout they are.

Anything that is not a CLIP raises one kind of error. The loader checks whether every weight fits.
"""

from pathlib import Path

from pydantic import ValidationError

from dalle_cli.errors import DalleError, printable
from dalle_cli.interop.hugging_face import HF_CONFIG, read_hugging_face
from dalle_cli.interop.open_clip import read_open_clip
from dalle_cli.interop.public_clip import PublicClip


def read_public_clip(path: Path) -> PublicClip:
    """Read a checkpoint file, or a folder with one.

    Raises DalleError if it is not a CLIP, is damaged, or has a tower or preprocessing that is not
    supported.
    """
    try:
        return read_hugging_face(path) if (path / HF_CONFIG).is_file() else read_open_clip(path)
    except ValidationError as error:
        raise DalleError(f"{path} is not a CLIP: {_first_problem(error)}") from error
    except (RuntimeError, TypeError, ValueError) as error:  # from arithmetic with other shapes
        raise DalleError(f"{path} is not a CLIP: its weights have other shapes") from error


def _first_problem(error: ValidationError) -> str:
    """Describe the first wrong key, with its value if only a few values are allowed."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] != "literal_error":
        return f"`{key}`: {first['msg']}"
    return f"`{key}`: {first['msg']}, not {printable(repr(first['input'])[:80])}"
