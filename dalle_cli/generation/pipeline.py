"""What turns captions into pictures, as jobs, rankings and output folders see it.

What `Task` and `Engine` are for training, a `Pipeline` is for generation: a job knows nothing else
of a model. Knows nothing of tokens, of files, or of which pictures are worth keeping.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from dalle_cli.errors import printable

CAPTION_SHOWN = 60  # characters of a caption in a warning


@dataclass(frozen=True)
class Candidate:
    """A picture to generate: number `number`, counted from 0, of its caption."""

    caption: str
    number: int


@dataclass(frozen=True)
class BatchSizes:
    """How many candidates are sampled together, and how many are decoded and scored together."""

    sampling: int
    decoding: int


@dataclass(frozen=True)
class GeneratedBatch:
    """Candidates that were decoded together: a sampling batch, or consecutive candidates of one.

    position   of the first of them among all candidates of the job
    requested  indices of those that were asked for; the others keep the batch in its usual company
    """

    position: int
    candidates: list[Candidate]
    pictures: list[Image.Image]
    requested: list[int]


class Pipeline(Protocol):
    """A model, or several, with everything else that a job's pictures depend on."""

    @property
    def device(self) -> torch.device: ...

    @property
    def is_compiled(self) -> bool:
        """Whether the first batch waits for a compiler."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The fields of a picture's record that state how it was generated.

        JSON values, the models' checksum among them.
        """
        ...

    def generate(
        self, candidates: Sequence[Candidate], positions: Sequence[int], sizes: BatchSizes
    ) -> Iterator[GeneratedBatch]:
        """Generate the candidates at these positions, in order.

        A picture depends on its caption, its number and the batch sizes, not on which others are
        asked for.
        """
        ...

    def sampling_bytes(self, n_samples: int, n_captions: int) -> int:
        """Estimate the memory that sampling takes in addition to the loaded models."""
        ...

    def decoding_bytes(self) -> int:
        """Estimate the memory that decoding takes per picture."""
        ...

    def warnings(self, captions: list[str]) -> Iterator[str]:
        """Yield warnings about captions, to be printed before they are generated."""
        ...

    def n_steps(self, n_batches: int) -> int:
        """Return how many steps n batches take, which decides whether compiling pays."""
        ...

    def compiled(self, *, is_compiled: bool) -> "Pipeline":
        """Return the same pipeline with its steps compiled, or not."""
        ...


def filled_batches(
    candidates: Sequence[Candidate], requested: set[int], size: int
) -> list[tuple[int, list[Candidate]]]:
    """Return the batches that hold requested positions, each with the position of its first one.

    Batches start at multiples of their size. A short one is filled up from the first candidate on,
    so that captions still come in runs of equal length.
    """
    batches = []
    for first in sorted({position - position % size for position in requested}):
        batch = list(candidates[first : first + size])
        batch += itertools.islice(itertools.cycle(candidates), size - len(batch))
        batches.append((first, batch))
    return batches


def requested_parts(
    first: int, n: int, size: int, requested: set[int]
) -> Iterator[tuple[slice, list[int]]]:
    """Divide a batch into parts; yield those that hold requested positions, with their indices.

    first  position of the first of its n candidates
    size   of a part
    """
    for start in range(0, n, size):
        part = range(start, min(start + size, n))
        asked_for = [i - start for i in part if first + i in requested]
        if asked_for:
            yield slice(part.start, part.stop), asked_for


def repeated_captions(captions: Sequence[str]) -> Iterator[str]:
    """Yield a warning for each caption that is given several times."""
    for caption, n_times in Counter(captions).items():
        if n_times > 1:
            shown = printable(caption)[:CAPTION_SHOWN]
            yield f"caption given {n_times} times, for the same pictures: {shown}"
