"""Freed memory serves the next tensor."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from dalle_cli.runtime.devices import open_device

open_device("cpu", "fp32")
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24), torch.ones(2**25)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="the C library has no mallopt",
)
def test_large_tensors_take_new_pages_once() -> None:
    """Soon, if not at once: small pieces may fall between them.

    What is chosen holds for a process as a whole.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    first, *_, last = map(int, done.stdout.split())
    assert first > 40_000  # of 4 KiB, in 192 MiB
    assert last < 100
