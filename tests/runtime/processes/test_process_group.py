"""How a process joins the others, and which errors it takes for the loss of one of them."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from dalle_cli.errors import DalleError
from dalle_cli.runtime.processes.process_group import TIMEOUT, init_process_group


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """The second of two processes, on a machine with two GPUs; what torch makes groups with."""
    calls: list[tuple[Any, ...]] = []
    begin = torch.distributed.init_process_group

    def join(backend: str, **options: Any) -> None:
        calls.append((backend, options["device_id"]))
        begin("fake", rank=options["rank"], world_size=options["world_size"], store=FakeStore())

    def make_group(*, backend: str, timeout: timedelta) -> Any:
        calls.append((backend, timeout))
        return torch.distributed.group.WORLD

    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    first = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(first.port))
    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    monkeypatch.setattr(torch.distributed, "new_group", make_group)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    yield calls
    assert not torch.distributed.is_initialized()


def test_processes_on_gpus_are_joined_with_the_gpu_of_each(joined: list[tuple[Any, ...]]) -> None:
    for name in ("cuda", "cpu"):
        with init_process_group(torch.device(name)) as world:
            assert (world.rank, world.size, world.device.type) == (1, 2, name)
            assert (world.host_group is None) == (name == "cpu")
    assert joined == [("nccl", torch.device("cuda", 1)), ("gloo", TIMEOUT), ("gloo", None)]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("[gloo/transport/tcp/pair.cc:525] Connection closed by peer", "has lost another"),
        ("NCCL communicator was aborted on rank 1", "has lost another"),
        ("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'", None),
        ("shapes do not match", None),
    ],
)
def test_other_errors_are_not_taken_for_a_lost_process(
    message: str, told: str | None, joined: list[tuple[Any, ...]]
) -> None:
    kind = RuntimeError if told is None else DalleError
    with pytest.raises(kind, match=told or message[:10]), init_process_group(torch.device("cpu")):
        raise RuntimeError(message)
