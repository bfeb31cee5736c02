"""Batches: a function of the step alone, whatever loads them, cuts them or is broken among them."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import SIDE, MemorySource, N, pair_preprocessing, png

from dalle_cli.config import DataTable, TrainingTable
from dalle_cli.data import loader
from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import decode_image
from dalle_cli.data.loader import Batch, TooManyBadSamples, TrainingBatches, ValidationBatches
from dalle_cli.data.preprocessing import DVAEPreprocessing, Preprocessing, pad_tokens
from dalle_cli.data.shuffling import Stream, derive_seed, sample_at
from dalle_cli.data.sources import Sample, Source, open_dataset
from dalle_cli.errors import DalleError
from dalle_cli.runtime.signals import StopRequested
from dalle_cli.training.stop_signals import StopSignals

STEPS, SIZE = 7, 4  # with four a step, epochs of ten end in the middle of batches
CPU = torch.device("cpu")
WORKERS = [0, 1, 2]
pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # on a machine with a single core


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "READ_PAUSE", 0)


PICTURES = DVAEPreprocessing(SIDE)


def batches(
    source: Source,
    preprocess: Preprocessing = PICTURES,
    workers: int = 0,
    steps: int = STEPS,
    size: int = SIZE,
    max_bad_share: float = 0.9,
    heard: list[tuple[str, str]] | None = None,
    streams: list[Stream] | None = None,
    share: range | None = None,
    n_lost: int = 0,
) -> TrainingBatches:
    data = DataTable(validation_share=0.1, shuffle_block=64, max_bad_share=max_bad_share)
    training = TrainingTable(steps=steps, global_batch_size=size, seed=5)
    heard = [] if heard is None else heard
    on_bad = lambda *problem: heard.append(problem)  # noqa: E731
    return TrainingBatches(
        source,
        np.arange(len(source)),
        preprocess=preprocess,
        data=data,
        training=training,
        workers=workers,
        on_bad=on_bad,
        streams=streams,
        share=share,
        n_lost=n_lost,
    )


def numbers(batch: Batch) -> list[int]:
    """Which samples the pictures show: their blue."""
    return batch.images[:, 2, 0, 0].tolist()


def order(n_positions: int, n_samples: int = N) -> list[int]:
    return [sample_at(position, n_samples, seed=5, block=64) for position in range(n_positions)]


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.text_tokens, b.text_tokens)
        assert (a.positions, a.captions, a.are_cut, a.bad) == (
            b.positions,
            b.captions,
            b.are_cut,
            b.bad,
        )
        assert (a.global_size, a.global_text_tokens) == (b.global_size, b.global_text_tokens)


PAIRS = pair_preprocessing(caption_dropout=0.3, bpe_dropout=0.3)


def test_batches_follow_the_order_across_epochs() -> None:
    whole = list(batches(MemorySource()).start_at(0))
    assert [number for batch in whole for number in numbers(batch)] == order(STEPS * SIZE)
    assert [position for batch in whole for position in batch.positions] == list(
        range(STEPS * SIZE)
    )


def test_only_the_given_indices_are_used() -> None:
    data = DataTable(validation_share=0.1, shuffle_block=64, max_bad_share=0.5)
    training = TrainingTable(steps=3, global_batch_size=2, seed=5)
    some = TrainingBatches(
        MemorySource(),
        np.array([1, 4, 9]),
        preprocess=PICTURES,
        data=data,
        training=training,
        workers=0,
        on_bad=lambda *_: None,
    )
    assert [n for batch in some.start_at(0) for n in numbers(batch)] == [
        [1, 4, 9][i] for i in order(6, n_samples=3)
    ]


@pytest.mark.parametrize("workers", WORKERS[1:])
@pytest.mark.parametrize("bad", [set(), {2, 3}])
def test_any_number_of_workers_gives_the_same_batches(workers: int, bad: set[int]) -> None:
    source = MemorySource(bad=bad)
    expected = list(batches(source, PAIRS).start_at(0))
    assert_same(list(batches(source, PAIRS, workers).start_at(0)), expected)


@pytest.mark.parametrize("start", [1, 3, STEPS - 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_starting_at_a_step_equals_the_tail_of_the_whole(start: int, workers: int) -> None:
    source = MemorySource(bad={1})
    whole = list(batches(source, PAIRS).start_at(0))
    assert_same(list(batches(source, PAIRS, workers).start_at(start)), whole[start:])


def test_starting_after_the_last_step_gives_nothing() -> None:
    assert list(batches(MemorySource()).start_at(STEPS)) == []


def test_batches_are_the_same_whatever_the_global_generators_hold() -> None:
    first = list(batches(MemorySource(), PAIRS).start_at(0))
    torch.manual_seed(1)
    np.random.seed(1)
    assert_same(list(batches(MemorySource(), PAIRS).start_at(0)), first)


def test_crops_vary_from_epoch_to_epoch() -> None:
    whole = list(batches(MemorySource(n=1), steps=10).start_at(0))
    crops = {image.numpy().tobytes() for batch in whole for image in batch.images}
    assert len(crops) > 20


def test_everything_that_workers_need_pickles() -> None:
    for preprocess in (PICTURES, PAIRS):
        copied = pickle.loads(pickle.dumps((MemorySource(), preprocess)))
        assert_same(
            list(batches(*copied).start_at(0)),
            list(batches(MemorySource(), preprocess).start_at(0)),
        )


@pytest.mark.parametrize(
    ("size", "lengths"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (4, [4]), (9, [4]), (0, [4])]
)
def test_micro_batches_cut_and_carry_the_global_counts(size: int, lengths: list[int]) -> None:
    whole = next(batches(MemorySource(), PAIRS).start_at(0))
    pieces = list(whole.micro_batches(size, CPU))
    assert [len(piece.positions) for piece in pieces] == lengths
    assert torch.equal(torch.cat([piece.text_tokens for piece in pieces]), whole.text_tokens)
    for name in ("positions", "captions", "are_cut"):
        assert [value for piece in pieces for value in getattr(piece, name)] == getattr(whole, name)
    assert {piece.global_size for piece in pieces} == {SIZE}
    assert {piece.global_text_tokens for piece in pieces} == {int((whole.text_tokens >= 0).sum())}


def test_micro_batches_hold_pixels_between_0_and_1() -> None:
    whole = next(batches(MemorySource()).start_at(0))
    images = torch.cat([piece.images for piece in whole.micro_batches(3, CPU)])
    assert whole.images.dtype == torch.uint8 and images.dtype == torch.float32
    torch.testing.assert_close(images.double(), whole.images.double() / 255, rtol=1e-6, atol=0)


def test_dvae_batches_have_no_text() -> None:
    batch = next(batches(MemorySource()).start_at(0))
    assert batch.images.shape == (SIZE, 3, SIDE, SIDE)
    assert batch.text_tokens.shape == (SIZE, 0) and batch.text_tokens.dtype == torch.int64
    assert batch.global_text_tokens == 0


@pytest.mark.parametrize("preprocess", [PICTURES, PAIRS], ids=["pictures", "pairs"])
def test_a_bad_sample_is_replaced_by_the_next_good_one_and_nobody_else_moves(
    preprocess: Preprocessing,
) -> None:
    bad = {3, 7}
    good = list(batches(MemorySource(), preprocess).start_at(0))
    mixed = list(batches(MemorySource(bad=bad), preprocess).start_at(0))
    n_replaced = 0
    for position, expected in enumerate(order(STEPS * SIZE)):
        step, row = divmod(position, SIZE)
        if expected not in bad:
            assert torch.equal(mixed[step].images[row], good[step].images[row])
            assert torch.equal(mixed[step].text_tokens[row], good[step].text_tokens[row])
            continue
        epoch = position // N * N
        following = [
            sample_at(epoch + (position + ahead) % N, N, seed=5, block=64) for ahead in range(N)
        ]
        replacement = MemorySource().read(next(sample for sample in following if sample not in bad))
        alone = preprocess(
            replacement, derive_seed(5, position)
        )  # as random as the one replaced would have been
        assert torch.equal(
            mixed[step].images[row], torch.from_numpy(alone.pixels.copy()).permute(2, 0, 1)
        )
        assert mixed[step].captions[row] == alone.caption
        n_replaced += 1
    assert n_replaced >= 4


@pytest.mark.parametrize("workers", WORKERS)
def test_a_bad_sample_is_heard_of_once(workers: int) -> None:
    heard: list[tuple[str, str]] = []
    training = batches(MemorySource(bad={3, 7}), workers=workers, heard=heard)
    for start in (0, 2):  # a run that starts again in the same process
        list(training.start_at(start))
    assert sorted(heard) == [("sample-3", "made bad"), ("sample-7", "made bad")]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("bad", [{1, 2}, {1, 2, 6}])
def test_the_run_stops_where_more_are_bad_than_the_recipe_bears(
    workers: int, bad: set[int]
) -> None:
    training = batches(MemorySource(bad=bad), workers=workers, max_bad_share=0.2)
    if len(bad) == 2:
        assert len(list(training.start_at(0))) == STEPS
        return
    with pytest.raises(DalleError, match="3 samples are bad") as caught:
        list(training.start_at(0))
    assert type(caught.value) is TooManyBadSamples and "data check" in caught.value.hint


@pytest.mark.parametrize(("n_bad", "n_lost"), [(2, 1), (1, 2), (0, 3)])
def test_samples_that_were_lost_before_count_as_bad_ones(n_bad: int, n_lost: int) -> None:
    """A fifth of 13 or fewer samples is two."""
    source = MemorySource(n=13 - n_lost, bad=set(range(n_bad)))
    with pytest.raises(TooManyBadSamples, match=r"3 samples are bad, more than .* allows: 2"):
        list(batches(source, max_bad_share=0.2, n_lost=n_lost).start_at(0))
    assert len(list(batches(source, max_bad_share=0.25, n_lost=n_lost).start_at(0))) == STEPS


@pytest.mark.parametrize("workers", WORKERS)
def test_nothing_but_bad_samples_is_an_error_that_names_the_source(workers: int) -> None:
    training = batches(MemorySource(bad=set(range(N))), workers=workers)
    with pytest.raises(DalleError, match="not one usable sample in memory") as caught:
        list(training.start_at(0))
    assert type(caught.value) is DalleError and caught.value.hint


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fails_twice_is_read_a_third_time(workers: int) -> None:
    heard: list[tuple[str, str]] = []
    source = MemorySource(failures={0: 2, 4: 1, 9: 2})
    assert_same(
        list(batches(source, workers=workers, heard=heard).start_at(0)),
        list(batches(MemorySource()).start_at(0)),
    )
    assert heard == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_keeps_failing_is_an_error_that_names_the_sample(workers: int) -> None:
    training = batches(MemorySource(failures={4: 10**6}), workers=workers)
    with pytest.raises(
        DalleError, match="cannot read sample-4 in memory: Input/output error"
    ) as caught:
        list(training.start_at(0))
    assert type(caught.value) is DalleError


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_before_a_failure_are_delivered(workers: int) -> None:
    sample = 4
    step = order(STEPS * SIZE).index(sample) // SIZE
    steps = batches(MemorySource(failures={sample: 10**6}), workers=workers).start_at(0)
    expected = list(batches(MemorySource()).start_at(0))[:step]
    for batch in expected:
        assert torch.equal(next(steps).images, batch.images)
    with pytest.raises(DalleError):
        next(steps)


def test_captions_of_a_sample_vary_over_epochs() -> None:
    whole = list(batches(MemorySource(), pair_preprocessing(), steps=30).start_at(0))
    captions = {caption for batch in whole for caption in batch.captions}
    assert captions == {caption for i in range(N) for caption in MemorySource().captions(i)}


def test_text_tokens_are_those_of_the_caption_shown() -> None:
    preprocess = pair_preprocessing()
    for batch in batches(MemorySource(), preprocess).start_at(0):
        for number, caption, tokens in zip(
            numbers(batch), batch.captions, batch.text_tokens, strict=True
        ):
            assert caption in MemorySource().captions(number)
            expected = preprocess.tokenizer.encode(caption)
            assert tokens.tolist() == expected + [-1] * (12 - len(expected))


def validation(
    source: Source, preprocess: Preprocessing = PAIRS, size: int = 3, n: int = 100
) -> ValidationBatches:
    return ValidationBatches(
        source, np.arange(len(source)), preprocess=preprocess, batch_size=size, n_samples=n
    )


def test_validation_is_always_the_same_centre_crop_with_the_first_caption() -> None:
    source = MemorySource(n=5)
    held_out = validation(source)
    first, second = (list(held_out.on(CPU)) for _ in range(2))
    assert_same(first, second)
    assert_same(first, list(validation(source).on(CPU)))
    assert [len(batch.positions) for batch in first] == [3, 2]
    images = torch.cat([batch.images for batch in first])
    for i, image in enumerate(images):
        expected = torch.from_numpy(centre_crop(decode_image(png(i)), SIDE)).permute(2, 0, 1)
        assert torch.equal((image * 255).round().to(torch.uint8), expected)
    assert [c for batch in first for c in batch.captions] == [f"{i} first" for i in range(5)]
    expected_tokens = [
        pad_tokens(PAIRS.tokenizer.encode(f"{i} first"), 12).tolist() for i in range(5)
    ]
    assert torch.cat([batch.text_tokens for batch in first]).tolist() == expected_tokens


def test_validation_batches_are_whole_by_themselves_and_their_positions_differ() -> None:
    parts = list(validation(MemorySource(n=5)).on(CPU))
    assert [batch.global_size for batch in parts] == [3, 2]
    assert [batch.global_text_tokens for batch in parts] == [
        int((b.text_tokens >= 0).sum()) for b in parts
    ]
    assert sorted(position for batch in parts for position in batch.positions) == list(range(5))


def test_validation_takes_so_many_samples_and_leaves_bad_ones_out() -> None:
    held_out = validation(MemorySource(bad={0, 2}), PICTURES, n=6)
    shown = [
        round(float(image[2, 0, 0]) * 255) for batch in held_out.on(CPU) for image in batch.images
    ]
    assert shown == [1, 3, 5, 7, 9]  # spread over all ten: 0, 1, 3, 5, 7, 9, of which 0 is bad


def test_validation_without_a_good_sample_is_an_error() -> None:
    with pytest.raises(DalleError, match="held-out sample in memory"):
        validation(MemorySource(n=3, bad={0, 1, 2}))


def test_batches_of_a_folder_show_its_pictures_with_their_captions(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        (tmp_path / f"{i}.txt").write_text(f"number {i}\nno. {i}\n")
    (tmp_path / "6.png").write_bytes(png(6)[:-40])
    (tmp_path / "6.txt").write_text("damaged\n")
    heard: list[tuple[str, str]] = []
    source = open_dataset(str(tmp_path), captions_required=True)
    for batch in batches(source, pair_preprocessing(), workers=1, heard=heard).start_at(0):
        for number, caption in zip(numbers(batch), batch.captions, strict=True):
            assert caption in {f"number {number}", f"no. {number}"}
    assert heard == [("6", "damaged or incomplete picture")]


class DeadlySource(MemorySource):
    """Ends the process that reads from it, as the system does when memory runs out."""

    def read(self, index: int) -> Sample:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


@pytest.mark.thorough
def test_a_worker_that_dies_is_a_known_failure() -> None:
    with pytest.raises(DalleError, match="a data worker was ended by SIGKILL") as caught:
        list(batches(DeadlySource(), workers=1).start_at(0))
    assert "runtime.workers" in caught.value.hint


class StuckSource(MemorySource):
    """Stops the process that reads from it, as a disk that hangs does."""

    def read(self, index: int) -> Sample:
        os.kill(os.getpid(), signal.SIGSTOP)
        raise AssertionError("unreachable")


ORPHAN = """
import os, signal, sys
from dalle_cli.data.loader import _prepare_worker

def serve():
    os.read(waiting, 1)  # until nobody has the other end
    raise ConnectionResetError("what multiprocessing raises")

if os.fork() == 0:  # the training process
    parent = os.getpid()
    waiting, held = os.pipe()
    if os.fork() == 0:  # its worker
        os.close(held)
        _prepare_worker(parent, 0)
        try:
            serve()
        except ConnectionResetError:
            sys.excepthook(*sys.exc_info())
        os._exit(0)
    if sys.argv[1] == "killed":
        os.kill(parent, signal.SIGKILL)
    os.close(held)
    os.wait()
    os._exit(0)
os.wait()
"""


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("end", ["killed", "alive"])
def test_worker_of_a_killed_process_ends_without_a_traceback(end: str) -> None:
    command = [sys.executable, "-c", ORPHAN, end]
    # waits for everyone who holds stderr
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert ("ConnectionResetError" in told) == (end == "alive")


def test_wait_for_a_worker_that_is_stuck_ends_by_a_request_to_stop(hang_guard: None) -> None:
    before = multiprocessing.active_children()
    with StopSignals() as stop:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(StopRequested) as caught:
            list(batches(StuckSource(), workers=1).start_at(0, stop.waiting))
    assert caught.value.number == signal.SIGTERM
    for worker in set(multiprocessing.active_children()) - set(before):
        worker.join()  # it is killed


def test_request_that_came_before_the_wait_is_heard_at_once() -> None:
    with StopSignals() as stop:
        steps = batches(MemorySource()).start_at(0, stop.waiting)
        next(steps)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopRequested):
            next(steps)


class VanishingSource(MemorySource):
    """Some of its files have been deleted since they were listed."""

    def read(self, index: int) -> Sample:
        if index in {3, 7}:
            raise FileNotFoundError(2, "No such file or directory", f"{index}.png")
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_whose_file_has_vanished_is_a_bad_one(workers: int) -> None:
    heard: list[tuple[str, str]] = []
    source = VanishingSource()
    assert_same(
        [replace(b, bad=[]) for b in batches(source, workers=workers, heard=heard).start_at(0)],
        [replace(b, bad=[]) for b in batches(MemorySource(bad={3, 7})).start_at(0)],
    )
    assert sorted(heard) == [("sample-3", "no longer there"), ("sample-7", "no longer there")]


def test_failure_of_another_process_ends_this_one_with_its_message() -> None:
    """All processes leave together, so that they can save together."""
    training = batches(MemorySource())
    training._join = lambda told: [*told, DalleError("cannot read 7", "look at the disk")]
    with pytest.raises(DalleError, match="cannot read 7") as caught:
        next(training.start_at(0))
    assert caught.value.hint == "look at the disk"


STREAMS = [Stream(7, Fraction(7, 10)), Stream(3, Fraction(3, 10))]
UNEQUAL = [Stream(7, Fraction(1, 4)), Stream(3, Fraction(3, 4))]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("start", [0, 3])
def test_mixed_batches_are_the_same_from_any_step_and_with_any_workers(
    workers: int, start: int
) -> None:
    source = MemorySource(bad={1, 8})
    whole = list(batches(source, PAIRS, streams=UNEQUAL).start_at(0))
    assert_same(
        list(batches(source, PAIRS, workers, streams=UNEQUAL).start_at(start)), whole[start:]
    )


def test_processes_share_a_mixed_batch_as_one_would_load_it() -> None:
    whole = list(batches(MemorySource(), streams=UNEQUAL).start_at(0))
    parts = [
        list(batches(MemorySource(), streams=UNEQUAL, share=share).start_at(0))
        for share in (range(0, 2), range(2, 4))
    ]
    for step, batch in enumerate(whole):
        assert numbers(batch) == [number for part in parts for number in numbers(part[step])]


@pytest.mark.parametrize("streams", [STREAMS, UNEQUAL], ids=["by size", "by weight"])
def test_streams_are_mixed_in_their_shares(streams: list[Stream]) -> None:
    drawn = [
        n
        for batch in batches(MemorySource(), steps=10, streams=streams).start_at(0)
        for n in numbers(batch)
    ]
    assert sum(n < 7 for n in drawn) == int(40 * streams[0].share)
    assert drawn[:10] != sorted(drawn[:10])


def test_a_bad_sample_is_replaced_from_its_stream() -> None:
    source = MemorySource(bad={7, 8})
    drawn = [n for batch in batches(source, streams=UNEQUAL).start_at(0) for n in numbers(batch)]
    assert sum(n < 7 for n in drawn) == STEPS * SIZE // 4
    assert {n for n in drawn if n >= 7} == {9}
