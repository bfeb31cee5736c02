"""The batches of a run, their samples and all randomness, as a function of the step alone.

Position p = step * global_batch_size + i in the data order decides everything random about sample i
of a step, so the loader has no state: a resumed run sees what an uninterrupted one would, and
neither worker processes nor micro-batches change anything.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dalle_cli.config import DataTable, TrainingTable
from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.preprocessing import Example, Preprocessing
from dalle_cli.data.shuffling import SampleOrder, Stream, derive_seed
from dalle_cli.data.sources import Sample, Source
from dalle_cli.data.unclip.clip_embeddings import BatchEmbeddings, stack_embeddings
from dalle_cli.errors import DalleError
from dalle_cli.runtime.devices import to_device
from dalle_cli.runtime.signals import STOP_SIGNALS, StopRequested

Failure = Exception | StopRequested  # what ends the loading of batches
PREVIEW_SAMPLES = 8
READ_ATTEMPTS = 3
READ_PAUSE = 0.5  # seconds between attempts


@dataclass(frozen=True)
class Batch:
    """A batch of samples, with the counts of the larger batch that it is part of.

    images              float32 [B, 3, H, W] in [0, 1]; empty [B, 3, 0, 0] if the pictures were
                        encoded beforehand
    positions           positions of the samples in the data order of the run; they seed noise
    text_tokens         int64 [B, T], -1 after the caption; empty [B, 0] for the dVAE
    are_cut             whether each caption had more tokens than fit
    global_size         number of samples in the update that this batch is part of
    global_text_tokens  number of caption tokens in that update
    image_tokens        int64 [B, I] if the pictures were encoded beforehand
    n_enlarged          number of pictures that were smaller than the model's image size
    keys                keys of the samples
    clip_images         float32 [B, 3, R, R] in [0, 1], the same squares as a frozen CLIP reads
                        them, if that is in another size
    embeddings          CLIP's of pictures and captions, if they were embedded beforehand
    """

    images: Tensor
    positions: list[int]
    text_tokens: Tensor
    captions: list[str]
    global_size: int
    global_text_tokens: int
    are_cut: list[bool]
    bad: list[Problem] = field(default_factory=list)
    image_tokens: Tensor | None = None
    n_enlarged: int = 0
    keys: list[str] = field(default_factory=list)
    clip_images: Tensor | None = None
    embeddings: BatchEmbeddings | None = None

    def micro_batches(self, size: int, device: torch.device) -> Iterator["Batch"]:
        """Yield pieces of at most `size` samples (0: a single piece), moved to the device."""
        size = size or len(self.positions)

        for start in range(0, len(self.positions), size):
            part = slice(start, start + size)
            image_tokens, clip_images = self.image_tokens, self.clip_images
            yield replace(
                self,
                images=_floats(self.images[part], device),
                positions=self.positions[part],
                text_tokens=to_device(self.text_tokens[part], device),
                captions=self.captions[part],
                are_cut=self.are_cut[part],
                keys=self.keys[part],
                image_tokens=(
                    None if image_tokens is None else to_device(image_tokens[part], device)
                ),
                clip_images=None if clip_images is None else _floats(clip_images[part], device),
                embeddings=self.embeddings and self.embeddings.part(part, device),
            )


def _floats(images: Tensor, device: torch.device) -> Tensor:
    """Move pictures uint8 to a device, and map them to [0, 1]."""
    return to_device(images, device).float() / 255


class TooManyBadSamples(DalleError):
    """More samples are unusable than the recipe tolerates."""


def check_bad_samples(n_bad: int, most: float) -> None:
    """Raise TooManyBadSamples where more than `most` samples are bad."""
    if n_bad > most:
        raise TooManyBadSamples(
            f"{n_bad} samples are bad, more than `data.max_bad_share` allows: {int(most)}",
            "`dalle data check` lists them with reasons; to resume from here, allow a larger "
            "share with `--set`",
        )


class TrainingBatches:
    """The global batches of a run, starting from any step."""

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        *,
        preprocess: Preprocessing,
        data: DataTable,
        training: TrainingTable,
        workers: int,
        on_bad: Callable[[str, str], None],
        streams: Sequence[Stream] | None = None,
        share: range | None = None,
        n_lost: int = 0,
        join: Callable[[list[Any]], list[Any]] = lambda told: told,
    ) -> None:
        """Prepare to read the samples at `indices`.

        on_bad   called once for each bad sample, with its key and the reason
        streams  which share of the draws the first, the next ... of the indices have; None for one
        share    which samples of a global batch this process loads; None for all
        n_lost   how many samples were lost before the indices were made, and count as bad
        join     gathers what all processes have to tell at each step, bad samples and failures, so
                 that all stop together
        """
        self._steps = _Steps(
            source,
            indices,
            preprocess=preprocess,
            order=SampleOrder(
                streams or [Stream(len(indices), Fraction(1))],
                seed=training.seed,
                block=data.shuffle_block,
            ),
            training=training,
            share=share if share is not None else range(training.global_batch_size),
        )
        self._join = join
        self._n_steps = training.steps
        self._workers = workers
        self._on_bad = on_bad

        self._bad_keys: set[str] = set()
        self._n_lost = n_lost
        self._most_bad = data.max_bad_share * (len(indices) + n_lost)
        self.n_enlarged = 0  # of this process's samples

    @property
    def n_bad(self) -> int:
        """The number of bad samples found so far."""
        return len(self._bad_keys)

    def start_at(
        self, step: int, waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Iterator[Batch]:
        """Yield the batch of each step from `step` to the last.

        waiting  is entered around every wait for a batch; it may end the wait by StopRequested

        Every process takes part, and what ends one ends all. Raises DalleError if reading fails,
        TooManyBadSamples if more samples are bad than the recipe tolerates, and StopRequested.
        """
        loader = DataLoader(
            self._steps,
            sampler=range(step, self._n_steps),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
            worker_init_fn=partial(_prepare_worker, os.getpid()),
        )

        with closing(_load(loader, waiting)) as items:
            for loaded in items:
                if isinstance(loaded, Failure):
                    self._join([_portable(loaded)])
                    raise loaded
                told = self._join(loaded.bad)
                for failure in told:
                    if isinstance(failure, Failure):
                        raise failure

                self._count(told)
                self.n_enlarged += loaded.n_enlarged
                yield loaded

    def _count(self, bad: list[Problem]) -> None:
        for key, reason in bad:
            if key not in self._bad_keys:
                self._bad_keys.add(key)
                self._on_bad(key, reason)

        check_bad_samples(len(self._bad_keys) + self._n_lost, self._most_bad)


class _Steps(Dataset):
    """Dataset whose item `step` is the batch of that update, or this process's share of it.

    A failure is returned as the item: raised in a worker, it would arrive wrapped.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        *,
        preprocess: Preprocessing,
        order: SampleOrder,
        training: TrainingTable,
        share: range,
    ) -> None:
        self._source = source
        self._indices = indices
        self._preprocess = preprocess
        self._order = order
        self._training = training
        self._share = share

    def __getitem__(self, step: int) -> Batch | DalleError:
        size = self._training.global_batch_size
        positions = [step * size + i for i in self._share]
        bad: list[Problem] = []
        try:
            keyed = [self._example(position, bad) for position in positions]
        except DalleError as error:
            return error
        whole = collate([example for _, example in keyed], positions, bad=bad)
        return replace(whole, global_size=size, keys=[key for key, _ in keyed])

    def _example(self, position: int, bad: list[Problem]) -> tuple[str, Example]:
        """Return the key and the example at a position.

        If its sample is bad, the next good one in the epoch's order replaces it; no other position
        is affected.
        """
        for sample in self._order.candidates(position):
            index = int(self._indices[sample])
            try:
                read = read_sample(self._source, index)
                seed = derive_seed(self._training.seed, position)
                return read.key, self._preprocess(read, seed)
            except BadSample as problem:
                bad.append((self._source.key(index), problem.reason))

        raise DalleError(
            f"not one usable sample in {self._source.name}", "`dalle data check` says why"
        )


class ValidationBatches:
    """The held-out samples, always the same and in the same order; decoded once and cached."""

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        *,
        preprocess: Preprocessing,
        batch_size: int,
        n_samples: int,
    ) -> None:
        """Load at most n_samples of the indices, evenly spaced; bad samples are skipped."""
        n_chosen = min(n_samples, len(indices))
        examples = []
        for index in indices[np.linspace(0, len(indices) - 1, n_chosen).astype(int)]:
            try:
                examples.append(preprocess(read_sample(source, int(index)), None))
            except BadSample:
                continue
        if not examples:
            raise DalleError(
                f"not one usable held-out sample in {source.name}", "`dalle data check` says why"
            )

        positions = list(range(len(examples)))
        self._batches = [
            collate(examples[i : i + batch_size], positions[i : i + batch_size], bad=[])
            for i in range(0, len(examples), batch_size)
        ]
        self._first = collate(examples[:PREVIEW_SAMPLES], positions[:PREVIEW_SAMPLES], bad=[])

    def on(self, device: torch.device) -> Iterator[Batch]:
        """Yield the batches, moved to a device."""
        for batch in self._batches:
            yield from batch.micro_batches(0, device)

    def first(self, device: torch.device) -> Batch:
        """Return the first few samples for a preview, moved to a device."""
        return next(self._first.micro_batches(0, device))


def collate(examples: list[Example], positions: list[int], *, bad: list[Problem]) -> Batch:
    """Stack examples into a batch that is not part of a larger one.

    Its images stay uint8 until `micro_batches` splits and moves it, and channels last in memory, as
    pictures are decoded and as convolutions prefer them.
    """
    no_text = np.empty(0, dtype=np.int64)
    text_tokens = np.stack(
        [no_text if example.text_tokens is None else example.text_tokens for example in examples]
    )  # [B, T]

    encoded = [example.image_tokens for example in examples if example.image_tokens is not None]
    image_tokens = (
        torch.from_numpy(np.stack(encoded).astype(np.int64)) if encoded else None
    )  # [B, I]

    clip_pixels = [example.clip_pixels for example in examples if example.clip_pixels is not None]
    embeddings = [example.embeddings for example in examples if example.embeddings is not None]
    return Batch(
        images=_stack_pixels([example.pixels for example in examples]),
        positions=positions,
        text_tokens=torch.from_numpy(text_tokens),
        captions=[example.caption for example in examples],
        global_size=len(examples),
        global_text_tokens=int((text_tokens >= 0).sum()),
        are_cut=[example.is_cut for example in examples],
        bad=bad,
        image_tokens=image_tokens,
        n_enlarged=sum(example.is_enlarged for example in examples),
        clip_images=_stack_pixels(clip_pixels) if clip_pixels else None,
        embeddings=stack_embeddings(embeddings) if embeddings else None,
    )


def _stack_pixels(pixels: list[np.ndarray]) -> Tensor:
    """Stack pictures uint8 [H, W, 3] as uint8 [B, 3, H, W], channels last in memory."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # [B, 3, H, W]


def read_sample(source: Source, index: int) -> Sample:
    """Read a sample, retrying after I/O errors.

    Raises BadSample if the sample is unusable or no longer there, DalleError if the disk keeps
    failing.
    """
    for attempt in range(READ_ATTEMPTS):
        try:
            return source.read(index)
        except (FileNotFoundError, NotADirectoryError):
            raise BadSample("no longer there") from None
        except OSError as error:
            if attempt == READ_ATTEMPTS - 1:
                reason = error.strerror or error
                raise DalleError(
                    f"cannot read {source.key(index)} in {source.name}: {reason}"
                ) from error
            time.sleep(READ_PAUSE)
    raise AssertionError("unreachable")


def _load(
    loader: DataLoader, waiting: Callable[[], AbstractContextManager[None]]
) -> Generator[Batch | Failure, None, None]:
    """Yield the batches of a loader, and as the last item what ended it early, if anything did.

    Worker processes that are left then are killed: they may be stuck, and would hold up the end of
    this process.
    """
    others = set(multiprocessing.active_children())
    loaded = _start(loader)
    workers = set(multiprocessing.active_children()) - others
    try:
        while True:
            try:
                with waiting():
                    batch = next(loaded, None)
            except (Exception, StopRequested) as failure:
                yield _explain_worker_death(failure, workers)
                return
            if batch is None:
                return
            yield batch
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()


def _start(loader: DataLoader) -> Iterator[Batch | DalleError]:
    """Start a loader's workers, without the handler by which torch notices the death of one.

    It raises wherever the main process is at the time, in the middle of an update, say. A wait for
    a batch of that worker fails anyway, within seconds.
    """
    if not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _explain_worker_death(failure: Failure, workers: set[BaseProcess]) -> Failure:
    """Return a known failure in place of torch's where a worker has died."""
    died = [worker.exitcode for worker in workers if worker.exitcode]
    if not died or not isinstance(failure, Exception):
        return failure
    code = died[0]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return DalleError(
        f"a data worker {how}",
        "it often means that memory ran out: start fewer with `--set runtime.workers=N`",
    )


def _portable(failure: Failure) -> Failure:
    """Return a failure as other processes can receive it."""
    if isinstance(failure, DalleError | StopRequested):
        return failure
    return DalleError(f"{type(failure).__name__}: {failure}")


def _prepare_worker(parent: int, worker: int) -> None:
    """Ignore requests to stop, which reach the whole process group, and end without a traceback.

    The training process handles the requests: it wants to save first. Where it is killed, whatever
    a worker was sending it fails in a thread of multiprocessing, which would print that.

    parent  number of the training process, which may be gone before this is called
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = partial(_report_unless_orphaned, parent)


def _report_unless_orphaned(
    parent: int, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what a thread raised, unless the parent process is gone within a second."""
    for _ in range(100):
        if os.getppid() != parent:
            return
        time.sleep(0.01)
    sys.__excepthook__(kind, error, trace)
