"""A model as it trains: fresh weights by the recipe's seed, and the techniques around it.

The techniques are 16-bit precision with its gradient scales, the attention backend and activation
checkpointing. Models know nothing of them; this module knows nothing of losses, data or engines.
"""

import torch

from dalle_cli.config import DVAERecipe, RuntimeTable, TrainedClipTable, TransformerRecipe
from dalle_cli.loading import build_clip, build_dvae
from dalle_cli.models.clip import Clip
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.attention_backend import choose_attention_backend, set_attention_backend
from dalle_cli.training.optimization.gradient_scaling import GradientScales, scale_gradients
from dalle_cli.training.optimization.loss_scaling import scale_loss
from dalle_cli.training.tasks.fused_losses import FusedLossTransformer, build_fused_transformer


def set_up_dvae(
    recipe: DVAERecipe, *, precision: Precision, device: torch.device
) -> tuple[DiscreteVAE, GradientScales | None]:
    """Build a discrete VAE on the CPU that will train on a device; in fp16 with a loss scale."""
    torch.manual_seed(recipe.training.seed)
    dvae = build_dvae(recipe.model)
    dvae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # no stub
    apply_precision(dvae, precision, device)
    return dvae, scale_loss(dvae, device) if precision == "fp16" else None


def set_up_transformer(
    recipe: TransformerRecipe, text_vocab_size: int, *, precision: Precision, world: World
) -> tuple[FusedLossTransformer, GradientScales | None]:
    """Build a transformer on the CPU that will train on the world's device.

    In fp16 each of its branches has a gradient scale. Raises UsageError for an attention backend
    that the device does not support.
    """
    torch.manual_seed(recipe.training.seed)
    transformer = build_fused_transformer(recipe.model, text_vocab_size, precision)
    backend = choose_attention_backend(recipe.runtime.attention, transformer, world.device)
    set_attention_backend(backend, transformer, device=world.device)

    branches, scales = transformer.half_precision_modules(), None
    if precision == "fp16":
        scales = scale_gradients(branches, world.size, world.device)
    else:
        apply_precision(transformer, precision, world.device)
    if _checkpoints_activations(recipe.runtime):
        checkpoint_activations(branches)
    return transformer, scales


def _checkpoints_activations(runtime: RuntimeTable) -> bool:
    if runtime.activation_checkpointing == "auto":
        return runtime.zero_stage == 3 or bool(runtime.shard_group)
    return runtime.activation_checkpointing


def set_up_clip(
    model: TrainedClipTable, seed: int, *, precision: Precision, device: torch.device
) -> Clip:
    """Build a CLIP on the CPU that will train on a device."""
    torch.manual_seed(seed)
    clip = build_clip(model)
    apply_precision(clip, precision, device)
    return clip
