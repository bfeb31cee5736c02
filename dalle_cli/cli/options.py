"""Options that several commands share, each declared once with its help panel.

Wherever a run is named, so may be a shipped model: the parsers here turn its name into its folder.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.help import MACHINE
from dalle_cli.storage.shipped import resolve_run

RECIPE, INPUT, RUN, RANKING, OUTPUT = "Recipe", "Input", "Run", "Ranking", "Output"


def run_path(name: str) -> Path:
    """Return the path of a run, given its path or the name of a shipped model."""
    return Path(resolve_run(name))


def _shipped_names(incomplete: str) -> list[str]:
    """Return the names of shipped recipes that begin so, for completion in a shell."""
    from dalle_cli.recipe import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        autocompletion=_shipped_names,
        help="Path of a recipe, the name of a shipped one, or a run.",
        rich_help_panel=RECIPE,
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, as in training.steps=500.",
        rich_help_panel=RECIPE,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        help="Length of the run in updates; all schedules are scaled with it.",
        rich_help_panel=RECIPE,
    ),
]

FORMS = "Folder of captioned pictures, tar shards, CSV, TSV, JSON, COCO, parquet or hf:owner/name"

DataSource = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="SRC[@WEIGHT]",
        help=f"{FORMS}; may be repeated, to mix sources.",
        rich_help_panel=INPUT,
    ),
]
OtherData = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="SRC",
        help="The data, where they are elsewhere now than when the run began.",
        rich_help_panel=INPUT,
    ),
]
PairSource = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="SRC[@WEIGHT]",
        help=f"{FORMS}, or a folder of `dalle data encode`; may be repeated, to mix sources.",
        rich_help_panel=INPUT,
    ),
]
EmbeddedSource = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="SRC[@WEIGHT]",
        help=f"{FORMS}, or a folder of `dalle data encode --clip`; may be repeated, to mix "
        "sources.",
        rich_help_panel=INPUT,
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        "--image-column",
        metavar="NAME",
        help="Column of a table that holds or names pictures, if not a usual one.",
        rich_help_panel=INPUT,
    ),
]
CaptionColumn = Annotated[
    str | None,
    typer.Option(
        "--caption-column",
        metavar="NAME",
        help="Column of captions, or key in .json caption files, if not a usual one.",
        rich_help_panel=INPUT,
    ),
]
ValidSource = Annotated[
    str | None,
    typer.Option(
        "--valid",
        metavar="SRC",
        help="Held-out data; by default a share of --data.",
        rich_help_panel=INPUT,
    ),
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        "--exclude",
        metavar="FILE",
        help="Keys of samples to leave out, one a line, as `dalle data overlap` writes them.",
        rich_help_panel=INPUT,
    ),
]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="A merges.json; by default one is learnt from the captions.",
        rich_help_panel=INPUT,
    ),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(
        "--init-from",
        metavar="RUN",
        parser=run_path,
        help="Run, export or shipped model whose weights a new run starts from.",
        rich_help_panel=INPUT,
    ),
]

RunFolder = Annotated[
    Path,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Folder of the run, new or to be resumed.",
        rich_help_panel=RUN,
    ),
]
Resume = Annotated[
    str,
    typer.Option(
        "--resume",
        metavar="auto|never|PATH",
        help="Resume from the newest checkpoint, from none, or from this one.",
        rich_help_panel=RUN,
    ),
]


def _check_tracker_name(name: str | None) -> str | None:
    if name is not None:
        from dalle_cli.training.trackers.choice import TRACKERS

        if name not in TRACKERS:
            raise typer.BadParameter(f"must be one of {', '.join(TRACKERS)}: {name}")
    return name


Log = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="tensorboard|wandb|trackio",
        callback=_check_tracker_name,
        help="Also send figures and previews there; its package must be installed.",
        rich_help_panel=RUN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything, forecast the run from a few steps, and stop.",
        rich_help_panel=RUN,
    ),
]

RunToResume = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder that a training command writes.", rich_help_panel=RUN
    ),
]
RunToUse = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", parser=run_path, help="A run, an exported one, or a shipped model."
    ),
]
_DVAE = typer.Option(
    "--dvae",
    metavar="RUN",
    parser=run_path,
    help="Run of the discrete VAE that makes the image tokens, or a shipped model.",
    rich_help_panel=INPUT,
)
DVAERun = Annotated[Path, _DVAE]
OptionalDVAERun = Annotated[Path | None, _DVAE]
_CLIP = typer.Option(
    "--clip",
    metavar="CLIP",
    parser=resolve_run,
    help="A `train-clip` run, a shipped model, or a public checkpoint, that makes embeddings.",
    rich_help_panel=INPUT,
)
FrozenClipName = Annotated[str, _CLIP]
OptionalFrozenClipName = Annotated[str | None, _CLIP]


def _check_checkpoint(choice: str | None) -> str | None:
    if choice is not None and choice not in ("best", "last") and not choice.isdecimal():
        raise typer.BadParameter(f"must be best, last or a step: {choice}")
    return choice


Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="best|last|STEP",
        callback=_check_checkpoint,
        help="Use the weights of this checkpoint; by default those in the run's model folder.",
        rich_help_panel=RUN,
    ),
]
ClipVocabulary = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="CLIP's vocabulary, if it is not next to the CLIP.",
        rich_help_panel=RANKING,
    ),
]

Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda", help="Where to compute.", rich_help_panel=MACHINE
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|fp16",
        help="Arithmetic of the residual branches; CLIP does not train in fp16.",
        rich_help_panel=MACHINE,
    ),
]
PrecisionToUse = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|fp16",
        help="Arithmetic of the model; auto: bf16 where it is clearly faster, else fp32.",
        rich_help_panel=MACHINE,
    ),
]


def _fix_threads(choice: str) -> str:
    """Set OMP_NUM_THREADS, which torch reads on import, as do the processes of `--gpus N`."""
    if choice != "auto":
        if not choice.isdecimal() or int(choice) < 1:
            raise typer.BadParameter(f"must be auto or a number from 1 on: {choice}")
        os.environ["OMP_NUM_THREADS"] = choice
    return choice


Threads = Annotated[
    str,
    typer.Option(
        "--threads",
        metavar="auto|N",
        callback=_fix_threads,
        help="Threads that compute on a CPU; auto: as many as other programs leave cores for.",
        rich_help_panel=MACHINE,
    ),
]
DeepSpeedFile = Annotated[
    Path | None,
    typer.Option(
        "--deepspeed",
        metavar="FILE",
        help="DeepSpeed's JSON, to tune ZeRO; its `auto` is what the recipe says.",
        rich_help_panel=MACHINE,
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        metavar="N",
        min=1,
        help="Start N processes on this machine, one per GPU.",
        rich_help_panel=MACHINE,
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")
]
