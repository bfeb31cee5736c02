"""What a transformer takes that is sharded over groups of processes, for `dalle info`.

Ramesh et al. 2021, section 2.5: a group is a machine, and gradients are compressed between them.
"""

from typing import Any

from dalle_cli.config import TransformerRecipe
from dalle_cli.models.transformer import Transformer
from dalle_cli.training.engines.powersgd import n_values_sent
from dalle_cli.training.engines.shard_places import matrix_shards
from dalle_cli.training.planning.memory import FP32, group_state_bytes

GPUS = 8  # of a machine, where the recipe does not say it
MACHINES = (8, 32, 128)


def group_facts(recipe: TransformerRecipe, transformer: Transformer) -> dict[str, Any]:
    """Return, for several numbers of machines, the memory of a GPU and what it sends in an update.

    Inside a machine, parameters are gathered for forward and again for backward, and gradients
    reduced, once for each micro-batch. Between machines, a ring sums each GPU's share, which it
    sends not quite twice. Nothing where the recipe has no groups.
    """
    asked = recipe.runtime.shard_group
    if not asked:
        return {}
    size = GPUS if asked == "machine" else asked
    rank = recipe.powersgd.rank // size if recipe.powersgd else 0
    shards = matrix_shards(transformer.matrices(), size)
    n_parameters = sum(p.numel() for p in transformer.parameters())
    n_others = n_parameters - sum(p.numel() for p in transformer.matrices())
    n_sent = n_values_sent(shards, rank) if rank else sum(m * n for m, n in shards)

    found = {}
    for n_machines in MACHINES:
        share = -(-recipe.training.global_batch_size // (n_machines * size))
        n_micro_batches = -(-share // (recipe.runtime.micro_batch_size or share))
        ring = 2 * (n_machines - 1) / n_machines
        found[f"{n_machines} x {size}"] = {
            "state_gib": _gib(group_state_bytes(recipe, transformer, shards, size=size, rank=rank)),
            "sent_inside_gib": _gib(3 * n_micro_batches * FP32 * n_parameters * (size - 1) / size),
            "sent_between_gib": _gib(ring * FP32 * (n_sent + n_others / size)),
            "uncompressed_between_gib": _gib(ring * FP32 * n_parameters / size),
        }
    return {"groups": found}


def _gib(n_bytes: float) -> float:
    return float(f"{n_bytes / 2**30:.4g}")
