"""Two data sets compared picture by picture, from their files to what they share."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dalle_cli.console import Terminal
from dalle_cli.data.sources import Problem, Source
from dalle_cli.errors import DalleError, printable
from dalle_cli.scoring.overlap.copy_search import CopySearch, Overlap
from dalle_cli.scoring.overlap.descriptors import Descriptor, describe_source

BATCH_SIZE = 64  # pictures described at once


@dataclass(frozen=True)
class Comparison:
    """A training set and a test set, compared by a method.

    threshold  the distance up to which pictures count as copies
    bad        pictures that could not be read, as (where, reason), once all are compared
    """

    training: Source
    test: Source
    descriptor: Descriptor
    threshold: float
    terminal: Terminal
    bad: list[Problem] = field(default_factory=list)

    def run(self) -> Overlap:
        """Compare all pictures; those that cannot be read are warned of and left out.

        Raises DalleError if a set has no picture that can be read.
        """
        search = self._describe_test()
        n_compared = 0
        for indices, vectors in self._described(self.training, is_test=False):
            search.add(indices, vectors)
            n_compared += len(indices)
        if not n_compared:
            raise _nothing_readable(self.training)
        return search.overlap()

    def facts(self, overlap: Overlap) -> dict[str, Any]:
        """Return how the sets were compared, and how many of their pictures they share."""
        sides = {"test": (self.test, overlap.test), "train": (self.training, overlap.training)}
        counts = {
            name: {
                "samples": len(source),
                "fingerprint": source.fingerprint(),
                "copies": len(found),
            }
            for name, (source, found) in sides.items()
        }
        return {
            "method": self.descriptor.method,
            "threshold": self.threshold,
            "unit": self.descriptor.unit,
            **counts,
            "bad": [{"where": where, "reason": reason} for where, reason in self.bad],
        }

    def _describe_test(self) -> CopySearch:
        batches = list(self._described(self.test, is_test=True))
        if not batches:
            raise _nothing_readable(self.test)
        return CopySearch(
            [index for indices, _ in batches for index in indices],
            np.concatenate([vectors for _, vectors in batches]),
            distances=self.descriptor.distances,
            threshold=self.threshold,
        )

    def _described(
        self, source: Source, *, is_test: bool
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the numbers and the vectors of the pictures that can be read, batch by batch."""
        views = self.descriptor.test_views if is_test else self.descriptor.training_views
        with self.terminal.progress(len(source), 0, "picture") as line:
            for batch in describe_source(
                source, self.descriptor, views, batch_size=BATCH_SIZE, advance=line.advance
            ):
                for where, reason in batch.bad:
                    self.terminal.warn(f"skipped {where}: {reason}")
                self.bad.extend(batch.bad)
                if batch.indices:
                    yield batch.indices, batch.vectors


def _nothing_readable(source: Source) -> DalleError:
    return DalleError(
        f"not one usable picture in {printable(source.name)}", "see the reasons above"
    )
