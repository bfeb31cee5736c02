"""The recipes of DALL-E 2's models: two kinds of prior, and the decoder.

All of them are trained with a frozen CLIP, so that none has a tokenizer of its own.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from dalle_cli.config.tables import (
    DataTable,
    EmaTable,
    OptimizerTable,
    RuntimeTable,
    Table,
    TrainingTable,
    refuse_skipping_under_zero,
)
from dalle_cli.config.unclip import (
    AutoregressivePriorModelTable,
    DecoderLossTable,
    DecoderModelTable,
    PriorLossTable,
    PriorModelTable,
)


def _check_unclip_runtime(runtime: RuntimeTable) -> RuntimeTable:
    if runtime.precision == "fp16" and runtime.zero_stage:
        raise ValueError(
            f"`precision` fp16 scales the loss of whole replicas, and `zero_stage` is "
            f"{runtime.zero_stage}: use bf16"
        )
    if runtime.shard_group:
        raise ValueError(
            "`shard_group` is for the transformer of DALL-E: use `zero_stage`, by which DeepSpeed "
            "partitions this model"
        )
    return runtime


UnclipRuntime = Annotated[RuntimeTable, AfterValidator(_check_unclip_runtime)]


class PriorRecipe(Table):
    """A recipe of a diffusion prior, for `dalle train-prior`."""

    kind: Literal["prior"]
    """What the recipe trains."""

    model: PriorModelTable
    loss: PriorLossTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    """Moving average of the weights for validation, previews and `model/`; without it, they use the
    weights themselves."""

    data: DataTable
    training: TrainingTable
    runtime: UnclipRuntime = RuntimeTable()

    @model_validator(mode="after")
    def _check_zero(self) -> "PriorRecipe":
        refuse_skipping_under_zero(self.optimizer, self.runtime)
        return self


class AutoregressivePriorRecipe(Table):
    """A recipe of an autoregressive prior, for `dalle train-prior`."""

    kind: Literal["prior-autoregressive"]
    """What the recipe trains."""

    model: AutoregressivePriorModelTable
    loss: PriorLossTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    """Moving average of the weights for validation, previews and `model/`; without it, they use the
    weights themselves."""

    data: DataTable
    training: TrainingTable
    runtime: UnclipRuntime = RuntimeTable()

    @model_validator(mode="after")
    def _check_zero(self) -> "AutoregressivePriorRecipe":
        refuse_skipping_under_zero(self.optimizer, self.runtime)
        return self


class DecoderRecipe(Table):
    """A recipe of a decoder, for `dalle train-decoder`."""

    kind: Literal["decoder"]
    """What the recipe trains."""

    model: DecoderModelTable
    loss: DecoderLossTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    """Moving average of the weights for validation, previews and `model/`; without it, they use the
    weights themselves."""

    data: DataTable
    training: TrainingTable
    runtime: UnclipRuntime = RuntimeTable()

    @model_validator(mode="after")
    def _check_parts(self) -> "DecoderRecipe":
        refuse_skipping_under_zero(self.optimizer, self.runtime)
        if self.loss.caption_dropout and self.model.text_len is None:
            raise ValueError(
                f"`loss.caption_dropout` {self.loss.caption_dropout:g} is for a decoder that reads "
                "captions, and the model has no `text_len`: set it to 0.0"
            )
        return self
