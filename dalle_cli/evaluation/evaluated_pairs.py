"""Which samples of a data set a model is evaluated on, and which captions it is asked for.

Of the data that a run was trained on, only what it held out is evaluated: the run's record says
which data these were, and keys alone say which samples (`data/sources/split.py`). Of any other data
everything is. Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dalle_cli.data.images import BadSample
from dalle_cli.data.shuffling import derive_seed
from dalle_cli.data.sources import Columns, Source, open_dataset, open_datasets, validation_split
from dalle_cli.data.sources.mixture import split_weight
from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.integrity.checksums import load_checksummed_json
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import JOB, RunDir
from dalle_cli.storage.run_record import RECORD_SCHEMA, absolute_source

EVERYTHING = "all samples"


@dataclass(frozen=True)
class TrainingRecord:
    """What a run or an export states of its training data; a missing or damaged record is empty.

    fingerprint  of the data
    sources      what `--data` named, absolute; an export has none
    share        of the data that was held out; None if other data were
    """

    fingerprint: str | None = None
    sources: tuple[str, ...] = ()
    share: float | None = None

    def covers(self, source: Source, spec: str) -> bool:
        """Return whether a source is what the run was trained on, or a part of it.

        It may have been trained on the source's tokens instead (`dalle data encode`).
        """
        places = [absolute_source(split_weight(one)[0]) for one in self.sources]
        if absolute_source(spec) in places:
            return True
        contents = [self.fingerprint, *map(_encoded_fingerprint, places)]
        return source.fingerprint() in contents


def _encoded_fingerprint(place: str) -> str | None:
    """Return the fingerprint of the pictures whose tokens a folder holds, None for any other."""
    if not Path(place, JOB).is_file():
        return None
    try:
        return JobFolder.open(Path(place)).recall("data", None)
    except (OSError, DalleError):
        return None


def read_training_record(run: RunDir) -> TrainingRecord:
    """Read what a run states of its training data, which may be a stranger's words."""
    try:
        record: Any = load_checksummed_json(run.recipe, since=RECORD_SCHEMA)
        data, share = record["data"], float(record["recipe"]["data"]["validation_share"])
        sources = record.get("command", {}).get("data") or []
        if not 0 <= share <= 1:
            raise ValueError("no share")
        return TrainingRecord(
            fingerprint=str(data["fingerprint"]),
            sources=tuple(str(source) for source in sources),
            share=share if data["held_out"] == "a share" else None,
        )
    except (OSError, ValueError, OverflowError, LookupError, TypeError, AttributeError, DalleError):
        return TrainingRecord()


@dataclass(frozen=True)
class EvaluatedPairs:
    """Samples of a source, ascending and evenly spread over those that may be evaluated.

    split        which samples may be, in words
    n_available  how many these are
    """

    source: Source
    indices: np.ndarray
    split: str
    n_available: int
    warnings: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the figures depend on, as JSON values."""
        return {
            "data": self.source.fingerprint(),
            "split": self.split,
            "pairs": len(self.indices),
        }

    @property
    def description(self) -> str:
        """Describe in words what is evaluated."""
        return f"{len(self.indices):,} of {self.n_available:,} pairs, {self.split}"

    def captions(self, n: int, seed: int) -> list[str]:
        """Return n different captions, drawn evenly and in the order of the data, or all of them.

        Different: a caption that comes twice would have the same picture twice.
        """
        found: dict[str, None] = {}
        for index in self.indices.tolist():
            try:
                found |= dict.fromkeys(self.source.captions(index))
            except (BadSample, OSError):
                continue
        captions = list(found)
        order = np.random.default_rng(derive_seed(seed, "captions")).permutation(len(captions))
        return [captions[i] for i in sorted(order[:n].tolist())]


def open_evaluated_pairs(
    spec: str, run: RunDir, *, n: int, captions_required: bool, columns: Columns
) -> EvaluatedPairs:
    """Open `--data` and choose at most n of the samples that a run did not learn from.

    Raises DalleError like `open_dataset`.
    """
    source = open_dataset(spec, captions_required=captions_required, columns=columns)
    record = read_training_record(run)
    indices, split = np.arange(len(source)), EVERYTHING
    warnings: list[str] = []

    if record.covers(source, spec):
        if record.share is None:
            warnings = [f"{printable(spec)} is what {run.root} was trained on, all of it"]
        else:
            _, indices = validation_split(source, record.share)
            split = f"the share of the training data that was held out: {record.share:g}"

    chosen = indices[spread(len(indices), n)]
    return EvaluatedPairs(source, chosen, split, len(indices), tuple(warnings))


@dataclass(frozen=True)
class TrainingPictures:
    """The pictures that a run was trained on, evenly spread if there are more than are wanted."""

    source: Source
    indices: np.ndarray
    n_available: int

    @property
    def facts(self) -> dict[str, Any]:
        """Return what figures depend on, as JSON values."""
        return {"training_data": self.source.fingerprint(), "pictures": len(self.indices)}


def open_training_pictures(
    spec: str | None, run: RunDir, *, n: int, columns: Columns
) -> TrainingPictures | None:
    """Open what `--train` names, or else what the run's record does; None where it names nothing.

    What the run held out is left out. Raises DalleError like `open_datasets`.
    """
    record = read_training_record(run)
    specs: Sequence[str] = record.sources if spec is None else [spec]
    if not specs:
        return None

    source = open_datasets(specs, captions_required=False, columns=columns)
    indices = np.arange(len(source))
    is_recorded = spec is None or record.covers(source, spec)
    if is_recorded and record.share is not None:
        indices, _ = validation_split(source, record.share)
    return TrainingPictures(source, indices[spread(len(indices), n)], len(indices))


def spread(n: int, most: int) -> np.ndarray:
    """Return at most so many positions in range(n), evenly spread."""
    return np.linspace(0, max(n - 1, 0), min(n, most)).astype(int)
