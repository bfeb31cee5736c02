"""generation.pipeline: to be described."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """One picture to draw: the number-th one of its caption."""

    caption: str
    number: int


@dataclass(frozen=True)
class BatchSizes:
    """How many candidates are sampled side by side, and at most how many of these are decoded and scored at a time."""

    sampling: int
    decoding: int


@dataclass(frozen=True)
class GeneratedBatch:
    """Candidates decoded side by side: those of a batch, or some that follow one another in it.

    place         of the first of them among all candidates
    text_tokens   int64 [B, T], -1 after the caption
    image_tokens  int64 [B, I]
    wanted        which of them were asked for; the others are there so that the same are always side by side
    """

    place: int
    candidates: list[Candidate]
    text_tokens: Tensor
    image_tokens: Tensor
    pictures: list[Image.Image]
    wanted: list[int]
