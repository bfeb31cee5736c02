"""`dalle train-dvae`, `dalle train-transformer` and `dalle train-clip`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.help import TRAIN, add_command
from dalle_cli.cli.options import (
    INPUT,
    RUN,
    DataSource,
    DeepSpeedFile,
    Device,
    DryRun,
    Gpus,
    Json,
    Overrides,
    PairSource,
    Precision,
    Quiet,
    RecipeName,
    Resume,
    RunFolder,
    TokenizerFile,
    ValidSource,
)
from dalle_cli.cli.processes import launch_workers
from dalle_cli.console import Terminal
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.ranks import check_not_left_alone

if TYPE_CHECKING:
    from dalle_cli.training.run import TrainOptions


def _with_precision(overrides: list[str], precision: str | None) -> list[str]:
    return overrides if precision is None else [*overrides, f"runtime.precision={precision}"]


def _options(
    data: str,
    run: Path,
    *,
    valid: str | None,
    resume: str,
    device: str,
    dry_run: bool,
    deepspeed: Path | None = None,
) -> "TrainOptions":
    from dalle_cli.training.run import TrainOptions

    return TrainOptions(
        data=data,
        run=run,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
        deepspeed=deepspeed,
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
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    device: Device = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a discrete VAE on pictures."""
    checked = load_recipe(recipe, _with_precision(overrides, precision), kind="dvae")
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.train_dvae import run_train_dvae

    run_train_dvae(
        checked,
        _options(data, run, valid=valid, resume=resume, device=device, dry_run=dry_run),
        Terminal(quiet=quiet, as_json=as_json),
    )


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
    dvae: Annotated[
        Path,
        typer.Option(
            metavar="RUN",
            help="Run of the discrete VAE whose tokens it learns.",
            rich_help_panel=INPUT,
        ),
    ],
    tokenizer: TokenizerFile = None,
    valid: ValidSource = None,
    preview_captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Captions, one a line, for which previews show pictures.",
            rich_help_panel=RUN,
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    device: Device = "auto",
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
    checked = load_recipe(
        recipe,
        _with_precision(overrides, precision),
        kind="transformer",
        fallbacks=_zero_overrides(deepspeed),
    )
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.train_transformer import TransformerOptions, run_train_transformer

    options = _options(
        data,
        run,
        valid=valid,
        resume=resume,
        device=device,
        dry_run=dry_run,
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
    overrides: Overrides = [],  # noqa: B006  typer copies it
    resume: Resume = "auto",
    device: Device = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a CLIP on captioned pictures.

    It ranks generated pictures where no public CLIP is to be had.
    """
    checked = load_recipe(recipe, _with_precision(overrides, precision), kind="clip")
    if _launch_trainers(gpus):
        return
    from dalle_cli.commands.train_clip import run_train_clip

    run_train_clip(
        checked,
        _options(data, run, valid=valid, resume=resume, device=device, dry_run=dry_run),
        tokenizer,
        Terminal(quiet=quiet, as_json=as_json),
    )
