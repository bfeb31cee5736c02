"""`about.toml`: what the author of a model says of it, in a run or in an export.

It is written by hand. `dalle export` copies it and puts it on the model card, `dalle models` lists
it, and `dalle generate` takes captions from it where none are given. Every text is a line that a
terminal can show.
"""

import tomllib
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from dalle_cli.config import Rate, Table
from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import read_file


def _check_line(text: str) -> str:
    if not text.strip() or printable(text) != text:
        raise ValueError(f"must be a line of text: {printable(text)!r}")
    return text


Line = Annotated[str, AfterValidator(_check_line)]


class SamplingAdvice(Table):
    """How the model's pictures are best: options of `dalle generate` where none are given."""

    temperature: Rate = 1.0
    guidance: Rate = 1.0


class ModelAbout(Table):
    """What a model draws, where it comes from, and what may be done with it.

    draws         what its pictures show
    data          what it was trained on
    data_licence  of what it was trained on
    training      how long it was trained, and on what machine
    licence       of the weights, as SPDX spells it
    limits        what it can't do
    figures       what was measured, by name
    captions      examples that it draws well
    sampling      how they are best
    """

    title: Line
    draws: Line
    data: Line
    data_licence: Line
    training: Line
    licence: Line
    limits: Annotated[list[Line], Field(min_length=1)]
    figures: dict[Line, Line]
    captions: Annotated[list[Line], Field(min_length=1)]
    sampling: SamplingAdvice = SamplingAdvice()


def read_about(folder: RunDir) -> ModelAbout:
    """Read `about.toml`; raises DalleError, listing every problem, if it is missing or damaged."""
    try:
        return ModelAbout.model_validate(tomllib.loads(read_file(folder.about).decode()))
    except OSError as error:
        raise DalleError(f"cannot read {folder.about}: {error.strerror}") from error
    except ValidationError as error:
        problems = (
            f"  `{'.'.join(map(str, problem['loc']))}`: "
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors()
        )
        raise DalleError("\n".join([f"{folder.about} is damaged:", *problems])) from error
    except (ValueError, RecursionError) as error:
        raise DalleError(f"{folder.about} is not valid TOML: {error}") from error


def read_sampling_advice(folder: RunDir) -> SamplingAdvice:
    """Read how a model's pictures are best; where nobody says so, as in the paper.

    Raises DalleError if `about.toml` is damaged.
    """
    return read_about(folder).sampling if folder.about.is_file() else SamplingAdvice()
