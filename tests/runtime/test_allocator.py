"""Freed memory serves the next tensor."""

import ctypes
import os
import subprocess
import sys

import pytest

from dalle_cli.runtime.allocator import GPU_SETTINGS, grow_segments

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


@pytest.mark.thorough
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


@pytest.mark.parametrize("name", GPU_SETTINGS)
def test_segments_of_a_gpu_grow_unless_its_user_has_settings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for other in GPU_SETTINGS:
        monkeypatch.setenv(other, "")  # so that it is restored
        monkeypatch.delenv(other)
    grow_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"

    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv(name, "backend:native")
    grow_segments()
    assert {os.environ.get(other) for other in GPU_SETTINGS} == {None, "backend:native"}
