"""The test of the tests on a fake GPU: what would fail or wait on a GPU is noticed there."""

from collections.abc import Callable, Iterator

import pytest
import torch
from fake_cuda import CUDA, FakeCuda, fake_cuda
from torch import Tensor, nn

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.devices import (
    HostCopies,
    choose_device,
    device_words,
    free_memory,
    to_device,
    total_memory,
)
from dalle_cli.runtime.peak_rates import device_key, measure_matmul_rate
from dalle_cli.runtime.processes.process_group import _gpu_of_rank
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.training.throughput import peak_bytes

CPU = torch.device("cpu")


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    with fake_cuda() as gpu:
        yield gpu


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: nn.functional.linear(here, there),
        lambda here, there: torch._foreach_lerp_([here], [there], 0.1),
        lambda here, there: torch.rand(3, 3, generator=torch.Generator(), device=CUDA),
    ],
)
def test_what_is_on_another_device_is_refused(mix: Callable, gpu: FakeCuda) -> None:
    here, there = torch.ones(3, 3, device=CUDA), torch.ones(3, 3)
    with pytest.raises(Exception, match=r"device|elsewhere"):
        mix(here, there)


def test_model_whose_buffer_is_left_behind_is_refused(gpu: FakeCuda) -> None:
    with gpu.building():
        model = nn.BatchNorm1d(3)
        model.to(CUDA)
        model.running_mean = torch.zeros(3)
    with pytest.raises(Exception, match="same device"):
        model(torch.ones(2, 3, device=CUDA))


def test_gradients_are_computed_on_the_gpu_and_in_the_dtype_of_autocast(gpu: FakeCuda) -> None:
    with gpu.building():
        model = nn.Linear(3, 4)
    model.to(CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        output = model(torch.ones(2, 3, device=CUDA))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert model.weight.grad is not None and model.weight.grad.device == CUDA
    assert gpu.waits == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: float(x[0]),
        lambda x: x[:1].tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1, 2], device=CUDA),
        lambda x: torch.ones(2).to(CUDA),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.ones(2**20).to(CUDA, non_blocking=True),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_every_wait_for_the_gpu_is_noted(wait: Callable[[Tensor], object], gpu: FakeCuda) -> None:
    wait(torch.ones(4, device=CUDA))
    assert len(gpu.waits) == 1


def test_copies_from_pinned_memory_and_to_the_host_make_nobody_wait(gpu: FakeCuda) -> None:
    moved = to_device(torch.ones(2**20)[1:], CUDA)
    copies = HostCopies([moved], CPU)
    assert moved.device == CUDA and copies.arrived()[0].device == CPU
    assert gpu.waits == []


def test_memory_of_a_gpu_is_what_torch_tells_of_it(gpu: FakeCuda) -> None:
    assert free_memory(CUDA) == total_memory(CUDA) == 80 * 2**30


def test_gpu_is_told_by_its_name(gpu: FakeCuda) -> None:
    assert device_words(CUDA) == "1 x a fake GPU, 80 GiB each"
    assert device_key(CUDA) == "a fake GPU"
    assert peak_bytes(CUDA) == 0


def test_rate_of_a_gpu_is_that_of_work_that_is_done(gpu: FakeCuda) -> None:
    assert measure_matmul_rate(CUDA, torch.float32, order=8) > 0
    assert set(gpu.waits) == {"synchronize"}


def test_only_slurm_gives_each_process_one_gpu(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    with pytest.raises(UsageError, match="process 1 of this machine has no GPU: there are 1"):
        _gpu_of_rank(Ranks(1, 2, 1))
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert _gpu_of_rank(Ranks(1, 2, 1)) == CUDA


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(DalleError, match="no such device on this machine: cuda"):
        choose_device("cuda")


def test_nothing_of_a_fake_gpu_is_left_behind() -> None:
    with fake_cuda():
        assert torch.cuda.is_available()
    assert torch.accelerator.current_accelerator() is None
    with pytest.raises(Exception, match="CUDA"):
        torch.ones(1, device=CUDA)
