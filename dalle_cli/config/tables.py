"""The grammar of recipes: typed tables in which every key is checked.

Scientific keys have no default: a recipe states all of them. Keys of `[runtime]` are plumbing and
have one. The string below a field describes the key to users: `dalle recipes keys` prints it, and
docs/recipe-keys.md is made from it. Knows nothing of files. The paper's numbers are in the shipped
recipes, not here.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


@dataclass(frozen=True)
class Unit:
    """The unit of a number, for `dalle recipes keys`; no check depends on it."""

    name: str


MOST = 10**9  # of updates and samples; more would overflow what counts seconds and bytes

Positive = Annotated[int, Field(ge=1)]
Layers = Annotated[int, Field(ge=1, le=10_000)]  # more would take forever to build
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0)]

Channels = Annotated[Positive, Unit("channels")]
Pixels = Annotated[int, Field(ge=1, le=2**16), Unit("pixels")]
Samples = Annotated[int, Field(ge=1, le=MOST), Unit("samples")]
Updates = Annotated[int, Field(ge=1, le=MOST), Unit("updates")]


class Table(BaseModel):
    """A table of a recipe: frozen, strictly typed, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Cosine(Table):
    """Half a cosine from `start` to `end`, constant afterwards (Ramesh et al. 2021, appendix
    A.2)."""

    start: Rate
    """Value at the first update."""

    end: Rate
    """Value when the half cosine has ended, and from then on."""

    share: Annotated[float | None, Field(gt=0, le=1)] = None
    """Length of the half cosine from `start` to `end` as a share of `training.steps`; either this
    or `steps`."""

    steps: Annotated[int | None, Field(ge=1, le=MOST), Unit("updates")] = None
    """Length of the half cosine from `start` to `end`, whatever the length of the run."""

    @model_validator(mode="after")
    def _check_length(self) -> "Cosine":
        if (self.share is None) == (self.steps is None):
            raise ValueError("must have either `share` or `steps`, and not both")
        return self

    def length(self, total: int) -> int:
        """Return the length of the half cosine in a run of `total` updates."""
        if self.share is None:
            assert self.steps is not None  # as the table checks
            return self.steps
        return max(round(self.share * total), 1)


class PlateauTable(Table):
    """When the training loss counts as being on a plateau; the paper does not say (appendix
    B.2)."""

    halvings: Positive
    """Largest number of halvings."""

    patience: Updates
    """Updates without a new lowest loss before the learning rate is halved."""

    threshold: Share
    """Share of the lowest loss so far by which the loss must fall to count as a new lowest."""

    smoothing: Share
    """Decay, per update, of the moving average of the loss."""


class Restart(Table):
    """A restart of the learning rate, which `dalle resume --extend N --restart-lr` writes."""

    after: Updates
    """Updates before the restart."""

    steps: Updates
    """Length of the half cosine, which is warmed up as at first."""


class OptimizerTable(Table):
    """AdamW with decoupled weight decay."""

    lr: Cosine
    """Schedule of the learning rate, before warm-up and the halvings of `[optimizer.plateau]`."""

    warmup_share: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Length of the linear ramp that the learning rate begins with as a share of `training.steps`;
    0: none. Either this or `warmup_steps`."""

    warmup_steps: Annotated[int | None, Field(ge=0, le=MOST), Unit("updates")] = None
    """Length of the linear ramp that the learning rate begins with, whatever the length of the run;
    0: none."""

    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    """Decay of Adam's moving averages: of the gradient, and of its square."""

    eps: Annotated[float, Field(gt=0)]
    """Added to the square root of the second moment."""

    weight_decay: Rate
    """Decay of matrices and convolution kernels; biases, gains and embeddings never decay."""

    clip_norm: Rate
    """Largest norm of all gradients together; 0: not clipped."""

    clip_second_moment: Rate
    """Largest value of the second moment, enforced before it is used (appendix B.2); 0: not
    clipped."""

    moments: Literal["fp32", "paper"] = "fp32"
    """Format of Adam's moving averages. `paper`: 16 bits for those of matrices and convolution
    kernels, 1-6-9 for the gradient's and 0-6-10 for its square's (appendix B.2), rounded to
    nearest; it goes with the second `betas` of the paper, since near 1 small changes are rounded
    away."""

    plateau: PlateauTable | None = None
    """Halves the learning rate whenever the smoothed training loss stops falling, warm-up excepted;
    without it, only the schedule lowers it."""

    on_spike: Literal["warn", "skip", "stop"] = "warn"
    """What follows a training loss far above the last ones: a warning, the update skipped, or the
    end of the run. Far is ten times their median deviation above their median, and at least a
    tenth of it."""

    restarts: Annotated[list[Restart], Field(max_length=1000)] = []
    """Restarts of the learning rate in a run that was extended: tables of `after`, the updates
    before it, and `steps`, the length of its half cosine."""

    @model_validator(mode="after")
    def _check_warmup(self) -> "OptimizerTable":
        if (self.warmup_share is None) == (self.warmup_steps is None):
            raise ValueError("must have either `warmup_share` or `warmup_steps`, and not both")
        return self

    def warmup_length(self, total: int) -> int:
        """Return the length of the warm-up in a run of `total` updates."""
        if self.warmup_share is None:
            assert self.warmup_steps is not None  # as the table checks
            return self.warmup_steps
        return round(self.warmup_share * total)


class EmaTable(Table):
    """Exponential moving average of the weights."""

    decay: Share
    """Decay of the average; after n updates of the average at most (1 + n) / (10 + n)."""

    every: Updates
    """Updates of the weights for each update of the average; above 1, a GPU run keeps it in host
    memory."""


class DataTable(Table):
    """Data split, shuffling, and how many bad samples are tolerated."""

    validation_share: Annotated[float, Field(gt=0, lt=1)]
    """Share of the samples held out, chosen by their keys; at least one. Not used with
    `--valid`."""

    shuffle_block: Samples
    """Consecutive samples that are moved together; samples are then shuffled within windows of 16
    blocks."""

    max_bad_share: Share
    """Share of the training samples that may be unusable; beyond it the run stops."""


class TrainingTable(Table):
    """Length of the run, batch size and seed."""

    steps: Updates
    """Length of the run. Schedules that are shares of it follow it, as in the shipped recipes."""

    global_batch_size: Annotated[int, Field(ge=1, le=2**20), Unit("samples")]
    """Samples in one update, over all processes and micro-batches."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Seed of everything random: initial weights, order, crops, captions, dropout and noise."""


class RuntimeTable(Table):
    """Plumbing: may differ from machine to machine, and change whenever a run is resumed."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of what the paper computes in 16 bits. `auto`: bf16 where the device multiplies it
    clearly faster than fp32, otherwise fp32. CLIP refuses fp16."""

    attention: Literal["auto", "dense", "sparse", "flex"] = "auto"
    """Attention backend of a transformer. `dense` computes all pairs under the mask, `sparse`
    (CPUs) and `flex` (GPUs) next to none but those the mask allows. `auto`: dense for short
    streams, otherwise the device's."""

    engine: Literal["auto", "local", "ddp", "deepspeed", "fsdp"] = "auto"
    """What trains: one process, replicas of the model in several, DeepSpeed's ZeRO, or torch's
    FSDP2 in groups of processes. `auto`: DeepSpeed where `zero_stage` is above 0, FSDP2 where there
    is a `shard_group`, otherwise by the number of processes."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """What ZeRO partitions over processes; not for dVAE and CLIP, which fit on every GPU. 1:
    optimizer state; 2: also gradients; 3: also parameters; 0: no ZeRO."""

    shard_group: Annotated[int, Field(ge=0), Unit("processes")] | Literal["machine"] = 0
    """Consecutive processes that share one copy of parameters, gradients, moments and average
    (transformer only), as a machine's GPUs do in the paper (appendix E). Gradients are summed
    between such groups, compressed where `powersgd.rank` is above 0, which is a group's total.
    `machine`: the processes of each machine; 0: no groups."""

    offload: Literal[False, "optimizer", "parameters"] = False
    """What ZeRO keeps in host memory: the optimizer state, or at stage 3 the parameters as well."""

    micro_batch_size: Annotated[Count, Unit("samples")] = 0
    """Samples in one backward pass of a process; 0: the process's whole share of the batch. CLIP's
    batch can't be cut."""

    activation_checkpointing: bool | Literal["auto"] = "auto"
    """Whether residual branches are recomputed in the backward pass, a third more arithmetic for
    less memory; not for dVAE and CLIP. `auto`: where `zero_stage` is 3 or there is a
    `shard_group`."""

    workers: Annotated[Count, Unit("processes")] = 2
    """Data-loading processes, at most one per processor; 0: the training process loads."""

    report_every: Updates = 10
    """Interval between lines of training figures in `metrics.jsonl`."""

    validate_every: Updates = 500
    """Interval between measurements on held-out samples."""

    preview_every: Updates = 500
    """Interval between preview pictures."""

    save_every: Updates = 500
    """Interval between checkpoints; the model folder is written with each."""

    keep_checkpoints: Positive = 2
    """Number of newest checkpoints to keep; the one with the lowest held-out loss is kept as
    well."""

    validation_samples: Samples = 256
    """Largest number of held-out samples to measure on."""

    @model_validator(mode="after")
    def _check_engine(self) -> "RuntimeTable":
        stage, engine, offload = self.zero_stage, self.engine, self.offload

        if stage and engine in ("local", "ddp", "fsdp"):
            raise ValueError(
                f"`zero_stage` {stage} is DeepSpeed's: `engine` must be deepspeed, not {engine}"
            )
        if engine == "deepspeed" and not stage:
            raise ValueError(
                "`engine` deepspeed needs a `zero_stage` of 1, 2 or 3: without ZeRO, use ddp"
            )
        if self.shard_group and (stage or engine not in ("auto", "fsdp")):
            given = f"`zero_stage` {stage}" if stage else f"`engine` {engine}"
            raise ValueError(
                f"`shard_group` {self.shard_group} is FSDP2's: it does not go with {given}"
            )
        if engine == "fsdp" and not self.shard_group:
            raise ValueError(
                "`engine` fsdp needs a `shard_group`: a number of processes, or machine"
            )
        if offload and not stage:
            raise ValueError(f"`offload` {offload} is DeepSpeed's: it needs a `zero_stage`")

        if stage == 3 and self.activation_checkpointing is False:
            # what autograd keeps of a branch would hold its gathered parameters
            raise ValueError("`activation_checkpointing` can't be false at `zero_stage` 3")
        if offload == "parameters" and stage != 3:
            raise ValueError(
                f"`offload` parameters needs `zero_stage` 3, which partitions them: {stage}"
            )
        return self


class DVAEEncoderTable(Table):
    """Sizes of the half of a discrete VAE that makes tokens, `models.dvae.DVAEEncoder`."""

    image_size: Pixels
    """Side of the square pictures; must be divisible by 2 ** (n_groups - 1)."""

    vocab_size: Annotated[int, Field(ge=2), Unit("entries")]
    """Size of the codebook."""

    n_hidden: Channels
    """Width next to the pixels, doubled from group to group; must be divisible by 4."""

    n_groups: Layers
    """Groups of residual blocks; all but the last halve the picture's side."""

    blocks_per_group: Layers
    """Residual blocks in a group."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "DVAEEncoderTable":
        factor = 2 ** (self.n_groups - 1)
        if self.image_size % factor:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by {factor}, "
                f"2 ** (n_groups - 1) for n_groups {self.n_groups}"
            )
        if self.n_hidden % 4:
            raise ValueError(f"n_hidden {self.n_hidden} is not divisible by 4")
        return self


class DVAEModelTable(DVAEEncoderTable):
    """Sizes of the discrete VAE, `models.dvae.DiscreteVAE`."""

    n_init: Channels
    """Width of a codebook vector, where the decoder begins."""


class DVAELossTable(Table):
    """The relaxed evidence lower bound (appendix A); the last two keys are not in the paper."""

    kl_weight: Cosine
    """Schedule of the KL term's weight, the paper's beta."""

    temperature: Cosine
    """Schedule of the Gumbel-softmax relaxation's temperature; above 0 throughout."""

    dequantization: Rate
    """Width of the uniform noise added to pixel values, which lie in [0, 1]; 0: none."""

    min_log_scale: float | Literal[False]
    """Floor of the likelihood's ln b, which flat pictures need; false: none."""

    @field_validator("min_log_scale", mode="before")
    @classmethod
    def _keep_zero(cls, floor: object) -> object:
        """Read an integer as a number: 0 is a floor like any other, and only `false` means none."""
        return float(floor) if isinstance(floor, int) and not isinstance(floor, bool) else floor

    @field_validator("temperature")
    @classmethod
    def _check_divisor(cls, temperature: Cosine) -> Cosine:
        if min(temperature.start, temperature.end) <= 0:
            raise ValueError(f"must stay above 0: from {temperature.start} to {temperature.end}")
        return temperature


class TransformerModelTable(Table):
    """Sizes of the transformer, `models.transformer.Transformer`."""

    text_len: Annotated[int, Field(ge=2), Unit("tokens")]
    """Text positions; a caption fills at most `text_len` - 1 of them, after start-of-text."""

    grid_size: Annotated[Positive, Unit("tokens")]
    """Side of the grid of image tokens; must be the dVAE's."""

    image_vocab_size: Annotated[int, Field(ge=2), Unit("entries")]
    """Size of the image vocabulary; must be the dVAE's codebook."""

    n_layers: Layers
    """Layers, each an attention and an MLP branch."""

    d_model: Channels
    """Width of the residual stream; must be divisible by `n_heads`."""

    n_heads: Positive
    """Attention heads of a layer."""

    kernel_size: Annotated[Positive, Unit("tokens")]
    """Side of the convolutional mask of the last layer; odd."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "TransformerModelTable":
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is not odd")
        return self


class TrainedTransformerTable(TransformerModelTable):
    """A trained transformer's sizes, as its model folder states them."""

    text_vocab_size: Positive
    """Size of the text vocabulary that was learnt."""


class TransformerLossTable(Table):
    """Next-token prediction over both modalities."""

    text_weight: Annotated[float, Field(ge=0, le=1)]
    """Weight of the text loss; the image loss has the rest."""

    caption_dropout: Share
    """Share of the samples that train with an empty caption, which `generate --guidance` needs."""

    token_noise: Share = 0.0
    """Up to this share of a picture's tokens is random where the next ones are predicted from them,
    so that more has to follow from the caption; a share for each sample, from none upwards."""


class TowerTable(Table):
    """Sizes of one of CLIP's two transformers, `models.clip.Tower`."""

    n_layers: Layers
    """Layers, each an attention and an MLP branch."""

    d_model: Channels
    """Width of the residual stream; must be divisible by `n_heads`."""

    n_heads: Positive
    """Attention heads of a layer."""

    d_mlp: Channels
    """Hidden width of the MLP."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "TowerTable":
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        return self


class ClipModelTable(Table):
    """Sizes of CLIP, `models.clip.Clip`."""

    image_size: Pixels
    """Side of the square pictures; must be divisible by `patch_size`."""

    patch_size: Pixels
    """Side of the patches that the vision transformer reads."""

    text_len: Annotated[int, Field(ge=3), Unit("tokens")]
    """Text positions, start and end of text included."""

    d_embed: Channels
    """Width of the shared embedding."""

    activation: Literal["quick_gelu", "gelu"]
    """Activation of the MLPs; OpenAI's weights have `quick_gelu`."""

    vision: TowerTable
    """Sizes of the vision transformer."""

    text: TowerTable
    """Sizes of the text transformer."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "ClipModelTable":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}"
            )
        return self


class TrainedClipTable(ClipModelTable):
    """A trained CLIP's sizes and the form of its captions and pixels, as its model folder states
    them."""

    text_vocab_size: Positive
    """Size of the text vocabulary, start and end of text included."""

    end_of_text: Count | None
    """The id whose position represents the caption; none: the largest id in it."""

    pixel_mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    """Mean by which red, green and blue are normalised."""

    pixel_std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    """Standard deviation by which red, green and blue are normalised."""


class TokenizerTable(Table):
    """Byte-pair encoding of captions, learnt from the training captions unless `--tokenizer` names
    one."""

    vocab_size: Annotated[int, Field(ge=258), Unit("entries")]
    """Largest vocabulary; fewer entries where the captions yield no more."""

    dropout: Share
    """Probability of skipping a merge in training (BPE dropout)."""

    backend: Literal["auto", "youtokentome", "tokenizers"] = "auto"
    """The library that learns the merges. `auto`: youtokentome where it is installed."""


class PowerSGDTable(Table):
    """PowerSGD (Vogels et al. 2019; appendix E)."""

    rank: Count
    """Columns that a gradient is compressed to; 0: not compressed."""

    buffers: Literal["fp32", "paper"] = "fp32"
    """Format of what the compression sends and of what it has not yet sent. `paper`: 16 bits, 1-6-9
    (appendix E), rounded to nearest: half of both. Gradients beyond the format's largest number,
    16, then count as not finite."""


def _refuse_transformer_features(runtime: RuntimeTable) -> RuntimeTable:
    if runtime.activation_checkpointing is True:
        raise ValueError(
            "`activation_checkpointing` is for the transformer: "
            "this model has no residual branches to recompute"
        )
    if runtime.zero_stage or runtime.shard_group:
        key = "zero_stage" if runtime.zero_stage else "shard_group"
        raise ValueError(
            f"`{key}` is for the transformer: this model fits on every GPU and trains with ddp"
        )
    return runtime


def _refuse_fp16(runtime: RuntimeTable) -> RuntimeTable:
    if runtime.precision == "fp16":
        raise ValueError("CLIP does not train in fp16, for want of gradient scaling: use bf16")
    return runtime


def refuse_skipping_under_zero(optimizer: OptimizerTable, runtime: RuntimeTable) -> None:
    """Raise ValueError where updates are to be skipped that DeepSpeed applies by itself."""
    if optimizer.on_spike == "skip" and runtime.zero_stage:
        raise ValueError(
            "`optimizer.on_spike` skip is for whole replicas, and with `runtime.zero_stage` "
            f"{runtime.zero_stage} DeepSpeed updates by itself: use warn or stop"
        )


SmallModelRuntime = Annotated[RuntimeTable, AfterValidator(_refuse_transformer_features)]


class DVAERecipe(Table):
    """A recipe for `dalle train-dvae`."""

    kind: Literal["dvae"]
    """What the recipe trains."""

    model: DVAEModelTable
    loss: DVAELossTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    """Moving average of the weights for validation, previews and `model/`; without it, they use the
    weights themselves."""

    data: DataTable
    training: TrainingTable
    runtime: SmallModelRuntime = RuntimeTable()


class TransformerRecipe(Table):
    """A recipe for `dalle train-transformer`."""

    kind: Literal["transformer"]
    """What the recipe trains."""

    model: TransformerModelTable
    tokenizer: TokenizerTable
    loss: TransformerLossTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    """Moving average of the weights for validation, previews and `model/`; without it, they use the
    weights themselves."""

    powersgd: PowerSGDTable | None = None
    """Low-rank compression of the matrices' gradients between processes (appendix E); without it,
    there is none."""

    data: DataTable
    training: TrainingTable
    runtime: RuntimeTable = RuntimeTable()

    @model_validator(mode="after")
    def _check_zero(self) -> "TransformerRecipe":
        refuse_skipping_under_zero(self.optimizer, self.runtime)
        rank = self.powersgd.rank if self.powersgd else 0
        if rank and self.runtime.zero_stage:
            raise ValueError(
                f"`powersgd.rank` {rank} compresses the gradients of replicas, and with "
                f"`runtime.zero_stage` {self.runtime.zero_stage} DeepSpeed sums gradients itself: "
                "set one of them to 0, or shard in groups by `runtime.shard_group`"
            )
        return self


class ClipRecipe(Table):
    """A recipe for `dalle train-clip`."""

    kind: Literal["clip"]
    """What the recipe trains."""

    model: ClipModelTable
    tokenizer: TokenizerTable
    optimizer: OptimizerTable
    ema: EmaTable | None = None
    """Moving average of the weights for validation, previews and `model/`; without it, they use the
    weights themselves."""

    data: DataTable
    training: TrainingTable
    runtime: Annotated[SmallModelRuntime, AfterValidator(_refuse_fp16)] = RuntimeTable()

    @model_validator(mode="after")
    def _check_batch(self) -> "ClipRecipe":
        batch, micro_batch = self.training.global_batch_size, self.runtime.micro_batch_size

        if batch < 2:
            raise ValueError(
                "`training.global_batch_size` must be at least 2, "
                f"so that there are pairs to compare: {batch}"
            )
        if micro_batch not in (0, batch):
            raise ValueError(
                "the contrastive loss compares all pairs of a batch, which can't be cut: "
                f"`runtime.micro_batch_size` must be 0 or {batch}, as "
                f"`training.global_batch_size`, not {micro_batch}"
            )
        return self
