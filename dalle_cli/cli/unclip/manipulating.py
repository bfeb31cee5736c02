"""`dalle vary`, `blend` and `project`: pictures from pictures, by way of CLIP's embedding."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.help import USE, add_command
from dalle_cli.cli.options import (
    FORMS,
    INPUT,
    OUTPUT,
    Checkpoint,
    Device,
    ImageColumn,
    Json,
    PrecisionToUse,
    Quiet,
    Threads,
    run_path,
)
from dalle_cli.cli.unclip.options import UNCLIP, DecoderGuidance, DecoderSteps
from dalle_cli.console import Terminal

if TYPE_CHECKING:
    from dalle_cli.generation.unclip.painting import PaintOptions

VARIATION, PATH = "Variation", "Path"
ETA, STRENGTH = 0.5, 0.5  # where nothing else is asked for

DecoderToUse = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", parser=run_path, help="A decoder's run, an exported one, or a shipped model."
    ),
]
PaintSeed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", help="The same seed gives the same pictures.", rich_help_panel=UNCLIP
    ),
]
NewFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="New folder; by default inside the run, or samples/NAME for a shipped model.",
        rich_help_panel=OUTPUT,
    ),
]


def _paint_options(
    run: Path,
    *,
    checkpoint: str | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    device: str,
    precision: str | None,
    out: Path | None,
) -> "PaintOptions":
    from dalle_cli.generation.unclip.painting import PaintOptions
    from dalle_cli.generation.unclip.settings import choose_unclip_sampling
    from dalle_cli.storage.model_about import read_sampling_advice
    from dalle_cli.storage.run_dir import RunDir

    advice = read_sampling_advice(RunDir(run))
    return PaintOptions(
        run=run,
        checkpoint=checkpoint,
        sampling=choose_unclip_sampling(advice, steps=steps, guidance=guidance),
        seed=seed,
        device=device,
        precision=precision or "auto",
        out=out,
    )


@add_command(app, panel=USE, example="dalle vary runs/decoder cat.png -n 8 --out variations/")
def vary(
    run: DecoderToUse,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURES", help="Pictures, and folders of them.")
    ],
    *,
    checkpoint: Checkpoint = None,
    n: Annotated[
        int,
        typer.Option(
            "-n", metavar="N", min=1, help="Variations of each.", rich_help_panel=VARIATION
        ),
    ] = 8,
    invert: Annotated[
        bool,
        typer.Option(
            "--invert",
            help="Begin with the picture's own noise, found by DDIM: the layout stays.",
            rich_help_panel=VARIATION,
        ),
    ] = False,
    eta: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="With --invert, how much noise is added on the way; 0: the picture itself; by "
            "default 0.5.",
            rich_help_panel=VARIATION,
        ),
    ] = None,
    steps: DecoderSteps = None,
    guidance: DecoderGuidance = None,
    seed: PaintSeed = 0,
    out: NewFolder = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Paint pictures with the meaning of others.

    Each has the embedding that CLIP gives to the original, and other details.
    """
    if eta is not None and not invert:
        raise typer.BadParameter("it needs --invert", param_hint="--eta")

    from dalle_cli.commands.unclip.vary import VaryOptions, run_vary

    options = _paint_options(
        run,
        checkpoint=checkpoint,
        steps=steps,
        guidance=guidance,
        seed=seed,
        device=device,
        precision=precision,
        out=out,
    )
    inverted = (ETA if eta is None else eta) if invert else None
    varied = VaryOptions(pictures, n, inverted)
    run_vary(options, varied, Terminal(quiet=quiet, as_json=as_json))


@add_command(
    app,
    panel=USE,
    example="dalle blend runs/decoder cat.png dog.png -n 7 --out between/",
)
def blend(
    run: DecoderToUse,
    first: Annotated[Path, typer.Argument(metavar="A", help="The picture to begin with.")],
    last: Annotated[
        Path | None,
        typer.Argument(metavar="B", help="The picture to end with, unless there is --to."),
    ] = None,
    *,
    checkpoint: Checkpoint = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="CAPTION",
            help="In place of B: go towards this text.",
            rich_help_panel=PATH,
        ),
    ] = None,
    away_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CAPTION",
            help="What A shows: only the difference of both texts counts.",
            rich_help_panel=PATH,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="How far towards the text; published: 0.25 to 0.5, by default 0.5.",
            rich_help_panel=PATH,
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option(
            "-n",
            metavar="N",
            min=2,
            help="Pictures on the way, both ends included.",
            rich_help_panel=PATH,
        ),
    ] = 7,
    steps: DecoderSteps = None,
    guidance: DecoderGuidance = None,
    seed: PaintSeed = 0,
    out: NewFolder = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Paint the way from a picture to another, or to a text.

    Both the embedding and the noise of a picture are blended; towards a text, the embedding alone.
    """
    _check_ends(last, to=to, away_from=away_from, strength=strength)

    from dalle_cli.commands.unclip.blend import TextChange, run_blend

    options = _paint_options(
        run,
        checkpoint=checkpoint,
        steps=steps,
        guidance=guidance,
        seed=seed,
        device=device,
        precision=precision,
        out=out,
    )
    end: Path | TextChange
    if last is not None:
        end = last
    else:
        assert to is not None  # as was checked
        end = TextChange(to, away_from, STRENGTH if strength is None else strength)
    run_blend(options, first, end, n=n, terminal=Terminal(quiet=quiet, as_json=as_json))


def _check_ends(
    last: Path | None, *, to: str | None, away_from: str | None, strength: float | None
) -> None:
    if (last is None) == (to is None):
        raise typer.BadParameter("give either a picture B or --to, as the end", param_hint="B")
    if to is None and (away_from is not None or strength is not None):
        raise typer.BadParameter("it goes with --to", param_hint="--from / --strength")
    if any(text is not None and not text.strip() for text in (to, away_from)):
        raise typer.BadParameter("an empty caption", param_hint="--from / --to")


def _component_counts(text: str) -> tuple[int, ...]:
    """Parse numbers such as 1,2,4."""
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", text, re.ASCII):
        message = f"must be numbers above 0 such as 1,2,4: {text}"
        raise typer.BadParameter(message, param_hint="--components")
    return tuple(map(int, text.split(",")))


@add_command(
    app,
    panel=USE,
    example="dalle project runs/decoder cat.png --data pictures/ \\\n  --components 1,2,4,8,16",
)
def project(
    run: DecoderToUse,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURES", help="Pictures, and folders of them.")
    ],
    *,
    checkpoint: Checkpoint = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="SRC",
            help="Whose embeddings the components are found in: "
            f"{FORMS[0].lower()}{FORMS[1:]}, or a folder of `dalle data encode --clip`.",
            rich_help_panel=INPUT,
        ),
    ],
    image_column: ImageColumn = None,
    components: Annotated[
        str,
        typer.Option(
            metavar="K,K,...",
            help="How many principal components to keep, for each picture of a row.",
            rich_help_panel=PATH,
        ),
    ] = "1,2,4,8,16,32",
    steps: DecoderSteps = None,
    guidance: DecoderGuidance = None,
    seed: PaintSeed = 0,
    out: NewFolder = None,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Paint pictures from few components of their meaning.

    Shows what the first principal components of CLIP's embeddings hold of each picture.
    """
    counts = _component_counts(components)

    from dalle_cli.commands.unclip.project import ProjectOptions, run_project

    options = _paint_options(
        run,
        checkpoint=checkpoint,
        steps=steps,
        guidance=guidance,
        seed=seed,
        device=device,
        precision=precision,
        out=out,
    )
    projected = ProjectOptions(pictures, data, image_column, counts)
    run_project(options, projected, Terminal(quiet=quiet, as_json=as_json))
