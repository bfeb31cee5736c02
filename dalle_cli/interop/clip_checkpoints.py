"""Reading public CLIP checkpoints, files or folders, in whichever layout they are.

Anything that is not a CLIP raises one kind of error. The loader checks whether every weight fits.
"""

from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dalle_cli.errors import DalleError, printable
from dalle_cli.interop.hugging_face import HF_CONFIG, read_hugging_face
from dalle_cli.interop.open_clip import read_open_clip
from dalle_cli.interop.public_clip import PublicClip

_KIND = ("model_type",)  # the key that says whether a Hugging Face folder is a CLIP at all


def read_public_clip(path: Path) -> PublicClip:
    """Read a checkpoint file, or a folder with one.

    Raises DalleError if it is not a CLIP, is damaged, or has a tower or preprocessing that is not
    supported.
    """
    try:
        return read_hugging_face(path) if (path / HF_CONFIG).is_file() else read_open_clip(path)
    except ValidationError as error:
        raise _explain(path, error.errors()[0]) from error
    except (RuntimeError, TypeError, ValueError) as error:  # from arithmetic with other shapes
        raise DalleError(f"{path} is not a CLIP: its weights have other shapes") from error


def _explain(path: Path, problem: ErrorDetails) -> DalleError:
    """Build the error for the first wrong key: a value that is known but not supported, or none."""
    place = tuple(map(str, problem["loc"]))
    key, value = ".".join(place), printable(repr(problem["input"])[:80])
    if place != _KIND and problem["type"] == "literal_error":
        supported = problem["ctx"]["expected"]
        return DalleError(
            f"{path} is not supported: its `{key}` is {value}",
            f"a CLIP can be used whose `{place[-1]}` is {supported}, as in OpenAI's models",
        )
    if problem["type"] == "too_long":
        return DalleError(
            f"{path} is not supported: its `{key}` is {value}",
            f"a CLIP can be used that has no `{place[-1]}`, as OpenAI's models",
        )

    found = f", not {value}" if problem["type"] == "literal_error" else ""
    return DalleError(f"{path} is not a CLIP: `{key}`: {problem['msg']}{found}")
