"""Several sources as one, each with its share of the draws in training.

`birds/@0.3` is the source `birds/` with the weight 0.3. Keys are those of the sources themselves,
so that samples stay trained on, or held out, when their source is mixed with others.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from dalle_cli.data.images import Problem
from dalle_cli.data.shuffling import Stream
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.encoded.tokens import EncodedFolder
from dalle_cli.data.sources.exclusion import exclude_samples
from dalle_cli.data.sources.opening import open_dataset
from dalle_cli.data.sources.source import Sample, Source
from dalle_cli.errors import DalleError, UsageError, printable

_WEIGHTED = re.compile(r"(.+)@(\d+(?:\.\d+)?|\.\d+)", re.DOTALL)


class MixedSource:
    """Source over the samples of several sources, one source after another.

    weights  of the sources, None for those without
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[Fraction | None]) -> None:
        self.name = ", ".join(source.name for source in sources)
        self.form = f"{len(sources)} sources"
        self.sources = tuple(sources)
        self._weights = tuple(weights)
        self._ends = np.cumsum([len(source) for source in sources])

        self.problems: list[Problem] = [p for source in sources for p in source.problems]
        self.n_lost = sum(source.n_lost for source in sources)
        unread: Counter[str] = Counter()
        for source in sources:
            unread.update(source.unread)
        self.unread = dict(unread.most_common())

    def __len__(self) -> int:
        return int(self._ends[-1])

    def key(self, index: int) -> str:
        source, i = self._find(index)
        return source.key(i)

    def read(self, index: int) -> Sample:
        source, i = self._find(index)
        return source.read(i)

    def captions(self, index: int) -> list[str]:
        source, i = self._find(index)
        return source.captions(i)

    def fingerprint(self) -> str:
        """Hash the fingerprints and the weights of all sources in order."""
        parts = [
            f"{source.fingerprint()} {weight}\n"
            for source, weight in zip(self.sources, self._weights, strict=True)
        ]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def streams(self, indices: np.ndarray) -> list[Stream]:
        """Return the number of samples of each source among ascending indices, and its share.

        Raises DalleError if there are weights, and a source has no sample to draw.
        """
        counts = np.diff(np.searchsorted(indices, [0, *self._ends])).tolist()
        for source, count in zip(self.sources, counts, strict=True):
            if not count and any(self._weights):
                raise DalleError(
                    f"no sample of {printable(source.name)} is left to train on",
                    "all are held out: give others for validation with `--valid`",
                )
        shares = shares_of(self._weights, counts)
        return [Stream(*pair) for pair in zip(counts, shares, strict=True)]

    def _find(self, index: int) -> tuple[Source, int]:
        """Return the source of a sample, and the sample's index there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        source = self.sources[number]
        return source, index - int(self._ends[number]) + len(source)


def open_datasets(
    specs: Sequence[str],
    *,
    captions_required: bool,
    tokens_allowed: bool = False,
    embeddings_allowed: bool = False,
    columns: Columns = Columns(),  # noqa: B008  it is frozen
    exclude: Path | None = None,
) -> Source:
    """Open one source or several, each named with or without a weight, as `open_dataset` does.

    A key to exclude may be of any source, and is left out of all that have it.

    Raises UsageError for weights that cannot be, or for what is encoded mixed with pictures.
    """
    split = [split_weight(spec) for spec in specs]
    weights = [weight for _, weight in split]
    check_weights(weights)

    sources = [
        open_dataset(
            spec,
            captions_required=captions_required,
            tokens_allowed=tokens_allowed,
            embeddings_allowed=embeddings_allowed,
            columns=columns,
        )
        for spec, _ in split
    ]
    if len({isinstance(source, EncodedFolder) for source in sources}) > 1:
        raise UsageError(
            f"a {_encoded_form(sources)} cannot be mixed with pictures",
            "encode the pictures as well: `dalle data encode`",
        )
    if exclude is not None:
        sources = [*exclude_samples(sources, exclude)]
    return sources[0] if len(sources) == 1 else MixedSource(sources, weights)


def _encoded_form(sources: Sequence[Source]) -> str:
    return next(source.form for source in sources if isinstance(source, EncodedFolder))


def split_weight(spec: str) -> tuple[str, Fraction | None]:
    """Split `birds/@0.3` into its source and its weight; what exists is a name as it stands."""
    match = _WEIGHTED.fullmatch(spec)
    if match is None or os.path.exists(spec):
        return spec, None
    return match[1], Fraction(match[2])


def check_weights(weights: Sequence[Fraction | None]) -> None:
    """Raise UsageError for a weight of 0, or for weights that leave nothing to those without."""
    given = [weight for weight in weights if weight is not None]
    if not all(given):
        raise UsageError("the weight of a source must be above 0", "leave the source out instead")
    if len(given) < len(weights) and sum(given) >= 1:
        raise UsageError(
            "the weights leave nothing to the sources without one: "
            f"they sum to {float(sum(given)):g}",
            "give weights to all sources, or some that sum to less than 1",
        )


def shares_of(weights: Sequence[Fraction | None], counts: Sequence[int]) -> list[Fraction]:
    """Return each source's share of the draws; they sum to 1.

    If all have weights, shares are in proportion to them. Otherwise weights are shares, and the
    sources without divide the rest in proportion to their numbers of samples.
    """
    given = sum(weight for weight in weights if weight is not None)
    if None not in weights:
        return [Fraction(weight or 0) / given for weight in weights]

    rest = 1 - Fraction(given)
    n_rest = sum(n for weight, n in zip(weights, counts, strict=True) if weight is None)
    return [
        rest * Fraction(n, n_rest) if weight is None else weight
        for weight, n in zip(weights, counts, strict=True)
    ]
