"""OpenAI's released discrete VAE, an encoder's file and a decoder's, under our names; FLAVA's copy of the encoder, too.

The architecture is that of `models.dvae` with 4 groups for pictures of 256 px; widths and counts follow from the
weights' shapes. Every name and shape of a file is accounted for.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from dalle_cli.config import DVAEEncoderTable, DVAEModelTable
from dalle_cli.errors import DalleError
from dalle_cli.interop.torch_files import read_tensors
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder
from dalle_cli.untrusted import printable

IMAGE_SIZE, N_GROUPS = 256, 4  # the same in all that was released, and in no weight's shape
FIRST_BLOCKS = re.compile(
    r"blocks\.group_1\.(group\.)?block_\d+\.res_path\.(path\.)?conv_1\.(w|weight)$"
)
INPUT_KERNELS = {"encoder": (7, 7), "decoder": (1, 1)}
MAX_NAMED = 5


@dataclass(frozen=True)
class PublicDVAE:
    """Sizes and weights, in fp32 and under our names, of an encoder and decoder or of an encoder alone."""

    table: DVAEEncoderTable | DVAEModelTable
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class _Half:
    """One file: which half it is given as, its tensors, and how it calls what we call by another name."""

    file: Path
    side: str
    tensors: Mapping[str, Tensor]
    foreign_name: Callable[[str], str]

    def matrix(self, name: str) -> Tensor:
        """Give the weights of a convolution by our name; raises DalleError where there are none."""
        foreign = self.foreign_name(name)
        if foreign not in self.tensors or self.tensors[foreign].ndim != 4:
            raise _unfit(self, f"it has no convolution `{foreign}`")
        return self.tensors[foreign]


def read_openai_dvae(encoder: Path, decoder: Path | None) -> PublicDVAE:
    """Read both halves, or the encoder alone, from pickled modules, state dicts or safetensors; nothing in them is run.

    Raises DalleError, naming the first misfits, for anything else.
    """
    halves = [_read_half(encoder, "encoder")] + (
        [_read_half(decoder, "decoder")] if decoder else []
    )
    try:
        table = _table_of(*halves)
        with torch.device("meta"):
            model = (DiscreteVAE if decoder else DVAEEncoder)(**table.model_dump())
    except (
        ValidationError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # of sizes that no model has
        raise DalleError(
            f"{printable(str(encoder))} does not hold OpenAI's encoder: its weights have odd shapes"
        ) from error
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    weights: dict[str, Tensor] = {}
    for half in halves:
        weights |= _fitted(
            half, {name: shape for name, shape in shapes.items() if name.startswith(half.side)}
        )
    return PublicDVAE(table, weights)


def _read_half(file: Path, side: str) -> _Half:
    tensors = read_tensors(file)
    half = _Half(
        file, side, tensors, _flava_name if "blocks.input.weight" in tensors else _openai_name
    )
    kernel = tuple(half.matrix("encoder.trunk.input.weight").shape[2:])
    if kernel != INPUT_KERNELS[side]:
        hint = "the encoder's file comes first, the decoder's second"
        raise _unfit(
            half, f"its first convolution has a kernel of {'x'.join(map(str, kernel))}", hint
        )
    return half


def _openai_name(name: str) -> str:
    """Say how the released file of a half calls a weight of ours."""
    module, _, kind = name.partition(".")[2].removeprefix("trunk.").rpartition(".")
    return f"blocks.{'output.conv' if module == 'output' else module}.{kind[0]}"


def _flava_name(name: str) -> str:
    """Say how FLAVA's image codebook calls it."""
    released = re.sub(r"(group_\d)\.", r"\1.group.", _openai_name(name)).replace(
        "res_path.", "res_path.path."
    )
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
    """Take a half's weights by our names; raises DalleError unless it has exactly these, of floating-point types."""
    own_names = {half.foreign_name(name): name for name in shapes}
    expected = {foreign: shapes[name] for foreign, name in own_names.items()}
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
        raise _unfit(
            half, shown + f" and {len(misfits) - MAX_NAMED} more" * (len(misfits) > MAX_NAMED)
        )
    return {own_names[name]: _in_fp32(tensor) for name, tensor in half.tensors.items()}


def _in_fp32(tensor: Tensor) -> Tensor:
    """Copy a tensor: those of a file may share memory, which safetensors does not store."""
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _unfit(half: _Half, reason: str, hint: str = "") -> DalleError:
    return DalleError(
        f"{printable(str(half.file))} does not hold OpenAI's {half.side}: {reason}", hint
    )
