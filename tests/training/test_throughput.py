"""What a report says of the machine: rates by hand, and what is left out where it is not known."""

from pathlib import Path

import pytest
import torch

from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.peak_rates import PeakRates, store_peak_rates
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.training.throughput import NOT_COUNTED, SampleCost, Throughput, throughput_of

CPU = torch.device("cpu")


def test_rates_are_those_of_the_work_of_an_update() -> None:
    pace = Throughput(images=8, device=CPU, tokens=8 * 1280, flops=int(3e12), matmul_rate=4e12)
    figures = pace.figures(updates_per_second=0.5)
    del figures["train/peak_memory_gib"]
    assert figures == pytest.approx({
        "train/images_per_second": 4.0,
        "train/tokens_per_second": 5120.0,
        "train/tflops_per_second": 1.5,
        "train/mfu": 0.375,
    })  # fmt: skip


def test_what_is_not_reckoned_or_measured_is_left_out() -> None:
    assert set(Throughput(8, CPU).figures(1.0)) == {
        "train/images_per_second",
        "train/peak_memory_gib",
    }
    assert "train/mfu" not in Throughput(8, CPU, tokens=5, flops=7).figures(1.0)


def test_work_of_an_update_is_that_of_its_samples_on_the_devices_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    two, cost = World(Ranks(0, 2, 0), CPU), SampleCost(tokens=5, flops=7)
    assert throughput_of(cost, 8, precision="fp32", world=two) == Throughput(8, CPU, 40, 56)
    store_peak_rates(CPU, PeakRates(matmul_rates={"fp32": 3.0}, bandwidth=1.0, write_rate=1.0))
    assert throughput_of(cost, 8, precision="fp32", world=two).matmul_rate == 6.0
    assert throughput_of(NOT_COUNTED, 8, precision="fp32", world=two).flops == 0


@pytest.mark.thorough
def test_peak_of_memory_knows_what_was_held_and_is_held_no_more() -> None:
    before = Throughput(1, CPU).figures(1.0)["train/peak_memory_gib"]
    held = torch.ones(int(before * 2**30) // 4 + 2**24)
    del held
    assert Throughput(1, CPU).figures(1.0)["train/peak_memory_gib"] >= before + 2**26 / 2**30 / 2
