"""Settings of the C library's allocator of host memory."""

import ctypes
import sys

# from glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4

HEAP_GROWTH = 2**28  # bytes


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
