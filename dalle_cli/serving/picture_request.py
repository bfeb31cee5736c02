"""What a browser may ask for: the fields of its form, and their checks.

The form is made from the same table, so that a number has one range.
"""

import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.errors import UsageError, printable
from dalle_cli.generation.image_prompt import default_kept_rows
from dalle_cli.generation.text_to_image import RankBy
from dalle_cli.pages.playground import NumberField
from dalle_cli.storage.model_about import SamplingAdvice

MAX_CAPTION = 1000  # characters
MAX_SEED = 2**53 - 1  # beyond, numbers of a script are rounded
NEW_SEEDS = 2**31
NAME_SHOWN = 40  # characters of an unknown field
RANKINGS: dict[RankBy, str] = {
    "clip": "CLIP",
    "caption": "what the caption explains",
    "perplexity": "likelihood",
}


@dataclass(frozen=True)
class PictureRequest:
    """Pictures that a browser asks for; all fields but the last are those of `dalle generate`.

    keep_rows  None without a picture to begin from
    image      id of the uploaded picture to begin from
    """

    caption: str
    n: int
    first: int
    seed: int
    temperature: float
    guidance: float
    best: int
    rank: RankBy | None
    keep_rows: int | None
    image: str | None


def number_fields(advice: SamplingAdvice) -> tuple[NumberField, ...]:
    """Return the fields for numbers; they begin as the model's author advises."""
    return (
        NumberField("n", "Pictures", 1, 64, 4),
        NumberField("seed", "Seed", -MAX_SEED, MAX_SEED, None, note="a new one"),
        NumberField("first", "Number of the first", 0, 10**6, 0),
        NumberField("temperature", "Temperature", 0, 100, advice.temperature, is_whole=False),
        NumberField("guidance", "Guidance", 0, 100, advice.guidance, is_whole=False),
        NumberField("best", "Keep the best (0: all)", 0, 64, 0),
    )


def kept_rows_field(grid_size: int) -> NumberField:
    """Return the field for how much of a picture is kept."""
    most = max(grid_size - 1, 1)
    label = f"Rows to keep, of {grid_size}"
    return NumberField("keep_rows", label, 1, most, min(default_kept_rows(grid_size), most))


def read_request(
    facts: object, *, rankings: Collection[RankBy], grid_size: int, advice: SamplingAdvice
) -> PictureRequest:
    """Check what a browser has sent; a seed is chosen where there is none.

    rankings  that the model has
    advice    the usual temperature and guidance

    Raises UsageError for what can't be right.
    """
    if not isinstance(facts, dict):
        raise UsageError("a request is a JSON object")
    fields = number_fields(advice)
    names = {"caption", "rank", "keep_rows", "image", *(field.name for field in fields)}
    for name in facts.keys() - names:
        raise UsageError(f"no such field: {printable(name)[:NAME_SHOWN]}")

    numbers = {field.name: _number(facts, field) for field in fields}
    if numbers["seed"] is None:
        numbers["seed"] = secrets.randbelow(NEW_SEEDS)
    image = facts.get("image")
    if image is not None and not isinstance(image, str):
        raise UsageError("`image` must be the id of an uploaded picture")
    if image is None and "keep_rows" in facts:
        raise UsageError("there is no picture of which rows could be kept")
    keep_rows = None if image is None else _number(facts, kept_rows_field(grid_size))

    request = PictureRequest(
        caption=_caption(facts.get("caption")),
        rank=_ranking(facts.get("rank"), rankings),
        image=image,
        keep_rows=cast(int | None, keep_rows),
        **cast(dict[str, Any], numbers),
    )
    if request.best > request.n:
        raise UsageError(f"{request.best} of {request.n} pictures can't be kept")
    if request.best and request.rank is None:
        raise UsageError("nothing says which are the best", "choose what ranks the pictures")
    return request


def _caption(text: object) -> str:
    """Return a caption as `dalle generate` cleans it: the same caption gives the same pictures."""
    if not isinstance(text, str) or not text.strip():
        raise UsageError("there is no caption")
    if len(text) > MAX_CAPTION:
        raise UsageError(f"the caption has {len(text):,} characters: at most {MAX_CAPTION:,}")
    try:
        cleaned = clean_captions([text])
    except BadSample as error:
        raise UsageError(f"the caption can't be used: {error.reason}") from error
    if not cleaned:
        raise UsageError("there is no caption")
    return cleaned[0]


def _ranking(name: object, rankings: Collection[RankBy]) -> RankBy | None:
    if name is None:
        return None
    if name not in rankings:
        raise UsageError("this model can't rank so", f"`rank` is one of: {', '.join(rankings)}")
    return cast(RankBy, name)


def _number(facts: Mapping[str, object], field: NumberField) -> float | None:
    """Return a number of a request, or the field's usual value."""
    value = facts.get(field.name, field.value)
    if value is None:
        return None
    # not `isinstance`: True and False are numbers in Python
    is_number = type(value) is int or (type(value) is float and math.isfinite(value))
    if not is_number or (field.is_whole and type(value) is not int):
        kind = "a whole number" if field.is_whole else "a number"
        raise UsageError(f"`{field.name}` must be {kind}")
    if not field.low <= cast(float, value) <= field.high:
        raise UsageError(f"`{field.name}` must be {field.low:,} to {field.high:,}")
    return cast(float, value)
