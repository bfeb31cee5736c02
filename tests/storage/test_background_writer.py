"""Writing in a thread: everything in order, nothing after a failure, and every failure told."""

import threading

import pytest

from dalle_cli.storage.background_writer import MOST_WAITING, BackgroundWriter


def fail(error: BaseException) -> None:
    raise error


def test_everything_is_written_in_order_in_one_other_thread() -> None:
    written: list[tuple[int, int]] = []
    with BackgroundWriter() as writer:
        for i in range(3 * MOST_WAITING):
            writer.submit(lambda number: written.append((number, threading.get_ident())), i)
    assert [number for number, _ in written] == list(range(3 * MOST_WAITING))
    (thread,) = {thread for _, thread in written}
    assert thread != threading.get_ident()


def test_who_waits_goes_on_when_all_is_written() -> None:
    begin, written = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.flush()
        writer.submit(begin.wait)
        writer.submit(written.append, 1)
        assert written == []
        begin.set()
        writer.flush()
        assert written == [1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_is_raised_and_nothing_written_after_it(error: BaseException) -> None:
    written: list[int] = []
    with pytest.raises(type(error)) as caught, BackgroundWriter() as writer:
        writer.submit(written.append, 1)
        writer.submit(fail, error)
        for i in range(2, MOST_WAITING + 9):
            writer.submit(written.append, i)
    assert caught.value is error and written == [1]


def test_failure_is_raised_where_somebody_waits() -> None:
    with pytest.raises(OSError), BackgroundWriter() as writer:
        writer.submit(fail, OSError())
        writer.flush()
        pytest.fail("the failure was not raised")


def test_what_was_asked_for_is_done_before_an_exception_goes_on() -> None:
    written: list[int] = []
    with pytest.raises(KeyboardInterrupt), BackgroundWriter() as writer:
        for i in range(9):
            writer.submit(written.append, i)
        raise KeyboardInterrupt
    assert written == list(range(9))


def test_no_thread_outlives_the_with() -> None:
    before = threading.active_count()
    with pytest.raises(OSError), BackgroundWriter() as writer:
        writer.submit(fail, OSError())
    assert threading.active_count() == before
