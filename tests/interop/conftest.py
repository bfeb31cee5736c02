"""Models, archives and a payload for the readers of other people's files."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class Tower(nn.Module):
    """Parameters, buffers and plain attributes, in float, half and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4).t())  # not contiguous
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("context_length", torch.tensor(77))
        self.norm = nn.BatchNorm1d(3)
        self.steps, self.sizes, self.rates, self.flags = 3, [1, 2], [0.5], [True]
        self.places = {"a": torch.zeros(2)}
        self.extras, self.device = [torch.zeros(2)], torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x @ self.weight)


class Pair(nn.Module):
    """Nested modules, a tied parameter, two buffers in one storage, an empty one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(
            Tower(), nn.ReLU(), nn.Linear(3, 4).half(), nn.Linear(4, 2).bfloat16()
        )
        self.tied = self.blocks[0].weight
        both = torch.arange(6, dtype=torch.float64)
        self.register_buffer("first", both[:2])
        self.register_buffer("second", both[2:].view(2, 2))
        self.register_buffer("nothing", torch.zeros(0, 3, dtype=torch.int16))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


class Payload:
    """An object whose pickle, once believed, leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.marker}'",)


def leave_nothing_alike(module: nn.Module) -> None:
    """Leave no gain at one and no bias at zero, where to mix them up would not be seen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim < 2) * 0.5)


def zip_anew(archive: bytes, compressed: str = "", **members: bytes | None) -> bytes:
    """Rewrite an archive with other content if given (its checksum right) or without a member."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            inner = name.partition("/")[2]
            if members.get(inner, b"") is not None:
                kind = zipfile.ZIP_DEFLATED if inner == compressed else zipfile.ZIP_STORED
                new.writestr(name, members.get(inner) or old.read(name), kind)
    return out.getvalue()


def save(value: object, archive: bool = True) -> bytes:
    """Write as torch does, or as it did before archives."""
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=archive)
    return out.getvalue()


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    return Payload(tmp_path / "marker")


@pytest.fixture(scope="session")
def pair() -> nn.Module:
    return Pair().eval()


@pytest.fixture(scope="session")
def state(pair: nn.Module) -> dict[str, Tensor]:
    return dict(pair.state_dict())


@pytest.fixture(scope="session")
def script(pair: nn.Module) -> bytes:
    """The bytes of a TorchScript archive of a pair."""
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(pair), out)
    return out.getvalue()


@pytest.fixture(scope="session")
def rezipped() -> Callable[..., bytes]:
    return zip_anew


@pytest.fixture(scope="session")
def saved() -> Callable[..., bytes]:
    return save


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], None]:
    return leave_nothing_alike
