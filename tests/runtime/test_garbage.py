"""No garbage is searched for where modules are imported, nor when the interpreter ends."""

import gc
import subprocess
import sys

import pytest

from dalle_cli.runtime.garbage import imports_uncollected

PROGRAM = """
import gc
from dalle_cli.runtime.garbage import imports_uncollected

class Node:
    pass

node = Node()
with imports_uncollected():
    import wave
    print(gc.isenabled())
print(gc.isenabled(), any(entry is node for entry in gc.get_objects()))
"""
AT_EXIT = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))
import dalle_cli.__main__
print(gc.get_freeze_count() > 0)
"""


def printed(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_objects_of_imports_are_left_out_of_later_searches() -> None:
    assert printed(PROGRAM) == ["False", "True", "False"]


def test_collector_returns_after_a_failed_import() -> None:
    n_frozen = gc.get_freeze_count()
    with pytest.raises(ModuleNotFoundError), imports_uncollected():
        import no_such_module  # noqa: F401
    assert gc.isenabled() and gc.get_freeze_count() == n_frozen


def test_nothing_is_searched_when_the_command_ends() -> None:
    assert printed(AT_EXIT) == ["False", "True"]
