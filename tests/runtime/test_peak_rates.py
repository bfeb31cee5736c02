"""What is kept of a measurement, and what a damaged file is worth."""

from pathlib import Path

import pytest
import torch

from dalle_cli.runtime.peak_rates import (
    PeakRates,
    device_key,
    measure_bandwidth,
    measure_matmul_rate,
    measure_write_rate,
    peak_rates_file,
    store_peak_rates,
    stored_matmul_rate,
    stored_write_rate,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_kept_rate_is_found_by_precision() -> None:
    assert stored_matmul_rate(CPU, "fp32") is None
    store_peak_rates(CPU, PeakRates({"fp32": 2e11, "bf16": 9e11}, 3e10, 5e8))
    assert [stored_matmul_rate(CPU, precision) for precision in ("fp32", "bf16", "fp16")] == [
        2e11,
        9e11,
        None,
    ]
    assert stored_write_rate(CPU) == 5e8


def test_other_number_of_threads_is_another_device() -> None:
    store_peak_rates(CPU, PeakRates({"fp32": 2e11}, 3e10, 5e8))
    before, n_threads = device_key(CPU), torch.get_num_threads()
    torch.set_num_threads(n_threads + 1)
    try:
        assert device_key(CPU) != before and stored_matmul_rate(CPU, "fp32") is None
        store_peak_rates(CPU, PeakRates({"fp32": 4e11}, 3e10, 5e8))
    finally:
        torch.set_num_threads(n_threads)
    assert stored_matmul_rate(CPU, "fp32") == 2e11


@pytest.mark.parametrize(
    "content", ["", "[1]", "null", "{", '{"KEY": 3}', '{"KEY": {"matmul_rates": {"fp32": []}}}']
)
def test_damaged_file_holds_nothing_and_is_replaced(content: str) -> None:
    peak_rates_file().parent.mkdir()
    peak_rates_file().write_text(content.replace("KEY", device_key(CPU)))
    assert stored_matmul_rate(CPU, "fp32") is None
    store_peak_rates(CPU, PeakRates({"fp32": 2e11}, 3e10, 5e8))
    assert stored_matmul_rate(CPU, "fp32") == 2e11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_are_of_this_world(dtype: torch.dtype) -> None:
    """Between a megahertz machine and a thousand of today's GPUs."""
    assert 1e6 < measure_matmul_rate(CPU, dtype, order=64) < 1e18
    assert 1e6 < measure_bandwidth(CPU, n_bytes=2**16) < 1e16


def test_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    assert 1e3 < measure_write_rate(tmp_path, n_bytes=2**16) < 1e12
    assert list(tmp_path.iterdir()) == []
