"""What training holds in a GPU's memory, reckoned from sizes before anything is paid for."""

from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.loading import build_transformer
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.optimization.adamw import CHUNK_VALUES

FP32 = 4  # bytes
# times the largest layer, at ZeRO 3's peak: in use, kept, prefetched, gradients and what sums them
GATHERED = 8


def largest_layer(model: nn.Module) -> int:
    """Count the values of the module with most parameters of its own: what ZeRO gathers or sums in one go."""
    return max(
        sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()
    )


def state_bytes(
    zero_stage: int, n_parameters: int, largest: int, n_processes: int, has_average: bool = True
) -> int:
    """Count the bytes that one process holds for the model, its gradients and the update, at the peak.

    zero_stage   0: whole replicas
    largest      see `largest_layer`
    has_average  of the weights on the same device; on a GPU a rare one is kept in the host's memory

    Everything is fp32: weights in use, gradients, master weights (in ZeRO), two moments, the average, and what an
    update takes for a while (in ZeRO gradients laid out flat as well).
    """
    updated = 3 + has_average  # master, two moments, average
    part = n_parameters / n_processes
    if zero_stage == 0:
        return int(FP32 * ((1 + updated) * n_parameters + min(n_parameters, CHUNK_VALUES)))
    if zero_stage == 3:
        return int(FP32 * ((2 + updated) * part + GATHERED * largest))
    gradients = n_parameters + part if zero_stage == 1 else 3 * part
    return int(FP32 * (n_parameters + updated * part + gradients))


def deepspeed_bf16_bytes(n_parameters: int, largest: int, n_processes: int) -> int:
    """Count what DeepSpeed's estimator says of its bf16 mode at ZeRO 3, which has no average and counts no buffers."""
    return FP32 * largest + 18 * n_parameters // n_processes


def activation_bytes(model: TrainedTransformerTable, precision: Precision, recomputed: bool) -> int:
    """Count what autograd keeps of one sample from forward to backward, by a dry run on tensors without values."""
    with FakeTensorMode(), torch.device("cpu"):
        transformer = build_transformer(model, model.text_vocab_size)
        apply_precision(
            transformer, "bf16" if precision == "fp16" else precision, torch.device("cpu")
        )  # half is half
        if recomputed:
            checkpoint_activations(transformer.half_precision_modules())
        return _kept(transformer, 2) - _kept(transformer, 1)


def _kept(transformer: Transformer, n_samples: int) -> int:
    own = {
        tensor.untyped_storage()._cdata
        for tensor in [*transformer.parameters(), *transformer.buffers()]
    }
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)
        return tensor

    zeros = partial(torch.zeros, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        transformer.features(
            zeros(n_samples, transformer.text_len), zeros(n_samples, transformer.image_len)
        )
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)
