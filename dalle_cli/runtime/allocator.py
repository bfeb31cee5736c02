"""Settings of the allocators: of the C library for host memory, and of torch for a GPU's."""

import ctypes
import os
import sys

# from glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4

HEAP_GROWTH = 2**28  # bytes
GPU_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the older name


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next tensor, not return it to the system.

    By default glibc maps every tensor above 32 MiB anew, and the system then zeroes it page by
    page; for a discrete VAE with a grid of 128x128 cells, that took half of each step. Changes
    nothing under other C libraries.
    """
    if sys.platform != "linux":
        return
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is None:
        return  # another C library, such as musl

    adjust(M_MMAP_MAX, 0)  # no mappings: everything comes from the heap
    adjust(M_TRIM_THRESHOLD, -1)  # which never shrinks
    adjust(M_TOP_PAD, HEAP_GROWTH)


def grow_segments() -> None:
    """Make torch's allocator for GPUs extend its segments, unless the environment has settings.

    A batch of another size then finds room where otherwise only unused pieces would be left. It is
    to be called before anything is allocated on a GPU. Only Linux has what it takes.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in GPU_SETTINGS):
        os.environ[GPU_SETTINGS[0]] = "expandable_segments:True"
