"""Which process this is, as launchers spell it in the environment."""

from collections.abc import Callable

import pytest
import torch

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.processes import process_group
from dalle_cli.runtime.processes.ranks import (
    LOST_ANOTHER,
    Ranks,
    check_not_left_alone,
    main_address,
    ranks_of_environment,
)

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "5"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks(0, 1, 0)),
        (TORCHRUN, Ranks(3, 8, 1)),
        (SRUN, Ranks(5, 16, 5)),
        ({**SRUN, **TORCHRUN}, Ranks(3, 8, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Ranks(0, 1, 0)),
        # a batch script of SLURM's, before srun: one process, whatever was allocated
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, Ranks(0, 1, 0)),
    ],
)
def test_ranks_are_what_the_launcher_says(environment: dict[str, str], expected: Ranks) -> None:
    assert ranks_of_environment(environment) == expected


@pytest.mark.parametrize(
    "changes", [{"RANK": "8"}, {"RANK": "-1"}, {"RANK": "one"}, {"WORLD_SIZE": "0"}]
)
def test_ranks_that_make_no_sense_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="RANK"):
        ranks_of_environment({**TORCHRUN, **changes})


def test_command_with_ranks_that_make_no_sense_ends_in_one_message(
    monkeypatch: pytest.MonkeyPatch, dalle: Callable
) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = dalle("recipes", "list")
    assert (
        ended.code == 2
        and ended.err.startswith("error: RANK is 5 and WORLD_SIZE 2")
        and ended.out == ""
    )


def test_one_process_speaks() -> None:
    assert [ranks_of_environment({**TORCHRUN, "RANK": str(rank)}).is_main for rank in range(3)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07,09-11]", "gpu07"),
        ("gpu[001-128]", "gpu001"),
        ("rack2-n[3-4]-ib,login", "rack2-n3-ib"),
        ("n3,gpu[1-2]", "n3"),
        ("rack[1-2]n[03-04],x", "rack1n03"),
        ("10.0.0.[5-6]", "10.0.0.5"),
    ],
)
def test_processes_of_several_machines_meet_at_the_first_of_the_step(
    hosts: str, first: str
) -> None:
    """Not where `srun` was typed, which may be a login node."""
    step = {"SLURM_STEP_NODELIST": hosts, "SLURM_STEP_NUM_NODES": "2"}
    asked = {"SLURM_LAUNCH_NODE_IPADDR": "10.9.9.9", **step}
    assert main_address({**SRUN, **asked}) == first
    assert main_address({**SRUN, **asked, "MASTER_ADDR": "mine"}) == "mine"
    assert main_address({**SRUN, **asked, "SLURM_STEP_NUM_NODES": "1"}) == "127.0.0.1"


def test_processes_of_no_scheduler_meet_on_this_machine() -> None:
    assert main_address({}) == main_address(TORCHRUN) == "127.0.0.1"
    step = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": ""}
    assert main_address({**SRUN, **step}) == "127.0.0.1"


BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}


def test_process_of_a_batch_script_without_srun_is_refused() -> None:
    with pytest.raises(UsageError, match="asked for 16 processes, and this is one alone") as told:
        check_not_left_alone(BATCH_SCRIPT)
    assert "srun" in told.value.hint


@pytest.mark.parametrize(
    "environment",
    [
        {},
        TORCHRUN,
        {**SRUN, "SLURM_NTASKS": "16"},
        {**BATCH_SCRIPT, **TORCHRUN},
        {**BATCH_SCRIPT, "SLURM_NTASKS": "1"},
    ],
)
def test_process_among_as_many_as_asked_for_is_not(environment: dict[str, str]) -> None:
    check_not_left_alone(environment)


@pytest.mark.parametrize(
    ("message", "ended"),
    [
        ("[gloo] Connection closed by peer", DalleError),
        ("NCCL communicator was aborted", DalleError),
        ("shapes do not match", RuntimeError),
    ],
)
def test_process_that_lost_another_is_told_from_one_that_failed(
    message: str, ended: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        process_group, "_connect", lambda ranks, device: (torch.distributed.HashStore(), None)
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)

    with (
        pytest.raises(ended) as caught,
        process_group.init_process_group(torch.device("cpu")),
    ):
        raise RuntimeError(message)
    if isinstance(caught.value, DalleError):
        assert caught.value.exit_code == LOST_ANOTHER
