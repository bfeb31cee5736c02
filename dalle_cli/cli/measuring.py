"""`dalle evaluate`: figures of runs on held-out data."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.help import MACHINE, USE, add_command
from dalle_cli.cli.options import (
    FORMS,
    INPUT,
    OUTPUT,
    CaptionColumn,
    Device,
    Gpus,
    ImageColumn,
    Json,
    Quiet,
    Threads,
    run_path,
)
from dalle_cli.cli.processes import launch_workers
from dalle_cli.console import Terminal
from dalle_cli.storage.run_dir import model_dir
from dalle_cli.storage.shipped import resolve_run

PROTOCOL, JUDGES = "Protocol", "Judges"


@add_command(
    app,
    panel=USE,
    example="dalle evaluate runs/birds runs/birds-longer --data birds/ \\\n"
    "  --clip runs/clip --candidates 8",
)
def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            parser=run_path,
            help="Runs, exports or shipped models; several are compared side by side.",
        ),
    ],
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="SRC",
            help=f"{FORMS}; of what a run was trained on, the held-out share is used.",
            rich_help_panel=INPUT,
        ),
    ],
    train: Annotated[
        str | None,
        typer.Option(
            metavar="SRC",
            help="Training pictures, to look for copies; by default those that the run names.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    pairs: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Pairs to measure on, at most, evenly spread.",
            rich_help_panel=PROTOCOL,
        ),
    ] = 30_000,
    captions: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Captions to generate pictures of, at most; 0: generate nothing.",
            rich_help_panel=PROTOCOL,
        ),
    ] = 2048,
    candidates: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=1,
            help="Pictures of each caption, of which --clip keeps the best.",
            rich_help_panel=PROTOCOL,
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="The same seed draws the same captions and pictures.",
            rich_help_panel=PROTOCOL,
        ),
    ] = 0,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="CLIP",
            parser=resolve_run,
            help="CLIP that compares the pictures with captions and with real pictures.",
            rich_help_panel=JUDGES,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CLIP's vocabulary, if it is not next to the CLIP.",
            rich_help_panel=JUDGES,
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights of Inception, for FID; by default the published ones are fetched.",
            rich_help_panel=JUDGES,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New folder, or an unfinished one; by default inside the run, "
            "or evaluations/NAME for a shipped model.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|fp32|bf16|fp16",
            help="Arithmetic of the models, on which the figures depend a little.",
            rich_help_panel=MACHINE,
        ),
    ] = "fp32",
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure runs on held-out data, and compare them.

    Of a transformer: losses and accuracy, FID and Inception Score, how its pictures fit their
    captions, how varied they are and how much is copied. Of a dVAE: reconstructions and codebook.
    Of a CLIP: retrieval. Figures and protocol go into evaluation.json.
    """
    if candidates > 1 and clip is None:
        message = f"nothing says which of {candidates} pictures is the best: give --clip"
        raise typer.BadParameter(message, param_hint="--candidates")
    if tokenizer is not None and clip is None:
        message = "it is CLIP's vocabulary, and there is no --clip"
        raise typer.BadParameter(message, param_hint="--tokenizer")

    if gpus is not None:
        for run in runs:
            model_dir(run)  # a missing run is reported once, not by every process
    if launch_workers(gpus):
        return

    from dalle_cli.commands.evaluation.evaluate import EvaluateOptions, run_evaluate
    from dalle_cli.data.sources import Columns
    from dalle_cli.evaluation.plan import EvaluationSettings

    settings = EvaluationSettings(
        data=data,
        columns=Columns(image_column, caption_column),
        n_pairs=pairs,
        n_captions=captions,
        n_candidates=candidates,
        seed=seed,
        train=train,
        clip=clip,
        vocabulary=tokenizer,
        inception=inception,
    )
    options = EvaluateOptions(list(dict.fromkeys(runs)), device, precision, out)
    run_evaluate(options, settings, Terminal(quiet=quiet, as_json=as_json))
