"""Reading OpenAI's released discrete VAE, in two files, and FLAVA's copy of its encoder.

The architecture is that of `models.dvae` with 4 groups for pictures of 256 px; widths and counts
follow from the shapes of the weights, which are renamed to the names there. Every name and shape in
a file is accounted for.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from dalle_cli.config import DVAEEncoderTable, DVAEModelTable
from dalle_cli.errors import DalleError, printable
from dalle_cli.interop.torch_files import read_tensors
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder
from dalle_cli.models.weightless import meta_device

IMAGE_SIZE, N_GROUPS = 256, 4  # the same in every release; no shape shows them
FIRST_BLOCKS = re.compile(
    r"blocks\.group_1\.(group\.)?block_\d+\.res_path\.(path\.)?conv_1\.(w|weight)$"
)
INPUT_KERNELS = {"encoder": (7, 7), "decoder": (1, 1)}
MAX_NAMED = 5


@dataclass(frozen=True)
class PublicDVAE:
    """Sizes and renamed fp32 weights of an encoder and decoder, or of an encoder alone."""

    table: DVAEEncoderTable | DVAEModelTable
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class _Half:
    """One file: which half it should be, its tensors, and a function from names here to its."""

    file: Path
    side: str
    tensors: Mapping[str, Tensor]
    foreign_name: Callable[[str], str]

    def matrix(self, name: str) -> Tensor:
        """Return the weights of a convolution, by its name here.

        Raises DalleError if there are none.
        """
        foreign = self.foreign_name(name)
        if foreign not in self.tensors or self.tensors[foreign].ndim != 4:
            raise _unfit(self, f"it has no convolution `{foreign}`")
        return self.tensors[foreign]


def read_openai_dvae(encoder: Path, decoder: Path | None) -> PublicDVAE:
    """Read both halves, or the encoder alone, from pickled modules, state dicts or safetensors.

    Nothing in them is run. Raises DalleError, naming the first misfits, for anything else.
    """
    halves = [_read_half(encoder, "encoder")]
    if decoder:
        halves.append(_read_half(decoder, "decoder"))

    try:
        table = _table_of(*halves)
        with meta_device():
            model = (DiscreteVAE if decoder else DVAEEncoder)(**table.model_dump())
    except (ValidationError, RuntimeError, TypeError, ValueError) as error:  # from impossible sizes
        raise DalleError(
            f"{printable(str(encoder))} does not hold OpenAI's encoder: its weights have odd shapes"
        ) from error

    weights: dict[str, Tensor] = {}
    for half in halves:
        shapes = {
            name: list(tensor.shape)
            for name, tensor in model.state_dict().items()
            if name.startswith(half.side)
        }
        weights |= _fitted(half, shapes)
    return PublicDVAE(table, weights)


def _read_half(file: Path, side: str) -> _Half:
    tensors = read_tensors(file)
    foreign_name = _flava_name if "blocks.input.weight" in tensors else _openai_name
    half = _Half(file, side=side, tensors=tensors, foreign_name=foreign_name)

    kernel = tuple(half.matrix("encoder.trunk.input.weight").shape[2:])
    if kernel != INPUT_KERNELS[side]:
        shown = "x".join(map(str, kernel))
        hint = "the encoder's file comes first, the decoder's second"
        raise _unfit(half, f"its first convolution has a kernel of {shown}", hint)
    return half


def _openai_name(name: str) -> str:
    """Return the name of a weight in OpenAI's released files."""
    module, _, kind = name.partition(".")[2].removeprefix("trunk.").rpartition(".")
    return f"blocks.{'output.conv' if module == 'output' else module}.{kind[0]}"


def _flava_name(name: str) -> str:
    """Return the name of a weight in FLAVA's image codebook."""
    grouped = re.sub(r"(group_\d)\.", r"\1.group.", _openai_name(name))
    released = grouped.replace("res_path.", "res_path.path.")
    return released[:-1] + name.rpartition(".")[2]


def _table_of(encoder: _Half, decoder: _Half | None = None) -> DVAEEncoderTable | DVAEModelTable:
    sizes = {
        "image_size": IMAGE_SIZE,
        "vocab_size": len(encoder.matrix("encoder.output.weight")),
        "n_hidden": len(encoder.matrix("encoder.trunk.input.weight")),
        "n_groups": N_GROUPS,
        "blocks_per_group": sum(FIRST_BLOCKS.match(name) is not None for name in encoder.tensors),
    }
    if decoder is None:
        return DVAEEncoderTable(**sizes)
    return DVAEModelTable(**sizes, n_init=len(decoder.matrix("decoder.input.weight")))


def _fitted(half: _Half, shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Return the weights of a half under their names here.

    Raises DalleError unless it has exactly these shapes, and floating-point types.
    """
    names = {half.foreign_name(name): name for name in shapes}
    expected = {foreign: shapes[name] for foreign, name in names.items()}
    found = {name: list(tensor.shape) for name, tensor in half.tensors.items()}

    misfits = [f"`{name}` is missing" for name in expected.keys() - found.keys()]
    misfits += [f"`{name}` is not expected" for name in found.keys() - expected.keys()]
    misfits += [
        f"`{name}` is {found[name]} instead of {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    misfits += [
        f"`{name}` is of type {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in half.tensors.items()
        if not tensor.is_floating_point()
    ]

    if misfits:
        shown = printable(", ".join(sorted(misfits)[:MAX_NAMED]))
        n_more = len(misfits) - MAX_NAMED
        raise _unfit(half, f"{shown} and {n_more} more" if n_more > 0 else shown)
    return {names[name]: _in_fp32(tensor) for name, tensor in half.tensors.items()}


def _in_fp32(tensor: Tensor) -> Tensor:
    """Copy a tensor to fp32: those of a file may share memory, which safetensors does not store."""
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _unfit(half: _Half, reason: str, hint: str = "") -> DalleError:
    return DalleError(
        f"{printable(str(half.file))} does not hold OpenAI's {half.side}: {reason}", hint
    )
