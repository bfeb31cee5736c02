"""Tensors by name that come into being when they are asked for: one at a time, a model's state has room anywhere."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


class Gathered(Mapping[str, Tensor]):
    """Tensors by name that are put together from all processes' parts when they are asked for, by all of them."""

    def __init__(self, shapes: Mapping[str, torch.Size], gather: Callable[[str], Tensor]) -> None:
        self.shapes = shapes
        self._gather = gather

    def __getitem__(self, name: str) -> Tensor:
        return self._gather(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes


class Stored(Mapping[str, Tensor]):
    """Tensors by name, each read from safetensors files when it is asked for."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Raises SafetensorError for a file that is none."""
        opened = [safe_open(file, "pt") for file in files]
        self._files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118  it is no mapping

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Tell the shapes, without reading the tensors."""
        return {
            name: torch.Size(file.get_slice(name).get_shape()) for name, file in self._files.items()
        }


def copy_tensors(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor], group: str) -> None:
    """Copy tensors by name, in place; raises ValueError like `check_shapes`."""
    check_shapes({name: target.shape for name, target in targets.items()}, sources, group)
    for name, target in targets.items():
        target.copy_(sources[name])


def check_shapes(
    expected: Mapping[str, torch.Size], sources: Mapping[str, Tensor], group: str
) -> None:
    """Raise ValueError listing up to ten tensors that are missing, extra or misshapen."""
    found = (
        sources.shapes
        if isinstance(sources, Stored | Gathered)
        else {name: tensor.shape for name, tensor in sources.items()}
    )
    misfits = [name for name in expected if found.get(name) != expected[name]]
    misfits += [name for name in sources if name not in expected]
    if misfits:
        raise ValueError(f"{len(misfits)} tensors of {group} do not fit: {', '.join(misfits[:10])}")
