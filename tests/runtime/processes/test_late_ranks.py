"""Waits for processes that are late: who they are, where the others wait, and that waits end."""

import os
import subprocess
import sys

import pytest
from processes import LIMIT
from torch.distributed import HashStore

from dalle_cli.runtime.processes.late_ranks import absent_ranks, name_ranks, publish_host
from dalle_cli.runtime.processes.launcher import free_port
from dalle_cli.runtime.processes.ranks import LOST_ANOTHER, Ranks

# each process says a machine of its own
BEGINNING = """
import socket, sys, time
import torch
rank = int(sys.argv[1])
socket.gethostname = lambda: f"machine-{rank}"
from dalle_cli.runtime.processes import late_ranks
late_ranks.LOOK_EVERY, late_ranks.LONG_WAIT, late_ranks.LIMIT = 1.0, 2.0, float(sys.argv[2])
from dalle_cli.runtime.processes.process_group import init_process_group
"""
# the words are how late it is before each of three points
MEETING = (
    BEGINNING
    + """
with init_process_group(torch.device("cpu")) as world:
    for number, late in enumerate(map(float, sys.argv[3:]), start=1):
        time.sleep(late)
        world.reach(f"step {number}")
        world.barrier()
"""
)
# one is nearly too late, as the word says, for a point at which none waits for the other
BUSY = (
    BEGINNING
    + """
late_ranks.LOOK_EVERY, late_ranks.LONG_WAIT = 0.5, 10.0
with init_process_group(torch.device("cpu")) as world:
    time.sleep(float(sys.argv[3]))
    world.reach("step 1")
    time.sleep(15 - float(sys.argv[3]))
"""
)
# the main process works on alone, as when it measures what all have generated
ALONE = (
    BEGINNING
    + """
with init_process_group(torch.device("cpu")) as world:
    world.barrier()
    time.sleep(float(sys.argv[3]))
"""
)


def run_late(script: str, limit: float, *lateness: list[float]) -> list[subprocess.Popen]:
    """Run a script in a process for each list of seconds, which are its words."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(limit), *map(str, late)],
            env=os.environ | place | {"RANK": str(rank), "WORLD_SIZE": str(len(lateness))},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, late in enumerate(lateness)
    ]


@pytest.mark.distributed
def test_process_that_is_late_is_named_by_one_of_those_that_wait() -> None:
    processes = run_late(MEETING, 600.0, [0, 0, 0], [0, 9, 0], [0, 0, 0])
    told = [process.communicate(timeout=LIMIT)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    line = "warning: process 1 (machine-1) of 3 has not come to step 2, where others have waited"
    assert [line in text for text in told] == [True, False, False]


@pytest.mark.distributed
def test_wait_past_the_limit_ends_those_that_wait() -> None:
    processes = run_late(MEETING, 5.0, [0], [600], [0])
    try:
        told = [processes[rank].communicate(timeout=LIMIT)[1] for rank in (0, 2)]
        assert [processes[rank].returncode for rank in (0, 2)] == [LOST_ANOTHER] * 2
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert "error: process 1 (machine-1) of 3 has not come to step 1, where others" in told[0]
    assert "hint: " in told[0] and "error: process 1" not in told[1]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("script", "limit", "seconds"),
    [(BUSY, 600.0, [0.0, 7.0]), (ALONE, 5.0, [9.0, 0.0])],
    ids=["they compute", "the others have finished"],
)
def test_nobody_is_late_where_nobody_waits(script: str, limit: float, seconds: list[float]) -> None:
    processes = run_late(script, limit, *([number] for number in seconds))
    told = [process.communicate(timeout=LIMIT)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert not any("has not come" in text for text in told), told


def test_processes_are_named_in_words() -> None:
    ranks, store = Ranks(0, 8), HashStore()
    publish_host(store, Ranks(3, 8))
    assert name_ranks([1], ranks) == "process 1 of 8"
    assert name_ranks([1, 2], ranks) == "processes 1 and 2 of 8"
    assert name_ranks([1, 2, 4, 5, 6], ranks) == "processes 1, 2, 4 and 2 more of 8"
    assert name_ranks([3], ranks, store).startswith("process 3 (")


def test_absent_are_those_that_have_not_come_to_the_meeting() -> None:
    store = HashStore()
    for rank in (0, 2):
        publish_host(store, Ranks(rank, 4))
    assert absent_ranks(store, Ranks(0, 4)) == [1, 3]
    assert absent_ranks(None, Ranks(1, 4)) == [0], "who has the store has not come"
    assert absent_ranks(None, Ranks(0, 4)) == []
