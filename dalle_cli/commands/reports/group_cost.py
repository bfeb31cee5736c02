"""What training a transformer keeps on each GPU and sends, whole or in groups, for `dalle info`.

Ramesh et al. 2021, section 2.5: a group is a machine, whose GPUs share the model, and gradients are
compressed between machines.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dalle_cli.commands.reports.transformer_cost import in_gib, significant, state_facts
from dalle_cli.config import TransformerRecipe
from dalle_cli.console import size_text
from dalle_cli.models.transformer import Transformer
from dalle_cli.training.engines.powersgd import bytes_sent
from dalle_cli.training.engines.shard_places import matrix_shards
from dalle_cli.training.planning.cost import count_in_16_bits
from dalle_cli.training.planning.memory import FP32, group_state_bytes, largest_layer

GPUS = 8  # of a machine, where the recipe does not say it
MACHINES = (8, 32, 128)
INSIDE = (25, 150, 450)  # GB/s that a GPU sends at best: PCIe 4, NVLink of V100 and of H100
BETWEEN = (10, 25, 100, 400)  # Gbit/s that a machine sends: Ethernet and InfiniBand
GIB = 2**30


def transformer_training_facts(
    recipe: TransformerRecipe, transformer: Transformer
) -> dict[str, Any]:
    """Return the format of moments, the sizes of checkpoint and state, and the cost of groups."""
    n_parameters = sum(parameter.numel() for parameter in transformer.parameters())
    state = state_facts(
        n_parameters, largest_layer(transformer), n_in_16_bits=count_in_16_bits(recipe)
    )
    return {"moments": recipe.optimizer.moments, **state, **group_facts(recipe, transformer)}


def group_rows(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield rows on the memory and the messages of a GPU that shares the model with others."""
    if not groups:
        return
    state = size_text(next(iter(groups.values()))["state_gib"] * GIB)
    yield "sharded in groups", f"{state} on each GPU, without activations"
    yield "messages", "of each GPU in an update, inside its machine and between machines:"
    for machines_and_gpus, facts in groups.items():
        inside, between, plain = (
            size_text(facts[key] * GIB)
            for key in ("sent_inside_gib", "sent_between_gib", "uncompressed_between_gib")
        )
        compressed = "" if between == plain else f" ({plain} uncompressed)"
        yield "", f"{machines_and_gpus} GPUs: {inside}; {between}{compressed}"

    yield "their time", f"inside machines, at {_either(INSIDE)} GB/s from each GPU:"
    yield from _time_rows(groups, "seconds_inside")
    yield "", f"between machines, at {_either(BETWEEN)} Gbit/s from each machine:"
    yield from _time_rows(groups, "seconds_between")


def _either(rates: Sequence[int]) -> str:
    return f"{', '.join(map(str, rates[:-1]))} or {rates[-1]}"


def _time_rows(groups: Mapping[str, Mapping[str, Any]], key: str) -> Iterator[tuple[str, str]]:
    for machines_and_gpus, facts in groups.items():
        times = (float(f"{seconds:.3g}") for seconds in facts[key].values())
        yield "", f"{machines_and_gpus} GPUs: {', '.join(f'{time:,g} s' for time in times)}"


def group_facts(recipe: TransformerRecipe, transformer: Transformer) -> dict[str, Any]:
    """Return, for several numbers of machines, the memory of a GPU and what it sends in an update.

    Inside a machine, parameters are gathered for forward and again for backward, and gradients
    reduced, once for each micro-batch. Between machines, a ring sums each GPU's share, which it
    sends not quite twice. The seconds are those of the messages alone, at full bandwidth. Nothing
    where the recipe has no groups.
    """
    asked = recipe.runtime.shard_group
    if not asked:
        return {}
    size = GPUS if asked == "machine" else asked
    rank = recipe.powersgd.rank // size if recipe.powersgd else 0
    shards = matrix_shards(transformer.matrices(), size)
    n_parameters = sum(p.numel() for p in transformer.parameters())
    n_others = n_parameters - sum(p.numel() for p in transformer.matrices())
    in_16_bits = recipe.powersgd is not None and recipe.powersgd.buffers == "paper"
    of_matrices = FP32 * sum(m * n for m, n in shards)
    if rank:
        of_matrices = bytes_sent(shards, rank, in_16_bits=in_16_bits)
    state = group_state_bytes(recipe, transformer, shards, size=size, rank=rank)

    found = {}
    for n_machines in MACHINES:
        gathered = 3 * _n_micro_batches(recipe, n_machines * size)
        ring = 2 * (n_machines - 1) / n_machines
        inside = gathered * FP32 * n_parameters * (size - 1) / size
        between = ring * (of_matrices + FP32 * n_others / size)
        found[f"{n_machines} x {size}"] = {
            "state_gib": in_gib(state),
            "sent_inside_gib": in_gib(inside),
            "sent_between_gib": in_gib(between),
            "uncompressed_between_gib": in_gib(ring * FP32 * n_parameters / size),
            "seconds_inside": {f"{r} GB/s": significant(inside / (r * 1e9)) for r in INSIDE},
            "seconds_between": {
                f"{r} Gbit/s": significant(8 * size * between / (r * 1e9)) for r in BETWEEN
            },
        }
    return {"groups": found}


def _n_micro_batches(recipe: TransformerRecipe, n_processes: int) -> int:
    """Return the number of micro-batches of the process with most samples."""
    share = -(-recipe.training.global_batch_size // n_processes)
    return -(-share // (recipe.runtime.micro_batch_size or share))
