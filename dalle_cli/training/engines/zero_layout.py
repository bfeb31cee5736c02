"""Where ZeRO keeps a process's part of every parameter: in flat fp32 partitions, by stage.

Knows DeepSpeed's insides, but does not import it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from dalle_cli.runtime.distributed import World

Flats = Mapping[
    str, Tensor
]  # DeepSpeed's flat partitions, or tensors laid out like them, by number


@dataclass(frozen=True)
class Shard:
    """A process's part of a parameter: `length` values, those from `start` on of the parameter laid out flat.

    They lie from `offset` on in the flat partition called `flat`, and likewise in what is laid out like it.
    """

    flat: str
    offset: int
    start: int
    length: int

    def of(self, flats: Flats) -> Tensor:
        """Give the part's values, [length], as a view."""
        return flats[self.flat][self.offset : self.offset + self.length]

    def cut(self, whole: Tensor) -> Tensor:
        """Give the same part of a whole tensor."""
        return whole.flatten()[self.start : self.start + self.length]


def flat_partitions(zero: Any, stage: int) -> Flats:
    """Give the partitions that a ZeRO optimizer holds and updates."""
    flats = (
        zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    )
    return {str(number): flat for number, flat in enumerate(flats)}


def shard_of(zero: Any, stage: int, parameter: Parameter, world: World) -> Shard:
    """Find this process's part of a parameter; at stage 3 each process has an even part, the last a shorter one."""
    if stage == 3:
        group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
        start = min(world.rank * length, parameter.ds_numel)
        return Shard(str(group), offset, start, min(length, parameter.ds_numel - start))
    fragment = parameter._hp_mapping
    if fragment is None:
        return Shard("0", 0, 0, 0)
    held, place = fragment.hp_fragment_address, fragment.lp_fragment_address
    return Shard(str(fragment.param_group_index), held.start, place.start, held.numel)


def working_copy(parameter: Parameter, shard: Shard, stage: int) -> Tensor:
    """Give what forward computes with of a process's part: at stage 3 it has no more than that."""
    return parameter.ds_tensor[: shard.length] if stage == 3 else shard.cut(parameter.data)
