"""The device of the tests that need a GPU, and the figures that they measure.

`make test-gpu` runs them, and makes a table and a file of these figures. With GPU_TESTS_DEVICE=cpu
the CPU stands in, with tiny models: that finds mistakes of the tests, and none of a GPU.
"""

import os
from collections.abc import Callable, Iterator

# cuBLAS asks for it, before its first product, if the same run is to give the same bits
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from trained_models import DEVICE

from dalle_cli.runtime.devices import open_device, why_no_gpu

Measured = Callable[..., None]


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    reason = why_no_gpu() if DEVICE == "cuda" else None
    if reason is not None:
        pytest.skip(reason)
    return open_device(DEVICE, "fp32")[0]


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Record a figure of a test and check it against its bounds."""

    def measured(
        what: str, found: float, *, least: float | None = None, most: float | None = None
    ) -> None:
        figure = {"what": what, "found": float(found), "least": least, "most": most}
        request.node.user_properties.append(("measured", figure))
        assert least is None or found >= least, f"{what}: {found:.4g}, at least {least} expected"
        assert most is None or found <= most, f"{what}: {found:.4g}, at most {most} expected"

    return measured


@pytest.fixture
def reproducible() -> Iterator[None]:
    """Let the same run give the same bits, where there are kernels that do."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
