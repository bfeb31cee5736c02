"""What a run trains: a model, its task and its preprocessing, for each kind of recipe.

The commands and `dalle train` build the same setups; `training.run` trains them, or times a few
updates. Knows nothing of folders and engines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

from dalle_cli.config import (
    ClipRecipe,
    DVAERecipe,
    PowerSGDTable,
    TrainedTransformerTable,
    TransformerRecipe,
)
from dalle_cli.data.preprocessing import (
    ClipPreprocessing,
    DVAEPreprocessing,
    Preprocessing,
    TransformerPreprocessing,
)
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.loading import trained_clip_table
from dalle_cli.models.clip import Clip
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.precision import Precision
from dalle_cli.training.engines.engine import ModelT
from dalle_cli.training.metric_log import OnReport
from dalle_cli.training.optimization.gradient_scaling import GradientScales
from dalle_cli.training.planning.flops import train_flops
from dalle_cli.training.tasks.clip import ClipTask
from dalle_cli.training.tasks.dvae import DiscreteVAETask
from dalle_cli.training.tasks.fused_losses import FusedLossTransformer
from dalle_cli.training.tasks.model_setup import set_up_clip, set_up_dvae, set_up_transformer
from dalle_cli.training.tasks.preview_captions import PreviewCaptions
from dalle_cli.training.tasks.task import Task
from dalle_cli.training.tasks.transformer import TransformerTask
from dalle_cli.training.throughput import NOT_COUNTED, SampleCost


@dataclass(frozen=True)
class TrainingSetup(Generic[ModelT]):
    """A model about to train, and what the loop needs to know of it.

    model         on the CPU, with fresh weights
    task_on       makes the task, given the model as the engine wants it called
    model_config  `kind` and `model`, for the run's model folder
    scales        of a model that trains in fp16
    powersgd      compression of gradients between processes
    cost          of a sample, for the throughput
    on_report     called with every report, as in `MetricLog`
    """

    model: ModelT
    task_on: Callable[[ModelT], Task[ModelT]]
    preprocess: Preprocessing
    model_config: dict[str, Any]
    scales: GradientScales | None = None
    powersgd: PowerSGDTable | None = None
    cost: SampleCost = NOT_COUNTED
    on_report: OnReport = lambda done, figures: None


def dvae_setup(
    recipe: DVAERecipe,
    *,
    precision: Precision,
    world: World,
    on_report: OnReport = lambda done, figures: None,
) -> TrainingSetup[DiscreteVAE]:
    """Build a discrete VAE and its task."""
    dvae, scales = set_up_dvae(recipe, precision=precision, device=world.device)
    return TrainingSetup(
        dvae,
        partial(DiscreteVAETask, loss=recipe.loss, seed=recipe.training.seed),
        preprocess=DVAEPreprocessing(recipe.model.image_size),
        model_config={"kind": "dvae", "model": recipe.model.model_dump()},
        scales=scales,
        on_report=on_report,
    )


def transformer_setup(
    recipe: TransformerRecipe,
    *,
    precision: Precision,
    world: World,
    dvae: DiscreteVAE,
    tokenizer: Tokenizer,
    previewed: PreviewCaptions,
) -> TrainingSetup[FusedLossTransformer]:
    """Build a transformer and its task; the dVAE is on the world's device."""
    transformer, scales = set_up_transformer(
        recipe, tokenizer.vocab_size, precision=precision, world=world
    )
    model = TrainedTransformerTable(
        **recipe.model.model_dump(), text_vocab_size=tokenizer.vocab_size
    )
    task_on = partial(
        TransformerTask,
        dvae=dvae,
        loss=recipe.loss,
        seed=recipe.training.seed,
        preview_captions=previewed.encoded(tokenizer, model.text_len, device=world.device),
    )

    return TrainingSetup(
        transformer,
        task_on,
        preprocess=TransformerPreprocessing(
            image_size=dvae.image_size,
            text_len=recipe.model.text_len,
            tokenizer=tokenizer,
            bpe_dropout=recipe.tokenizer.dropout,
            caption_dropout=recipe.loss.caption_dropout,
        ),
        model_config={"kind": "transformer", "model": model.model_dump()},
        scales=scales,
        powersgd=recipe.powersgd,
        cost=SampleCost(tokens=model.text_len + model.grid_size**2, flops=train_flops(model)),
    )


def clip_setup(
    recipe: ClipRecipe, *, precision: Precision, world: World, tokenizer: Tokenizer
) -> TrainingSetup[Clip]:
    """Build a CLIP and its task."""
    model = trained_clip_table(recipe.model, tokenizer.vocab_size)
    clip = set_up_clip(model, recipe.training.seed, precision=precision, device=world.device)
    return TrainingSetup(
        clip,
        partial(ClipTask, world=world),
        preprocess=ClipPreprocessing(
            image_size=recipe.model.image_size,
            text_len=recipe.model.text_len,
            tokenizer=tokenizer,
            bpe_dropout=recipe.tokenizer.dropout,
        ),
        model_config={"kind": "clip", "model": model.model_dump()},
    )
