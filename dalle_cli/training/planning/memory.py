"""Estimates of the memory that training takes on a GPU, and of a checkpoint, from sizes alone.

Nothing is allocated for them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dalle_cli.config import TrainedTransformerTable, TransformerRecipe
from dalle_cli.loading import build_transformer
from dalle_cli.models.transformer import TransformerBackbone
from dalle_cli.models.weightless import UninitialisedWeights
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.optimization.adamw import CHUNK_VALUES

FP32 = 4  # bytes
CHECKPOINT_COPIES = 4  # of every parameter: itself, two moments, the average
CODE = 2  # bytes of a number in 16 bits
SAVED = 4  # bytes, for each parameter whose two moments are in 16 bits
DECODED = 5  # times a chunk: those moments in fp32 for an update, and what encoding them takes
# times the largest layer, at ZeRO 3's peak: in use, kept, prefetched, gradients and their sums
GATHERED = 8
# times a layer, at FSDP2's peak: in use, the message of the next, gradients, their message
GATHERED_LAYERS = 4


def checkpoint_bytes(n_parameters: int, n_in_16_bits: int = 0) -> int:
    """Return the size of a checkpoint.

    n_in_16_bits  the parameters whose moments are in 16 bits
    """
    return CHECKPOINT_COPIES * FP32 * n_parameters - SAVED * n_in_16_bits


def largest_layer(model: nn.Module) -> int:
    """Return the parameter count of the largest module, children excluded.

    ZeRO gathers or sums as many values at once.
    """
    return max(
        sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()
    )


def state_bytes(
    zero_stage: int,
    n_parameters: int,
    largest: int,
    n_processes: int,
    *,
    has_average: bool = True,
    n_in_16_bits: int = 0,
) -> int:
    """Return the peak of bytes that a process needs for the model, its gradients and the update.

    zero_stage    0: whole replicas
    largest       see `largest_layer`
    has_average   whether an average of the weights is on the same device; a GPU's is in the host's
                  memory where it is updated only now and then
    n_in_16_bits  the parameters whose moments are in 16 bits

    Everything else is fp32: weights in use, gradients, master weights (in ZeRO), two moments, the
    average, and the temporaries of an update (in ZeRO flattened gradients as well).
    """
    updated = 3 + has_average  # master, two moments, average
    part = n_parameters / n_processes
    part_in_16_bits = n_in_16_bits / (n_processes if zero_stage else 1)
    saved = SAVED * part_in_16_bits
    if zero_stage == 3:
        return int(FP32 * ((2 + updated) * part + GATHERED * largest) - saved)

    saved -= FP32 * DECODED * min(part_in_16_bits, CHUNK_VALUES)
    if zero_stage == 0:
        return int(FP32 * ((1 + updated) * n_parameters + min(n_parameters, CHUNK_VALUES)) - saved)
    gradients = n_parameters + part if zero_stage == 1 else 3 * part
    return int(FP32 * (n_parameters + updated * part + gradients) - saved)


def group_state_bytes(
    recipe: TransformerRecipe,
    transformer: TransformerBackbone,
    shards: Sequence[tuple[int, int]],
    *,
    size: int,
    rank: int,
) -> int:
    """Return the peak of bytes of a process that shares the model with the others of its group.

    shards  the shapes of its shards of the matrices
    size    the number of processes of a group
    rank    of the compression between groups; 0: none

    A shard takes parameters, gradients, two moments and the average, unless that is in the host's
    memory, and of a compressed matrix the error and the start. On top come either, for forward and
    backward, gathered layers and all that is in no layer; or, for the update, the new errors with
    the factors or the optimizer's temporaries.
    """
    n_parameters = sum(p.numel() for p in transformer.parameters())
    n_matrices = sum(m * n for m, n in shards)
    has_average = recipe.ema is not None and recipe.ema.every == 1
    kept = (4 + has_average) * n_parameters / size
    temporaries = min(n_parameters / size, CHUNK_VALUES)
    if recipe.optimizer.moments == "paper":
        kept -= n_matrices * SAVED / FP32
        temporaries += DECODED * min(n_matrices, CHUNK_VALUES)

    compressed = [(m, n) for m, n in shards if rank and rank * (m + n) < m * n]
    errors: float = sum(m * n for m, n in compressed)
    if recipe.powersgd and recipe.powersgd.buffers == "paper":
        errors *= CODE / FP32
        encoded = max((m * n for m, n in compressed), default=0)
        temporaries = max(temporaries, DECODED * encoded)
    kept += errors + sum(rank * max(m, n) for m, n in compressed)
    factors = sum(2 * rank * (m + n) for m, n in compressed)

    layer = max(sum(p.numel() for p in block.parameters()) for block in transformer.blocks)
    others = n_parameters - sum(p.numel() for p in transformer.blocks.parameters())
    computing = GATHERED_LAYERS * layer + 2 * others
    updating = errors + max(factors, temporaries)
    return int(FP32 * (kept + max(computing, updating)))


def deepspeed_bf16_bytes(n_parameters: int, largest: int, n_processes: int) -> int:
    """Return the estimate of DeepSpeed's estimator for its bf16 mode at ZeRO 3.

    That mode has no average, and the estimate counts no buffers.
    """
    return FP32 * largest + 18 * n_parameters // n_processes


def activation_bytes(
    model: TrainedTransformerTable, precision: Precision, *, recomputed: bool
) -> int:
    """Return the bytes that autograd keeps of a sample from forward to backward.

    They are counted in dry runs of one layer and of two, on tensors without values: every further
    layer keeps as much as the second. With `recomputed`, activations are checkpointed.
    """
    one, two = (
        _sample_bytes(model.model_copy(update={"n_layers": n}), precision, recomputed=recomputed)
        for n in (1, 2)
    )
    return one + (model.n_layers - 1) * (two - one)


def _sample_bytes(model: TrainedTransformerTable, precision: Precision, *, recomputed: bool) -> int:
    """Count what autograd keeps of a sample."""
    half = "bf16" if precision == "fp16" else precision  # both halves take two bytes
    with FakeTensorMode(), torch.device("cpu"), UninitialisedWeights():
        transformer = build_transformer(model, model.text_vocab_size)
        apply_precision(transformer, half, torch.device("cpu"))
        if recomputed:
            checkpoint_activations(transformer.half_precision_modules())
        return _kept(transformer, 2) - _kept(transformer, 1)


def _kept(transformer: TransformerBackbone, n_samples: int) -> int:
    """Return the bytes that autograd keeps of some samples, apart from the model's tensors."""
    zeros = partial(torch.zeros, dtype=torch.long)
    return kept_bytes(
        transformer,
        lambda: transformer.features(
            zeros(n_samples, transformer.text_len), zeros(n_samples, transformer.image_len)
        ),
    )


def kept_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes that autograd keeps of a call for backward, apart from the model's tensors.

    It is to be called under a `FakeTensorMode`, where nothing is allocated.
    """
    of_model = {
        tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]
    }
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for key, storage in kept.items() if key not in of_model)
