"""Python's collector of garbage, kept from searching where there is nothing to be found.

torch's modules make half a million objects that stay, and each search goes through all of them.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports_uncollected() -> Iterator[None]:
    """Search for no garbage during a `with` that imports modules, nor later among their objects."""
    n_modules = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > n_modules:
            gc.freeze()
        gc.enable()


def leave_uncollected_at_exit() -> None:
    """Have no garbage searched for when the interpreter ends, and the system frees all memory."""
    atexit.register(gc.freeze)
