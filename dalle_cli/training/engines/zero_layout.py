"""Where ZeRO stores a process's part of every parameter: in flat fp32 partitions, by stage.

Knows DeepSpeed's insides, but does not import it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

# DeepSpeed's flat partitions, or tensors laid out like them, by number
Flats = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shard:
    """A process's part of a parameter: `length` values of the flattened parameter, from `start` on.

    They lie in the flat partition named `flat`, from `offset` on, and at the same place in tensors
    laid out like it.
    """

    flat: str
    offset: int
    start: int
    length: int

    def of(self, flats: Flats) -> Tensor:
        """Return the part's values, [length], as a view."""
        return flats[self.flat][self.offset : self.offset + self.length]

    def cut(self, whole: Tensor) -> Tensor:
        """Return the same part of a whole tensor."""
        return whole.flatten()[self.start : self.start + self.length]


def flat_partitions(zero: Any, stage: int) -> Flats:
    """Return the partitions that a ZeRO optimizer holds and updates."""
    flats = (
        zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    )
    return {str(number): flat for number, flat in enumerate(flats)}


def group_numbers(zero: Any, stage: int) -> list[int]:
    """Return, for each partition, the number of the parameter group that it is of."""
    if stage == 3:
        return [zero.sub_group_to_group_id[number] for number in range(len(zero.fp16_groups))]
    return list(range(len(zero.bit16_groups)))


def shard_of(parameter: Parameter, zero: Any, *, stage: int, rank: int) -> Shard:
    """Find a process's part of a parameter.

    At stage 3 every process has an even part, the last process a shorter one.
    """
    if stage == 3:
        n_values: int = parameter.ds_numel  # type: ignore[attr-defined]  # DeepSpeed sets it
        group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
        start = min(rank * length, n_values)
        length = min(length, n_values - start)
        return Shard(flat=str(group), offset=offset, start=start, length=length)

    fragment = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed sets it
    if fragment is None:
        group = next(
            number
            for number, parameters in enumerate(zero.bit16_groups)
            if any(p is parameter for p in parameters)
        )
        return Shard(flat=str(group), offset=0, start=0, length=0)
    in_partition, in_parameter = fragment.hp_fragment_address, fragment.lp_fragment_address
    return Shard(
        flat=str(fragment.param_group_index),
        offset=in_partition.start,
        start=in_parameter.start,
        length=in_partition.numel,
    )


def working_copy(parameter: Parameter, shard: Shard, stage: int) -> Tensor:
    """Return what forward uses of a process's part; at stage 3 the process has nothing else."""
    if stage == 3:
        part: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]  # DeepSpeed sets it
        return part[: shard.length]
    return shard.cut(parameter.data)
