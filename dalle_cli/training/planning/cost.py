"""What an update costs: operations and memory for each sample, from the sizes of a model alone.

The transformer's are those of `flops.py` and `memory.py`; of the other models, torch counts them on
tensors without values.
"""

from functools import partial
from typing import cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dalle_cli.config import ModelTable, Recipe, TrainedTransformerTable
from dalle_cli.console import size_text
from dalle_cli.errors import DalleError
from dalle_cli.loading import build_largest_model, build_model, largest_table
from dalle_cli.models.clip import Clip
from dalle_cli.models.dvae import DiscreteVAE, relax
from dalle_cli.models.transformer import Transformer
from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.caption_encoders import CaptionInputs, StateCaptions
from dalle_cli.models.unclip.decoder import N_COLOURS, UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.weightless import UninitialisedWeights, meta_device
from dalle_cli.recipe import flat_tables
from dalle_cli.runtime.devices import total_memory
from dalle_cli.runtime.precision import Precision
from dalle_cli.training.planning.flops import train_flops
from dalle_cli.training.planning.memory import (
    FP32,
    activation_bytes,
    kept_bytes,
    largest_layer,
    state_bytes,
)


def sample_flops(table: ModelTable) -> int:
    """Return the floating-point operations of an update for one sample."""
    if isinstance(table, TrainedTransformerTable):
        return train_flops(table)
    return 3 * counted_flops(table)  # backward takes twice the operations of forward


def counted_flops(table: ModelTable) -> int:
    """Count the operations of a forward pass of one sample, of all models but transformers."""
    with meta_device(), FlopCounterMode(display=False) as counter:
        _run_forward(build_model(table), 1)
    return int(counter.get_total_flops())


def sample_bytes(table: ModelTable, precision: Precision) -> int:
    """Return the bytes that autograd keeps of one sample from forward to backward."""
    if isinstance(table, TrainedTransformerTable):
        return activation_bytes(table, precision, recomputed=False)
    with FakeTensorMode(), torch.device("cpu"), UninitialisedWeights():
        model = build_model(table)
        two, one = (kept_bytes(model, partial(_run_forward, model, n)) for n in (2, 1))
        return two - one


def count_parameters(table: ModelTable) -> int:
    """Return the number of parameters of a model."""
    with meta_device():
        return sum(parameter.numel() for parameter in build_model(table).parameters())


def count_in_16_bits(recipe: Recipe) -> int:
    """Return the number of parameters whose moments a recipe keeps in 16 bits."""
    if recipe.optimizer.moments == "fp32":
        return 0
    with meta_device():
        model = cast(DiscreteVAE | Transformer | Clip, build_largest_model(recipe))
    return sum(matrix.numel() for matrix in model.matrices())


def check_fits(recipe: Recipe, device: torch.device) -> None:
    """Raise DalleError, naming the largest size, where no memory holds the model that is to train.

    What ZeRO partitions, or groups of processes shard, is not counted: only the weights that each
    process has in the host's memory.
    """
    is_divided = bool(recipe.runtime.zero_stage or recipe.runtime.shard_group)
    copies = 1 if is_divided else 4  # weights, their gradients, and two moments
    total = total_memory(torch.device("cpu") if is_divided else device)
    try:
        needed = copies * FP32 * count_parameters(largest_table(recipe))
    except (RuntimeError, OverflowError, TypeError):  # torch's, for numbers beyond 64 bits
        needed = None
    if needed is not None and (total is None or needed <= total):
        return

    needs = "more memory than any machine has" if needed is None else size_text(needed)
    has = "" if total is None else f", and the {device.type} has {size_text(total)}"
    sizes = flat_tables(recipe.model_dump(include={"model", "tokenizer"}))
    numbers = {key: value for key, value in sizes.items() if isinstance(value, int)}
    largest = max(numbers, key=lambda key: numbers[key])
    raise DalleError(
        f"the model needs {needs}{has}", f"its largest size is `{largest}` {numbers[largest]:,}"
    )


def model_bytes(table: ModelTable, n_processes: int, *, zero_stage: int = 0) -> int:
    """Return the bytes that each process needs for the model, its optimizer and the update."""
    with meta_device():
        largest = largest_layer(build_model(table))
    return state_bytes(zero_stage, count_parameters(table), largest, n_processes)


def _run_forward(model: nn.Module, n_samples: int) -> None:
    """Run what a task computes of samples, as far as it depends on the model."""
    if isinstance(model, DiscreteVAE):
        side = model.image_size
        logits = model.codebook_logits(torch.zeros(n_samples, 3, side, side))
        model.decode_soft(relax(logits, 1.0, torch.zeros_like(logits)))
        return

    if isinstance(model, DiffusionPrior | AutoregressivePrior):
        _run_prior(model, n_samples)
        return
    if isinstance(model, UnclipDecoder):
        _run_decoder(model, n_samples)
        return

    assert isinstance(model, Clip)
    side = model.image_size
    model.encode_image(torch.zeros(n_samples, 3, side, side))
    model.encode_text(torch.zeros(n_samples, model.text_len, dtype=torch.int64))


def _run_prior(prior: DiffusionPrior | AutoregressivePrior, n_samples: int) -> None:
    embeddings = torch.zeros(n_samples, prior.text_input.in_features)
    captions = _captions(prior.caption_input, n_samples, prior.text_len)
    indices = torch.zeros(n_samples, dtype=torch.int64)
    none = indices.bool()
    if isinstance(prior, DiffusionPrior):
        prior(embeddings, indices, captions, embeddings, none)
        return
    codes = torch.zeros(n_samples, prior.n_codes, dtype=torch.int64)
    prior(codes, indices, captions, embeddings, none)


def _run_decoder(decoder: UnclipDecoder, n_samples: int) -> None:
    side, reader = decoder.image_size, decoder.captions
    captions = None
    if reader is not None:
        first = reader.input if isinstance(reader, StateCaptions) else None
        captions = _captions(first, n_samples, reader.text_len)

    indices = torch.zeros(n_samples, dtype=torch.int64)
    none = indices.bool()
    embeddings = torch.zeros(n_samples, len(decoder.null_embedding))
    noisy = torch.zeros(n_samples, N_COLOURS, side, side)
    decoder(noisy, indices, embeddings, captions, none, none)


def _captions(first: nn.Module | None, n_samples: int, text_len: int) -> CaptionInputs:
    """Return captions for a model's first layer: states for a linear map, tokens for any other."""
    is_given = torch.ones(n_samples, text_len, dtype=torch.bool)
    if isinstance(first, nn.Linear):
        return CaptionInputs(torch.zeros(n_samples, text_len, first.in_features), is_given)
    return CaptionInputs(torch.zeros(n_samples, text_len, dtype=torch.int64), is_given)
