"""Requests to stop on their way to other processes."""

import signal
import subprocess
import sys

import pytest

from dalle_cli.runtime.signals import STOP_SIGNALS, stop_signals, stop_signals_forwarded

WAIT = "\n".join([
    "import signal",
    *(f"signal.signal({int(number)}, signal.SIG_DFL)" for number in STOP_SIGNALS),
    "print(flush=True)",
    "signal.pause()",
])  # fmt: skip


@pytest.fixture
def child():
    """A process that waits until a signal ends it."""
    with subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_request_reaches_the_child_and_not_this_process(
    number: signal.Signals, child: subprocess.Popen
) -> None:
    before = signal.getsignal(number)
    with stop_signals_forwarded() as forwarded_to:
        forwarded_to(child)
        signal.raise_signal(number)
        assert child.wait(timeout=60) == -number
    assert signal.getsignal(number) is before


def test_ctrl_c_is_not_sent_twice_to_a_child_of_the_same_group(child: subprocess.Popen) -> None:
    with stop_signals_forwarded(same_group=True) as forwarded_to:
        forwarded_to(child)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == -signal.SIGTERM


def test_request_that_comes_before_the_child_reaches_it(child: subprocess.Popen) -> None:
    with stop_signals_forwarded() as forwarded_to:
        signal.raise_signal(signal.SIGTERM)
        forwarded_to(child)
        assert child.wait(timeout=60) == -signal.SIGTERM


def test_sighup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stop_signals()
        with stop_signals_forwarded():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
