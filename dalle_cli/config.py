"""What a recipe may say, as typed tables; a recipe is data, and this is its grammar.

Keys that are science have no default: a recipe states all of them. Keys of `[runtime]` are plumbing and have one.
Knows nothing of files. Numbers the paper gives are in the shipped recipes, not here.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Layers = Annotated[int, Field(ge=1, le=10_000)]  # more would take forever to build
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0)]


class Table(BaseModel):
    """A table of a recipe: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Cosine(Table):
    """Half a cosine from start to end over so many updates, then held (Ramesh et al. 2021, appendix A.2)."""

    start: Rate
    end: Rate
    steps: Positive


class PlateauTable(Table):
    """When the step size is halved, after warm-up: each time the smoothed training loss has not fallen for a while."""

    halvings: Positive  # at most
    patience: Positive  # updates without
    threshold: Share  # a fall by this share of the loss
    smoothing: Share  # decay of the loss's moving average, by update


class OptimizerTable(Table):
    """AdamW with decoupled decay on matrices only; lr is scaled by a linear ramp over warmup_steps."""

    lr: Cosine
    warmup_steps: Count
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Rate
    clip_norm: Rate  # of all gradients together; 0: off
    clip_second_moment: Rate  # by value, before it is used (appendix B.2 of the paper); 0: off
    plateau: PlateauTable | None = None


class EmaTable(Table):
    """Moving average of the weights, updated after every so many updates."""

    decay: Share
    every: Positive


class DataTable(Table):
    """Which samples train, in which order, and how many bad ones are borne."""

    validation_share: Annotated[float, Field(gt=0, lt=1)]
    shuffle_block: Positive
    max_bad_share: Share


class TrainingTable(Table):
    """How long, with how many samples an update, and from which seed."""

    steps: Positive
    global_batch_size: Positive
    seed: Count


class RuntimeTable(Table):
    """Plumbing: may differ from machine to machine and from one resumption to the next."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # fp16: not CLIP
    attention: Literal["auto", "dense", "sparse", "flex"] = "auto"  # sparse: on CPUs; flex: on GPUs
    engine: Literal["auto", "local", "ddp", "deepspeed"] = (
        "auto"  # auto: deepspeed where zero_stage says so
    )
    zero_stage: Literal[0, 1, 2, 3] = (
        0  # what DeepSpeed deals out: moments, also gradients, also parameters
    )
    offload: Literal[False, "optimizer", "parameters"] = (
        False  # to the host's memory; parameters: both, at stage 3
    )
    micro_batch_size: Count = 0  # samples in one backward; 0: the whole batch
    activation_checkpointing: bool | Literal["auto"] = (
        "auto"  # branches in backward, for memory; auto: where zero_stage is 3
    )
    workers: Count = 2  # loader processes
    report_every: Positive = 10
    validate_every: Positive = 500
    preview_every: Positive = 500
    save_every: Positive = 500
    keep_checkpoints: Positive = 2
    validation_samples: Positive = 256  # at most

    @model_validator(mode="after")
    def _check_engine(self) -> "RuntimeTable":
        if self.zero_stage and self.engine in ("local", "ddp"):
            raise ValueError(
                f"zero_stage {self.zero_stage} is DeepSpeed's: engine must be deepspeed, not {self.engine}"
            )
        if self.engine == "deepspeed" and not self.zero_stage:
            raise ValueError(
                "engine deepspeed needs a zero_stage of 1 to 3: what stage 0 would do, ddp does"
            )
        if self.offload and not self.zero_stage:
            raise ValueError(f"offload {self.offload} is DeepSpeed's: it needs a zero_stage")
        if self.zero_stage == 3 and self.activation_checkpointing is False:
            raise ValueError(
                "activation_checkpointing can't be false at zero_stage 3: what is kept would hold gathered parameters"
            )
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(
                f"offload parameters needs zero_stage 3, which deals them out, not {self.zero_stage}"
            )
        return self


class DVAEEncoderTable(Table):
    """See `models.dvae.DVAEEncoder`."""

    image_size: Positive
    vocab_size: Annotated[int, Field(ge=2)]
    n_hidden: Positive
    n_groups: Layers
    blocks_per_group: Layers

    @model_validator(mode="after")
    def _check_sizes(self) -> "DVAEEncoderTable":
        factor = 2 ** (self.n_groups - 1)
        if self.image_size % factor:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by {factor}, as n_groups asks"
            )
        if self.n_hidden % 4:
            raise ValueError(f"n_hidden {self.n_hidden} is not divisible by 4")
        return self


class DVAEModelTable(DVAEEncoderTable):
    """See `models.dvae.DiscreteVAE`."""

    n_init: Positive


class DVAELossTable(Table):
    """The relaxed evidence lower bound (appendix A); dequantization and min_log_scale are not in the paper."""

    kl_weight: Cosine
    temperature: Cosine
    dequantization: Rate  # width of the uniform noise on pixel values in [0, 1]; 0: off
    min_log_scale: float | Literal[False]  # floor of ln b, which flat pictures need; false: none

    @field_validator("min_log_scale", mode="before")
    @classmethod
    def _keep_zero(cls, floor: object) -> object:
        """0 is a floor like any other number; only `false` means none."""
        return float(floor) if isinstance(floor, int) and not isinstance(floor, bool) else floor

    @field_validator("temperature")
    @classmethod
    def _check_divisor(cls, temperature: Cosine) -> Cosine:
        if min(temperature.start, temperature.end) <= 0:
            raise ValueError(f"must stay above 0: from {temperature.start} to {temperature.end}")
        return temperature


class TransformerModelTable(Table):
    """See `models.transformer.Transformer`; grid_size and image_vocab_size must be the dVAE's."""

    text_len: Annotated[int, Field(ge=2)]
    grid_size: Positive
    image_vocab_size: Annotated[int, Field(ge=2)]
    n_layers: Layers
    d_model: Positive
    n_heads: Positive
    kernel_size: Positive

    @model_validator(mode="after")
    def _check_sizes(self) -> "TransformerModelTable":
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is not odd")
        return self


class TrainedTransformerTable(TransformerModelTable):
    """A transformer's sizes with the vocabulary that was learnt, as its model folder states them."""

    text_vocab_size: Positive


class TransformerLossTable(Table):
    """Shares of the two modalities; caption_dropout trains the empty caption, which guidance needs."""

    text_weight: Annotated[float, Field(ge=0, le=1)]
    caption_dropout: Share


class TowerTable(Table):
    """See `models.clip.Tower`."""

    n_layers: Layers
    d_model: Positive
    n_heads: Positive
    d_mlp: Positive

    @model_validator(mode="after")
    def _check_sizes(self) -> "TowerTable":
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        return self


class ClipModelTable(Table):
    """See `models.clip.Clip`; text_len counts the start and the end of a caption."""

    image_size: Positive
    patch_size: Positive
    text_len: Annotated[int, Field(ge=3)]
    d_embed: Positive
    activation: Literal["quick_gelu", "gelu"]
    vision: TowerTable
    text: TowerTable

    @model_validator(mode="after")
    def _check_sizes(self) -> "ClipModelTable":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}"
            )
        return self


class TrainedClipTable(ClipModelTable):
    """A CLIP's sizes with what its captions and pixels must look like, as its model folder states them."""

    text_vocab_size: Positive  # start and end of text included
    end_of_text: Count | None  # the id that stands for the caption; none: the largest in it
    pixel_mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    pixel_std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class TokenizerTable(Table):
    """Byte-pair encoding of captions: the most entries there may be, and the training-time dropout of merges."""

    vocab_size: Annotated[int, Field(ge=258)]
    dropout: Share
    backend: Literal["auto", "youtokentome", "tokenizers"] = "auto"


class PowerSGDTable(Table):
    """Compression of the matrices' gradients between processes to so many columns (appendix E.2 of the paper)."""

    rank: Count  # 0: off


def _refuse_the_transformers_own(runtime: RuntimeTable) -> RuntimeTable:
    if runtime.activation_checkpointing is True:
        raise ValueError(
            "activation_checkpointing is for the transformer's branches: this model has none"
        )
    if runtime.zero_stage:
        raise ValueError(
            "zero_stage is for the transformer, which outgrows a GPU: this model has room on each, by ddp"
        )
    return runtime


def _refuse_fp16(runtime: RuntimeTable) -> RuntimeTable:
    if runtime.precision == "fp16":
        raise ValueError(
            "CLIP does not train in fp16, which has no gradient scales for it: take bf16"
        )
    return runtime


SmallModelRuntime = Annotated[RuntimeTable, AfterValidator(_refuse_the_transformers_own)]


class DVAERecipe(Table):
    """All of a `train-dvae` run."""

    kind: Literal["dvae"]
    model: DVAEModelTable
    loss: DVAELossTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    data: DataTable
    training: TrainingTable
    runtime: SmallModelRuntime = RuntimeTable()


class TransformerRecipe(Table):
    """All of a `train-transformer` run."""

    kind: Literal["transformer"]
    model: TransformerModelTable
    tokenizer: TokenizerTable
    loss: TransformerLossTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    powersgd: PowerSGDTable | None = None
    data: DataTable
    training: TrainingTable
    runtime: RuntimeTable = RuntimeTable()

    @model_validator(mode="after")
    def _check_compression(self) -> "TransformerRecipe":
        if self.powersgd and self.powersgd.rank and self.runtime.zero_stage:
            raise ValueError(
                f"`powersgd.rank` {self.powersgd.rank} compresses what whole replicas tell one another; with "
                f"`runtime.zero_stage` {self.runtime.zero_stage} DeepSpeed sums gradients itself: set one of them to 0"
            )
        return self


class ClipRecipe(Table):
    """All of a `train-clip` run."""

    kind: Literal["clip"]
    model: ClipModelTable
    tokenizer: TokenizerTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    data: DataTable
    training: TrainingTable
    runtime: Annotated[SmallModelRuntime, AfterValidator(_refuse_fp16)] = RuntimeTable()

    @model_validator(mode="after")
    def _check_batch(self) -> "ClipRecipe":
        batch, micro_batch = self.training.global_batch_size, self.runtime.micro_batch_size
        if batch < 2:
            raise ValueError(
                f"`training.global_batch_size` {batch} leaves nothing to tell a pair from"
            )
        if micro_batch not in (0, batch):
            raise ValueError(
                "the contrastive loss compares all pairs of a batch, which can't be cut: "
                f"`runtime.micro_batch_size` must be 0 or {batch}, as `training.global_batch_size`, not {micro_batch}"
            )
        return self


Recipe = DVAERecipe | TransformerRecipe | ClipRecipe
RECIPE_TYPES: dict[str, type[DVAERecipe] | type[TransformerRecipe] | type[ClipRecipe]] = {
    "dvae": DVAERecipe,
    "transformer": TransformerRecipe,
    "clip": ClipRecipe,
}

ModelTable = DVAEEncoderTable | DVAEModelTable | TrainedTransformerTable | TrainedClipTable


MODEL_TABLES: dict[str, type[ModelTable]] = {
    "dvae": DVAEModelTable,
    "dvae-encoder": DVAEEncoderTable,
    "transformer": TrainedTransformerTable,
    "clip": TrainedClipTable,
}


def kind_of(model: ModelTable) -> str:
    """Name the kind of model that a table describes."""
    return next(kind for kind, table in MODEL_TABLES.items() if type(model) is table)
