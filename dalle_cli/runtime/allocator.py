"""How the C library hands out the processor's memory."""

import ctypes
import sys

# from glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4

AT_ONCE = 2**28  # bytes by which the heap grows


def keep_freed_memory() -> None:
    """Let freed memory serve the next tensor, instead of going back to the system.

    glibc maps each tensor above 32 MiB anew, and the system then zeroes it page by page: of a step of a discrete VAE
    with a grid of 128x128 cells, that was half. Elsewhere than under glibc nothing is changed.
    """
    if sys.platform != "linux":
        return
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is None:
        return  # another C library, musl for one
    adjust(M_MMAP_MAX, 0)  # no mappings: everything from the heap
    adjust(M_TRIM_THRESHOLD, -1)  # which never shrinks
    adjust(M_TOP_PAD, AT_ONCE)
