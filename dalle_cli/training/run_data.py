"""The data of a run: which samples train, which are held out, and their batches.

Knows nothing of models, nor of the run's folder.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from dalle_cli.config import DataTable, Recipe
from dalle_cli.console import Terminal
from dalle_cli.data.images import BadSample, check_header
from dalle_cli.data.loader import (
    TrainingBatches,
    ValidationBatches,
    check_bad_samples,
    read_sample,
)
from dalle_cli.data.preprocessing import Preprocessing
from dalle_cli.data.shuffling import Stream
from dalle_cli.data.sources import (
    Columns,
    MixedSource,
    RemainingSource,
    Source,
    describe_unread,
    open_dataset,
    open_datasets,
    validation_split,
)
from dalle_cli.data.text.encodings import NOT_UTF8, TO_UTF8
from dalle_cli.errors import DalleError, printable
from dalle_cli.runtime.distributed import World
from dalle_cli.training.loop import Batches

MOST_HEADERS = 512  # of pictures, that are looked at before training


@dataclass(frozen=True)
class Portion:
    """Some of a source's samples."""

    source: Source
    indices: np.ndarray

    @property
    def sources(self) -> Sequence[Source]:
        """The sources that the source consists of."""
        return self.source.sources if isinstance(self.source, MixedSource) else [self.source]

    @property
    def streams(self) -> list[Stream]:
        """The number of samples of each source, and its share of the draws."""
        if isinstance(self.source, MixedSource):
            return self.source.streams(self.indices)
        return [Stream(len(self.indices), Fraction(1))]

    @property
    def n_excluded(self) -> int:
        """The number of samples that the source had to leave out, as it was told by their keys."""
        remaining = [source for source in self.sources if isinstance(source, RemainingSource)]
        return sum(source.n_excluded for source in remaining)

    @property
    def n_lost(self) -> int:
        """The number of samples that the source lost, of which these have their part."""
        return round(self.source.n_lost * len(self.indices) / len(self.source))

    def describe(self) -> str:
        """Describe every source: its form, what in it is not read, and its share of the draws."""
        streams = self.streams
        lines = []
        for source, (n_samples, share) in zip(self.sources, streams, strict=True):
            words = [f"data: {printable(source.name)}: {source.form}"]
            if len(streams) > 1:
                words.append(f"{n_samples:,} samples, {float(share):.1%} of all draws")
            if unread := describe_unread(source.unread):
                words.append(f"not read: {unread}")
            lines.append("; ".join(words))
        return "\n".join(lines)

    def captions(self, most: int | None = None, *, max_bad_share: float = 1.0) -> Iterator[str]:
        """Yield the captions of all samples, or of at most so many that are evenly spread.

        Samples without usable captions are left out: they are reported, and counted, when their
        turn to train comes. Raises TooManyBadSamples where they are a larger share than allowed,
        and DalleError if there is no caption at all, with the reasons.
        """
        n = len(self.indices)
        chosen = range(n) if most is None else np.linspace(0, n - 1, min(n, most)).astype(int)
        faults: Counter[str] = Counter()
        examples: dict[str, str] = {}
        n_captions = 0

        for index in self.indices[chosen]:
            try:
                captions = self.source.captions(int(index))
            except (BadSample, FileNotFoundError) as fault:
                reason = fault.reason if isinstance(fault, BadSample) else "file that is gone"
                faults[reason] += 1
                examples.setdefault(reason, self.source.key(int(index)))
                continue
            n_captions += len(captions)
            yield from captions
        if not n_captions:
            raise _no_caption(self.source.name, faults, examples)
        check_bad_samples(faults.total(), max_bad_share * len(chosen))

    def check_pictures(self, max_bad_share: float, terminal: Terminal) -> None:
        """Raise TooManyBadSamples if the headers of the pictures show that too many are bad.

        Of many pictures, some that are evenly spread are looked at; what they show is a warning.
        """
        n = len(self.indices)
        chosen = self.indices[np.linspace(0, n - 1, min(n, MOST_HEADERS)).astype(int)]
        n_bad = sum(_has_bad_picture(self.source, int(index)) for index in chosen)

        if n_bad == len(chosen):
            among = "" if n_bad == n else f"{n_bad:,} that were looked at of "
            name = printable(self.source.name)
            raise DalleError(
                f"not one usable sample in {among}{name}", "`dalle data check` says why"
            )
        if not n_bad:  # what is lost was judged before
            return
        most = max_bad_share * (n + self.n_lost)
        if len(chosen) == n:
            check_bad_samples(n_bad + self.n_lost, most)
        elif n_bad * n / len(chosen) + self.n_lost > most:
            terminal.warn(
                f"{n_bad:,} of {len(chosen):,} pictures that were looked at are bad: training will "
                f"stop when it has met more than {int(most):,}\n"
                "hint: `dalle data check` lists them with reasons; a larger `data.max_bad_share` "
                "bears them"
            )


@dataclass(frozen=True)
class RunData:
    """The samples that train, and those that are held out."""

    training: Portion
    validation: Portion

    @property
    def sources(self) -> list[Source]:
        """All sources, of samples that train and of those that are held out."""
        return [*self.training.sources, *self.validation.sources]

    @property
    def held_out(self) -> str:
        """What is held out: "a share" of the data, or the fingerprint of another source."""
        is_share = self.validation.source is self.training.source
        return "a share" if is_share else self.validation.source.fingerprint()

    def batches(
        self, preprocess: Preprocessing, recipe: Recipe, *, world: World, terminal: Terminal
    ) -> Batches:
        """Build the batches of a run, with at most one loader process per processor."""
        runtime = recipe.runtime
        share = world.share(recipe.training.global_batch_size)
        training = TrainingBatches(
            self.training.source,
            self.training.indices,
            preprocess=preprocess,
            data=recipe.data,
            training=recipe.training,
            workers=min(runtime.workers, _n_processors()),
            on_bad=lambda key, reason: terminal.warn(f"skipped {printable(key)}: {reason}"),
            streams=self.training.streams,
            share=share,
            n_lost=self.training.n_lost,
            join=world.all_gather,
        )

        validation = ValidationBatches(
            self.validation.source,
            self.validation.indices,
            preprocess=preprocess,
            batch_size=runtime.micro_batch_size or len(share),
            n_samples=runtime.validation_samples,
        )
        return Batches(training, validation)


def open_run_data(
    data: Sequence[str],
    valid: str | None,
    *,
    columns: Columns,
    table: DataTable,
    captions_required: bool,
    tokens_allowed: bool = False,
    embeddings_allowed: bool = False,
    terminal: Terminal,
    exclude: Path | None = None,
) -> RunData:
    """Open the data of a run and hold out a share of them, or what `valid` names.

    data     sources, with weights or without
    table    the shares that are held out, and may be bad
    exclude  a list of keys of `data` that are left out, not of `valid`

    The other arguments are those of `open_dataset`.

    Raises DalleError like `open_datasets`, and if more samples are lost, or seen to be bad by their
    pictures' headers, than the table allows.
    """
    source = open_datasets(
        data,
        captions_required=captions_required,
        tokens_allowed=tokens_allowed,
        embeddings_allowed=embeddings_allowed,
        columns=columns,
        exclude=exclude,
    )
    terminal.warn_about(source.problems)
    _check_losses(source, table.max_bad_share)

    if valid is None:
        indices, held_out = validation_split(source, table.validation_share)
        run_data = RunData(Portion(source, indices), Portion(source, held_out))
    else:
        other = open_dataset(
            valid,
            captions_required=captions_required,
            tokens_allowed=tokens_allowed,
            embeddings_allowed=embeddings_allowed,
            columns=columns,
        )
        run_data = RunData(_all_of(source), _all_of(other))
    terminal.say(run_data.training.describe())
    run_data.training.check_pictures(table.max_bad_share, terminal)
    return run_data


def _has_bad_picture(source: Source, index: int) -> bool:
    """Return whether a sample has a picture that its header shows to be bad, or none.

    One whose captions are bad counts as good: whoever reads captions tells more of them.
    """
    try:
        sample = read_sample(source, index)
        if not sample.is_encoded:
            check_header(sample.image)
    except BadSample:
        return _has_captions(source, index)
    return False


def _has_captions(source: Source, index: int) -> bool:
    try:
        source.captions(index)
    except (BadSample, OSError):
        return False
    return True


def _no_caption(name: str, faults: Counter[str], examples: dict[str, str]) -> DalleError:
    found = [f"{n:,} x {reason} ({examples[reason]})" for reason, n in faults.most_common(3)]
    advice = [TO_UTF8] if NOT_UTF8 in faults else []
    hint = "; ".join([*found, *advice])
    return DalleError(f"not one usable caption in {printable(name)}", printable(hint))


def _check_losses(source: Source, max_bad_share: float) -> None:
    n_samples = len(source) + source.n_lost
    if source.n_lost <= max_bad_share * n_samples:
        return

    most = int(max_bad_share * n_samples)
    enough = min(math.ceil(100 * source.n_lost / n_samples) / 100, 0.99)
    raise DalleError(
        f"{source.n_lost:,} of {n_samples:,} samples are lost, more than `data.max_bad_share` "
        f"allows: {most:,}",
        f"`dalle data check {printable(source.name)}` lists what is wrong; "
        f"`--set data.max_bad_share={enough:g}` trains on the others",
    )


def _all_of(source: Source) -> Portion:
    return Portion(source, np.arange(len(source)))


def _n_processors() -> int:
    """Return how many processors this process may use; not every system can say which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
