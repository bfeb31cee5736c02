"""`dalle train-dvae`, `dalle train-transformer` and `dalle train-clip`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.options import (
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
    ValidSource,
)
from dalle_cli.cli.processes import launch_workers
from dalle_cli.console import Terminal
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.ranks import check_not_left_alone

if TYPE_CHECKING:
    from dalle_cli.training.run import TrainOptions

TokenizerFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A merges.json; otherwise one is learnt from the captions."),
]


def _with_precision(overrides: list[str], precision: str | None) -> list[str]:
    return overrides if precision is None else [*overrides, f"runtime.precision={precision}"]


def _options(
    data: str,
    run: Path,
    valid: str | None,
    resume: str,
    device: str,
    dry_run: bool,
    deepspeed: Path | None = None,
) -> "TrainOptions":
    from dalle_cli.training.run import TrainOptions

    return TrainOptions(data, run, valid, resume, device, dry_run, deepspeed)


def _said_by(deepspeed: Path | None) -> list[str]:
    """Give a DeepSpeed file's stage and offloading, which hold where the recipe has none."""
    if deepspeed is None:
        return []
    from dalle_cli.training.engines.deepspeed_config import overrides_of

    return overrides_of(deepspeed)


def _is_parent_of(n_processes: int | None) -> bool:
    if n_processes is None:
        check_not_left_alone()
    return launch_workers(n_processes)


@app.command("train-dvae", rich_help_panel="Train")
def train_dvae(
    recipe: RecipeName,
    data: DataSource,
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
    """Train a discrete VAE on pictures.

    Example: dalle train-dvae dvae/emoji --data pictures/ --run runs/dvae
    """
    checked = load_recipe(recipe, _with_precision(overrides, precision), kind="dvae")
    if _is_parent_of(gpus):
        return
    from dalle_cli.commands.train_dvae import run_train_dvae

    run_train_dvae(
        checked, _options(data, run, valid, resume, device, dry_run), Terminal(quiet, as_json)
    )


@app.command("train-transformer", rich_help_panel="Train")
def train_transformer(
    recipe: RecipeName,
    data: PairSource,
    run: RunFolder,
    dvae: Annotated[
        Path, typer.Option(metavar="RUN", help="The discrete VAE whose tokens it learns.")
    ],
    tokenizer: TokenizerFile = None,
    valid: ValidSource = None,
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
    """Train a transformer on captioned pictures, as a discrete VAE sees them.

    Example: dalle train-transformer transformer/emoji --data pictures/ --dvae runs/dvae --run runs/dalle
    """
    checked = load_recipe(
        recipe, _with_precision(overrides, precision), "transformer", _said_by(deepspeed)
    )
    if _is_parent_of(gpus):
        return
    from dalle_cli.commands.train_transformer import TransformerOptions, run_train_transformer

    options = _options(data, run, valid, resume, device, dry_run, deepspeed)
    run_train_transformer(
        checked, options, TransformerOptions(dvae, tokenizer), Terminal(quiet, as_json)
    )


@app.command("train-clip", rich_help_panel="Train")
def train_clip(
    recipe: RecipeName,
    data: DataSource,
    run: RunFolder,
    tokenizer: TokenizerFile = None,
    valid: ValidSource = None,
    overrides: Overrides = [],  # noqa: B006
    resume: Resume = "auto",
    device: Device = "auto",
    precision: Precision = None,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a CLIP on captioned pictures, to rank what is drawn where no public one can be had.

    Example: dalle train-clip clip/emoji --data pictures/ --run runs/clip
    """
    checked = load_recipe(recipe, _with_precision(overrides, precision), kind="clip")
    if _is_parent_of(gpus):
        return
    from dalle_cli.commands.train_clip import run_train_clip

    run_train_clip(
        checked,
        _options(data, run, valid, resume, device, dry_run),
        tokenizer,
        Terminal(quiet, as_json),
    )
