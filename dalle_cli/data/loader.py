"""Batches of a run: which samples, prepared with which seeds, by the number of the update alone.

Position p = step * global_batch_size + i decides everything random about sample i of a step, so the loader has no state: a
resumed run sees what an uninterrupted one would, and worker processes and micro-batches change nothing.
"""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dalle_cli.config import DataTable, TrainingTable
from dalle_cli.data.images import BadSample
from dalle_cli.data.preprocessing import Example, Preprocessing
from dalle_cli.data.shuffling import derive_seed, sample_at
from dalle_cli.data.sources import Sample, Source
from dalle_cli.errors import DalleError

PREVIEW_SAMPLES = 8
READ_ATTEMPTS = 3
READ_PAUSE = 0.5  # seconds between attempts


@dataclass(frozen=True)
class Batch:
    """Samples side by side, and what their share of a larger batch is.

    images              float32 [B, 3, H, W] in [0, 1]; empty [B, 3, 0, 0] where there are image tokens
    positions               places of the samples in the run; they seed noise
    text_tokens         int64 [B, T], -1 after the caption; empty [B, 0] for the dVAE
    are_cut             whether a caption had more tokens than there was room for
    global_size         samples in the update that this is a part of
    global_text_tokens  caption tokens in that update
    image_tokens        int64 [B, I], where pictures were encoded beforehand
    n_enlarged          pictures that were smaller than the model takes them
    """

    images: Tensor
    positions: list[int]
    text_tokens: Tensor
    captions: list[str]
    global_size: int
    global_text_tokens: int
    are_cut: list[bool]
    bad: list[tuple[str, str]] = field(default_factory=list)
    image_tokens: Tensor | None = None
    n_enlarged: int = 0

    def micro_batches(self, size: int, device: torch.device) -> Iterator["Batch"]:
        """Cut into pieces of at most `size` samples (0: one piece), on the device."""
        size = size or len(self.positions)
        for start in range(0, len(self.positions), size):
            part = slice(start, start + size)
            yield replace(
                self,
                images=self.images[part].to(device).float() / 255,
                positions=self.positions[part],
                text_tokens=self.text_tokens[part].to(device),
                captions=self.captions[part],
                are_cut=self.are_cut[part],
                image_tokens=None
                if self.image_tokens is None
                else self.image_tokens[part].to(device),
            )


class TooManyBadSamples(DalleError):
    """More samples could not be used than the recipe bears."""


class TrainingBatches:
    """The global batches of a run, from any step on."""

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        prepare: Preprocessing,
        data: DataTable,
        training: TrainingTable,
        workers: int,
        on_bad: Callable[[str, str], None],
        share: range | None = None,
        join: Callable[[list[tuple[str, str]]], list[tuple[str, str]]] = lambda bad: bad,
    ) -> None:
        """indices: the samples to train on; on_bad hears of each bad sample once, as key and reason.

        share  which places of a global batch are this process's; none: all
        join   gathers the bad samples of all processes in each step, so that all come to the same end
        """
        share = share if share is not None else range(training.global_batch_size)
        self._steps = _Steps(source, indices, prepare, data.shuffle_block, training, share)
        self._join = join
        self._n_steps = training.steps
        self._workers = workers
        self._on_bad = on_bad
        self._bad_keys: set[str] = set()
        self.n_enlarged = 0  # of this process's samples
        self._most_bad = data.max_bad_share * len(indices)

    @property
    def n_bad(self) -> int:
        """Count the bad samples met so far."""
        return len(self._bad_keys)

    def start_at(self, step: int) -> Iterator[Batch]:
        """Yield the batch of each step from `step` to the last.

        Raises DalleError where reading fails or more samples are bad than the recipe bears.
        """
        loader = DataLoader(
            self._steps,
            sampler=range(step, self._n_steps),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
            worker_init_fn=_outlast_signals,
        )
        for batch in _explain_worker_death(loader):
            if isinstance(batch, DalleError):
                raise batch
            self._count(self._join(batch.bad))
            self.n_enlarged += batch.n_enlarged
            yield batch

    def _count(self, bad: list[tuple[str, str]]) -> None:
        for key, reason in bad:
            if key not in self._bad_keys:
                self._bad_keys.add(key)
                self._on_bad(key, reason)
        if len(self._bad_keys) > self._most_bad:
            raise TooManyBadSamples(
                f"{len(self._bad_keys)} samples are bad, more than `data.max_bad_share` bears: {int(self._most_bad)}",
                "`dalle data check` lists them with reasons; a larger share, set with `--set`, goes on from here",
            )


class _Steps(Dataset):
    """Item number `step` is that update's batch, or our share of it; a failure is a value, whole and unwrapped."""

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        prepare: Preprocessing,
        shuffle_block: int,
        training: TrainingTable,
        share: range,
    ) -> None:
        self._source = source
        self._indices = indices
        self._prepare = prepare
        self._shuffle_block = shuffle_block
        self._training = training
        self._share = share

    def __getitem__(self, step: int) -> Batch | DalleError:
        size = self._training.global_batch_size
        positions = [step * size + place for place in self._share]
        bad: list[tuple[str, str]] = []
        try:
            return replace(
                collate([self._example(position, bad) for position in positions], positions, bad),
                global_size=size,
            )
        except DalleError as error:
            return error

    def _example(self, position: int, bad: list[tuple[str, str]]) -> Example:
        """Prepare the sample at a position, or the next good one of the epoch's order: nobody else moves."""
        n_samples = len(self._indices)
        epoch_start = position - position % n_samples
        seed = self._training.seed
        for ahead in range(n_samples):
            place = epoch_start + (position + ahead - epoch_start) % n_samples
            index = int(self._indices[sample_at(place, n_samples, seed, self._shuffle_block)])
            try:
                return self._prepare(read_sample(self._source, index), derive_seed(seed, position))
            except BadSample as problem:
                bad.append((self._source.key(index), problem.reason))
        raise DalleError(
            f"not one usable sample in {self._source.name}", "`dalle data check` says why"
        )


class ValidationBatches:
    """The held-out samples, always the same and in the same order; decoded once and kept."""

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        prepare: Preprocessing,
        batch_size: int,
        n_samples: int,
    ) -> None:
        """At most n_samples of the indices are taken, spread over all of them; bad samples are left out."""
        chosen = indices[np.linspace(0, len(indices) - 1, min(n_samples, len(indices))).astype(int)]
        examples = []
        for index in chosen:
            try:
                examples.append(prepare(read_sample(source, int(index)), None))
            except BadSample:
                continue
        if not examples:
            raise DalleError(
                f"not one usable held-out sample in {source.name}", "`dalle data check` says why"
            )
        positions = list(range(len(examples)))
        starts = range(0, len(examples), batch_size)
        self._batches = [
            collate(examples[i : i + batch_size], positions[i : i + batch_size], []) for i in starts
        ]
        self._first = collate(examples[:PREVIEW_SAMPLES], positions[:PREVIEW_SAMPLES], [])

    def on(self, device: torch.device) -> Iterator[Batch]:
        """Yield the batches on a device."""
        for batch in self._batches:
            yield from batch.micro_batches(0, device)

    def first(self, device: torch.device) -> Batch:
        """Give a few of the samples for a preview, on a device."""
        return next(self._first.micro_batches(0, device))


def collate(examples: list[Example], positions: list[int], bad: list[tuple[str, str]]) -> Batch:
    """Stack examples into a batch that is whole by itself; its images stay uint8 until it is cut and moved."""
    pixels = np.stack([example.pixels for example in examples])
    empty = np.empty(0, dtype=np.int64)
    text = np.stack(
        [empty if example.text_tokens is None else example.text_tokens for example in examples]
    )
    image_tokens = [
        example.image_tokens for example in examples if example.image_tokens is not None
    ]
    return Batch(
        images=torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
        positions=positions,
        text_tokens=torch.from_numpy(text),
        captions=[example.caption for example in examples],
        global_size=len(examples),
        global_text_tokens=int((text >= 0).sum()),
        are_cut=[example.is_cut for example in examples],
        bad=bad,
        image_tokens=torch.from_numpy(np.stack(image_tokens).astype(np.int64))
        if image_tokens
        else None,
        n_enlarged=sum(example.is_enlarged for example in examples),
    )


def read_sample(source: Source, index: int) -> Sample:
    """Read a sample, trying again after an I/O error; raises BadSample, or DalleError where the disk keeps failing."""
    for attempt in range(READ_ATTEMPTS):
        try:
            return source.read(index)
        except OSError as error:
            if attempt == READ_ATTEMPTS - 1:
                reason = error.strerror or error
                raise DalleError(
                    f"cannot read {source.key(index)} in {source.name}: {reason}"
                ) from error
            time.sleep(READ_PAUSE)
    raise AssertionError("unreachable")


def _explain_worker_death(loader: DataLoader) -> Iterator[Batch | DalleError]:
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        hint = "often it ran out of memory: `--set runtime.workers=N` starts fewer"
        raise DalleError(f"a loader process died: {error}", hint) from error


def _outlast_signals(worker: int) -> None:
    """Leave a request to stop, which reaches the whole process group, to the training process: it wants to save."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
