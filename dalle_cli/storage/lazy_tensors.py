"""Mappings of named tensors that are read or gathered on access.

Only one tensor at a time is in memory, so that the state of a model of any size can be streamed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from dalle_cli.storage.small_files import check_readable


class Gathered(Mapping[str, Tensor]):
    """Named tensors that are sharded over the ranks; access is collective and gathers a tensor."""

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        gather: Callable[[str], Tensor],
        dtypes: Mapping[str, torch.dtype],
    ) -> None:
        """gather: returns a tensor by name, of the shape and type stated here."""
        self.shapes = shapes
        self._gather = gather
        self._dtypes = dtypes

    def __getitem__(self, name: str) -> Tensor:
        return self._gather(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes in bytes by name, without gathering the tensors."""
        return {
            name: shape.numel() * self._dtypes[name].itemsize for name, shape in self.shapes.items()
        }


class Stored(Mapping[str, Tensor]):
    """Named tensors in safetensors files, read on access."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the files.

        Raises OSError if one can't be read, and SafetensorError if it is not a safetensors file.
        """
        for file in files:
            check_readable(file)
        opened = [safe_open(file, "pt") for file in files]
        self._files = {
            name: file
            for file in opened
            for name in file.keys()  # noqa: SIM118  not a mapping
        }

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
        """Shapes by name, without reading the tensors."""
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
    mismatches = [name for name in expected if found.get(name) != expected[name]]
    mismatches += [name for name in sources if name not in expected]
    if mismatches:
        first = ", ".join(mismatches[:10])
        raise ValueError(f"{len(mismatches)} tensors of {group} do not fit: {first}")
