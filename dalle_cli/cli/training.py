"""`dalle train`, `train-dvae`, `train-transformer` and the others of a model each, and `resume`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.help import TRAIN, add_command
from dalle_cli.cli.options import (
    FORMS,
    RECIPE,
    RUN,
    CaptionColumn,
    DataSource,
    DeepSpeedFile,
    Device,
    DryRun,
    DVAERun,
    EmbeddedSource,
    Exclude,
    FrozenClipName,
    Gpus,
    ImageColumn,
    InitFrom,
    Json,
    Log,
    OtherData,
    Overrides,
    PairSource,
    Precision,
    Quiet,
    RecipeName,
    Resume,
    RunFolder,
    RunToResume,
    Steps,
    Threads,
    TokenizerFile,
    ValidSource,
)
from dalle_cli.cli.processes import launch_workers
from dalle_cli.console import Terminal
from dalle_cli.errors import UsageError
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.processes.ranks import check_not_left_alone

if TYPE_CHECKING:
    from dalle_cli.commands.training.resume import ResumePlan
    from dalle_cli.training.run import TrainOptions


class Asked(NamedTuple):
    """A training command's name and how its recipe was named, for the run's record."""

    name: str
    recipe: str
    steps: int | None
    overrides: list[str]


def _with_precision(overrides: list[str], precision: str | None) -> list[str]:
    return overrides if precision is None else [*overrides, f"runtime.precision={precision}"]


def _options(
    asked: "Asked",
    data: list[str],
    *,
    run: Path,
    image_column: str | None,
    caption_column: str | None,
    exclude: Path | None,
    valid: str | None,
    resume: str,
    device: str,
    dry_run: bool,
    init_from: Path | None,
    log: str | None,
    dvae: Path | None = None,
    clip: str | None = None,
    tokenizer: Path | None = None,
    preview_captions: Path | None = None,
    deepspeed: Path | None = None,
) -> "TrainOptions":
    from dalle_cli.storage.run_record import absolute_source
    from dalle_cli.training.run import TrainOptions

    inputs = {
        "exclude": exclude,
        "valid": valid,
        "dvae": dvae,
        "tokenizer": tokenizer,
        "preview_captions": preview_captions,
        "deepspeed": deepspeed,
    }
    command = {
        **asked._asdict(),
        "data": [absolute_source(source) for source in data],
        "image_column": image_column,
        "caption_column": caption_column,
        **{name: given and absolute_source(str(given)) for name, given in inputs.items()},
        # a name on the hub is no path
        "clip": absolute_source(clip) if clip and Path(clip).exists() else clip,
        "log": log,
    }
    return TrainOptions(
        data=tuple(data),
        run=run,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
        deepspeed=deepspeed,
        log=log,
        init_from=None if init_from is None else init_from.absolute(),
        command=command,
    )


def _zero_overrides(deepspeed: Path | None) -> list[str]:
    """Return a DeepSpeed file's stage and offloading as overrides, for a recipe without them."""
    if deepspeed is None:
        return []

    from dalle_cli.training.engines.deepspeed_config import overrides_of

    return overrides_of(deepspeed)


def _launch_trainers(n_processes: int | None) -> bool:
    """Launch n training processes and wait for them; return False if this process is to train.

    Raises UsageError in a SLURM job of several tasks that runs a single process.
    """
    if n_processes is None:
        check_not_left_alone()
    return launch_workers(n_processes)


@add_command(app, "train", panel=TRAIN, example="dalle train pictures/ --run runs/pictures")
def train_chain(
    data: Annotated[
        str,
        typer.Argument(metavar="SRC", help=f"{FORMS}."),
    ],
    *,
    run: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of all runs, new or to be resumed.", rich_help_panel=RUN
        ),
    ],
    hours: Annotated[
        float | None,
        typer.Option(
            metavar="H",
            min=0.02,
            help="Time for everything; by default 0.25 on a CPU, 2 on a GPU.",
            rich_help_panel=RUN,
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train the models of the shipped recipes of this name, such as emoji.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print the plan, what it takes, and stop.", rich_help_panel=RUN
        ),
    ] = False,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    log: Log = None,
    device: Device = "auto",
    threads: Threads = "auto",
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train all models that it takes, in the time you have.

    It looks at the pictures and the machine, chooses the models, says what they will take, and runs
    the other commands one after another. The same command resumes it.
    """
    from dalle_cli.commands.training.train import run_train
    from dalle_cli.training.planning.chain import ChainOptions
    from dalle_cli.training.run import TrainOptions

    training = TrainOptions(
        data=(data,),
        run=run,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
        device=device,
        log=log,
    )
    chain = ChainOptions(hours=hours, like=like, gpus=gpus, plan_only=plan)
    run_train(training, chain, Terminal(quiet=quiet, as_json=as_json))


@add_command(
    app,
    "train-dvae",
    panel=TRAIN,
    example="dalle train-dvae dvae/emoji --data pictures/ --run runs/dvae",
)
def train_dvae(
    recipe: RecipeName,
    data: DataSource,
    *,
    run: RunFolder,
    valid: ValidSource = None,
    init_from: InitFrom = None,
    steps: Steps = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    log: Log = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a discrete VAE on pictures."""
    changes = _with_precision(overrides, precision)
    checked = load_recipe(recipe, changes, kind="dvae", steps=steps)
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.training.train_dvae import run_train_dvae

    options = _options(
        Asked("train-dvae", recipe, steps, changes),
        data,
        run=run,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
        init_from=init_from,
        log=log,
    )
    run_train_dvae(checked, options, Terminal(quiet=quiet, as_json=as_json))


@add_command(
    app,
    "train-transformer",
    panel=TRAIN,
    example="dalle train-transformer transformer/emoji --data pictures/ \\\n"
    "  --dvae runs/dvae --run runs/dalle",
)
def train_transformer(
    recipe: RecipeName,
    data: PairSource,
    *,
    run: RunFolder,
    dvae: DVAERun,
    tokenizer: TokenizerFile = None,
    valid: ValidSource = None,
    init_from: InitFrom = None,
    preview_captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Captions, one a line, for which previews show pictures.",
            rich_help_panel=RUN,
        ),
    ] = None,
    steps: Steps = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    log: Log = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    deepspeed: DeepSpeedFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a transformer on captioned pictures.

    A discrete VAE turns the pictures into tokens.
    """
    changes = _with_precision(overrides, precision)
    checked = load_recipe(
        recipe,
        changes,
        kind="transformer",
        steps=steps,
        fallbacks=_zero_overrides(deepspeed),
    )
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.training.train_transformer import (
        TransformerOptions,
        run_train_transformer,
    )

    options = _options(
        Asked("train-transformer", recipe, steps, changes),
        data,
        run=run,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
        init_from=init_from,
        log=log,
        dvae=dvae,
        tokenizer=tokenizer,
        preview_captions=preview_captions,
        deepspeed=deepspeed,
    )
    run_train_transformer(
        checked,
        options,
        TransformerOptions(dvae, tokenizer, preview_captions),
        Terminal(quiet=quiet, as_json=as_json),
    )


@add_command(
    app,
    "train-clip",
    panel=TRAIN,
    example="dalle train-clip clip/emoji --data pictures/ --run runs/clip",
)
def train_clip(
    recipe: RecipeName,
    data: DataSource,
    *,
    run: RunFolder,
    tokenizer: TokenizerFile = None,
    valid: ValidSource = None,
    init_from: InitFrom = None,
    steps: Steps = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    log: Log = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a CLIP on captioned pictures.

    It ranks generated pictures where no public CLIP is to be had, and a prior and a decoder are
    trained with it.
    """
    changes = _with_precision(overrides, precision)
    checked = load_recipe(recipe, changes, kind="clip", steps=steps)
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.training.train_clip import run_train_clip

    options = _options(
        Asked("train-clip", recipe, steps, changes),
        data,
        run=run,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
        init_from=init_from,
        log=log,
        tokenizer=tokenizer,
    )
    run_train_clip(checked, options, tokenizer, Terminal(quiet=quiet, as_json=as_json))


@add_command(
    app,
    "train-prior",
    panel=TRAIN,
    example="dalle train-prior prior/demo --data pictures/ \\\n  --clip runs/clip --run runs/prior",
)
def train_prior(
    recipe: RecipeName,
    data: EmbeddedSource,
    *,
    run: RunFolder,
    clip: FrozenClipName,
    valid: ValidSource = None,
    init_from: InitFrom = None,
    steps: Steps = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    log: Log = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    deepspeed: DeepSpeedFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train DALL-E 2's prior on captions and a CLIP.

    It guesses CLIP's embedding of a picture from its caption.
    """
    changes, zero = _with_precision(overrides, precision), _zero_overrides(deepspeed)
    checked = load_recipe(recipe, changes, kind="prior", steps=steps, fallbacks=zero)
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.training.train_prior import run_train_prior

    options = _options(
        Asked("train-prior", recipe, steps, changes),
        data,
        run=run,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
        init_from=init_from,
        log=log,
        clip=clip,
        deepspeed=deepspeed,
    )
    run_train_prior(checked, options, clip, Terminal(quiet=quiet, as_json=as_json))


@add_command(
    app,
    "train-decoder",
    panel=TRAIN,
    example="dalle train-decoder decoder/demo --data pictures/ \\\n"
    "  --clip runs/clip --run runs/decoder",
)
def train_decoder(
    recipe: RecipeName,
    data: DataSource,
    *,
    run: RunFolder,
    clip: FrozenClipName,
    valid: ValidSource = None,
    init_from: InitFrom = None,
    steps: Steps = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    log: Log = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    deepspeed: DeepSpeedFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train DALL-E 2's decoder on pictures and a CLIP.

    It paints a picture of CLIP's embedding of it.
    """
    changes, zero = _with_precision(overrides, precision), _zero_overrides(deepspeed)
    checked = load_recipe(recipe, changes, kind="decoder", steps=steps, fallbacks=zero)
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.training.train_decoder import run_train_decoder

    options = _options(
        Asked("train-decoder", recipe, steps, changes),
        data,
        run=run,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
        init_from=init_from,
        log=log,
        clip=clip,
        deepspeed=deepspeed,
    )
    run_train_decoder(checked, options, clip, Terminal(quiet=quiet, as_json=as_json))


@add_command(app, panel=TRAIN, example="dalle resume runs/dalle")
def resume(
    run: RunToResume,
    data: OtherData = [],  # noqa: B006  typer copies it
    *,
    extend: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Train a finished run for N more steps.", rich_help_panel=RUN
        ),
    ] = None,
    restart_lr: Annotated[
        bool,
        typer.Option(
            "--restart-lr",
            help="With --extend, restart the learning rate's schedule and warm-up.",
            rich_help_panel=RUN,
        ),
    ] = False,
    device: Device = "auto",
    threads: Threads = "auto",
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Resume a run, or the folder of `dalle train`.

    It knows its recipe, its data and its other inputs: nothing is typed again.
    """
    from dalle_cli.commands.training.resume import plan_resume
    from dalle_cli.commands.training.train import run_train
    from dalle_cli.training.planning.chain import recorded_training

    begun = recorded_training(run)
    if begun is not None:
        if data or extend is not None or restart_lr:
            hint = f"name one of the runs inside, such as {run / 'transformer'}"
            raise UsageError("`--data`, `--extend` and `--restart-lr` are for a single run", hint)
        training, chain = begun
        run_train(
            replace(training, device=device),
            replace(chain, gpus=gpus or chain.gpus),
            Terminal(quiet=quiet, as_json=as_json),
        )
        return

    plan = plan_resume(run, data=data, device=device, extend=extend, restart_lr=restart_lr)
    if _launch_trainers(gpus):
        return
    terminal = Terminal(quiet=quiet, as_json=as_json)
    plan.describe(terminal)
    _run_plan(plan, terminal)


def _run_plan(plan: "ResumePlan", terminal: Terminal) -> None:
    """Run the training command that a plan stands for; the run keeps a copy of its dVAE or CLIP."""
    clip = str(plan.inputs.get("clip", plan.options.run))
    if plan.recipe.kind == "dvae":
        from dalle_cli.commands.training.train_dvae import run_train_dvae

        run_train_dvae(plan.recipe, plan.options, terminal)
    elif plan.recipe.kind == "clip":
        from dalle_cli.commands.training.train_clip import run_train_clip

        run_train_clip(plan.recipe, plan.options, plan.inputs.get("tokenizer"), terminal)
    elif plan.recipe.kind == "decoder":
        from dalle_cli.commands.training.train_decoder import run_train_decoder

        run_train_decoder(plan.recipe, plan.options, clip, terminal)
    elif plan.recipe.kind == "prior" or plan.recipe.kind == "prior-autoregressive":
        from dalle_cli.commands.training.train_prior import run_train_prior

        run_train_prior(plan.recipe, plan.options, clip, terminal)
    else:
        from dalle_cli.commands.training.train_transformer import (
            TransformerOptions,
            run_train_transformer,
        )

        inputs = {"dvae": plan.options.run, **plan.inputs}
        run_train_transformer(plan.recipe, plan.options, TransformerOptions(**inputs), terminal)
