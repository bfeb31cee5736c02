"""`dalle generate`, `rerank`, `reconstruct` and `export`: what trained models are for."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.options import Device, Gpus, Json, Precision, Quiet
from dalle_cli.cli.processes import launch_workers
from dalle_cli.console import Terminal
from dalle_cli.storage.run_dir import model_dir

RunToUse = Annotated[Path, typer.Argument(metavar="RUN", help="A run, or an exported one.")]
ClipVocabulary = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="CLIP's vocabulary, where it does not lie beside the CLIP.",
    ),
]

MAX_GUIDANCE = 100  # so that no logits overflow


@app.command(rich_help_panel="Use")
def generate(
    run: RunToUse,
    captions: Annotated[
        list[str] | None, typer.Argument(metavar="CAPTION...", help="What to draw.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Captions: text, one a line (- is the standard input); .csv or .jsonl, as `caption`.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures of each caption.")] = 8,
    temperature: Annotated[
        float, typer.Option(min=0, help="1: as the model has learnt; 0: the likeliest.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(min=0, help="Draw from the k likeliest tokens; 0: from all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens that hold this share; 1: all.")
    ] = 1.0,
    guidance: Annotated[
        float,
        typer.Option(
            min=0,
            max=MAX_GUIDANCE,
            help="Above 1: closer to the caption; wants `loss.caption_dropout`.",
        ),
    ] = 1.0,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the top of this picture, and draw what is below."),
    ] = None,
    keep_rows: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Rows of tokens to keep of it; by default 15 of 32."),
    ] = None,
    redraw: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,COL,ROWS,COLS",
            help="Keep all of it but this box of tokens, counted from 0.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 0,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Pictures drawn side by side; auto: as many as pay and memory holds.",
        ),
    ] = "auto",
    clip: Annotated[
        str | None, typer.Option(metavar="CLIP", help="Rank the pictures by this CLIP.")
    ] = None,
    tokenizer: ClipVocabulary = None,
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="perplexity", help="Rank by how likely the transformer finds its own picture."
        ),
    ] = None,
    best: Annotated[
        int, typer.Option(min=0, help="Keep so many of the n, the best ones; 0: all, in order.")
    ] = 0,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Write the others, too, behind the best.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Show the first of each caption on the terminal.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A new folder, or an unfinished one; by default in the run."
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw pictures of captions: all of them, or the best of many.

    Example: dalle generate runs/dalle "a small red circle at the top left" -n 64 --clip runs/clip --best 8
    """
    _check_ranking(n, clip, tokenizer, rank, best, keep_all)
    for name, value in (("--temperature", temperature), ("--guidance", guidance)):
        if not math.isfinite(value):
            raise typer.BadParameter(f"{value} is not a number to reckon with", param_hint=name)
    box = _check_image(image, keep_rows, redraw)
    if not 0 < top_p <= 1:
        raise typer.BadParameter(f"{top_p} is not above 0 and at most 1", param_hint="--top-p")
    if batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size) > 0):
        raise typer.BadParameter(
            f"{batch_size} is neither auto nor a number above 0", param_hint="--batch-size"
        )
    if gpus is not None and gpus > 1 and prompts == "-":
        raise typer.BadParameter(
            "the standard input can't be read by several processes", param_hint="--prompts"
        )
    if gpus is not None:
        model_dir(run)  # where there is none, it is told once
    if launch_workers(gpus):
        return
    from dalle_cli.commands.generate import GenerateOptions
    from dalle_cli.commands.generate import generate as command
    from dalle_cli.generation.image_prompt import Box, ImagePrompt
    from dalle_cli.generation.prompts import read_captions
    from dalle_cli.generation.sampling import SamplingSettings

    options = GenerateOptions(
        run=run,
        captions=read_captions(captions or [], prompts),
        n=n,
        sampling=SamplingSettings(temperature, top_k, top_p, guidance),
        image=None
        if image is None
        else ImagePrompt(image, keep_rows, None if box is None else Box(*box)),
        seed=seed,
        batch_size=0 if batch_size == "auto" else int(batch_size),
        clip=clip,
        tokenizer=tokenizer,
        by_perplexity=rank is not None,
        best=best,
        keep_all=keep_all,
        device=device,
        precision=precision or "auto",
        out=out,
        show=show,
    )
    command(options, Terminal(quiet, as_json))


def _check_ranking(
    n: int, clip: str | None, tokenizer: Path | None, rank: str | None, best: int, keep_all: bool
) -> None:
    if rank not in (None, "perplexity"):
        raise typer.BadParameter(
            f"{rank} is not perplexity; to rank by a CLIP, give --clip", param_hint="--rank"
        )
    if clip is not None and rank is not None:
        raise typer.BadParameter(
            "pictures are ranked by --clip or by --rank, not by both", param_hint="--rank"
        )
    if tokenizer is not None and clip is None:
        raise typer.BadParameter(
            "it is CLIP's vocabulary, and there is no --clip", param_hint="--tokenizer"
        )
    if best > n:
        raise typer.BadParameter(f"{best} of {n} pictures can't be kept", param_hint="--best")
    if (best or keep_all) and clip is None and rank is None:
        raise typer.BadParameter(
            "nothing says which are the best: give --clip or --rank",
            param_hint="--best / --keep-all",
        )


def _check_image(image: Path | None, keep_rows: int | None, redraw: str | None) -> list[int] | None:
    """Read the four numbers of a box, if there is one."""
    if image is None and (keep_rows is not None or redraw is not None):
        raise typer.BadParameter("there is no --image", param_hint="--keep-rows / --redraw")
    if keep_rows is not None and redraw is not None:
        raise typer.BadParameter(
            "either rows are kept or a box is redrawn, not both", param_hint="--redraw"
        )
    if redraw is None:
        return None
    if not re.fullmatch(r"\d{1,4}(,\d{1,4}){3}", redraw, re.ASCII):
        raise typer.BadParameter(f"{redraw} is not four numbers, as 4,0,4,8", param_hint="--redraw")
    return [int(number) for number in redraw.split(",")]


@app.command(rich_help_panel="Use")
def rerank(
    pictures: Annotated[
        str,
        typer.Argument(
            metavar="PICTURES",
            help="A folder, a .txt list (- is the standard input), or a manifest.",
        ),
    ],
    caption: Annotated[
        str | None,
        typer.Argument(metavar="CAPTION", help="What they should show; by default each its own."),
    ] = None,
    clip: Annotated[
        str,
        typer.Option(
            metavar="CLIP",
            help="A `train-clip` run, or a public checkpoint: file, folder or hub name.",
        ),
    ] = ...,
    tokenizer: ClipVocabulary = None,
    top_k: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many of the best to show and copy, of each caption; tables and --json have all.",
        ),
    ] = 32,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the best here, with a grid and tables.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=0, help="Pictures compared side by side; 0: by the device.")
    ] = 0,
    device: Device = "auto",
    precision: Precision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Order pictures by how well they show a caption, as a CLIP finds, the best first.

    Example: dalle rerank drawn/ "an armchair in the shape of an avocado" --clip ViT-B-32.pt --top-k 8 --out best/
    """
    from dalle_cli.commands.rerank import RerankOptions, run_rerank

    options = RerankOptions(
        pictures, caption, clip, tokenizer, top_k, batch_size, device, precision or "auto", out
    )
    run_rerank(options, Terminal(quiet, as_json))


@app.command(rich_help_panel="Use")
def reconstruct(
    run: RunToUse,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURES...", help="Pictures, and folders of them.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    device: Device = "auto",
    precision: Precision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send pictures through a discrete VAE and back, and lay them side by side.

    Example: dalle reconstruct runs/dvae pictures/ --out compared/
    """
    from dalle_cli.commands.reconstruct import ReconstructOptions, run_reconstruct

    run_reconstruct(
        ReconstructOptions(run, pictures, out, device, precision or "auto"),
        Terminal(quiet, as_json),
    )


@app.command(rich_help_panel="Use")
def export(
    run: RunToUse,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy what `generate` needs into one folder of safetensors and JSON.

    Example: dalle export runs/dalle --out dalle-model
    """
    from dalle_cli.commands.export import run_export

    run_export(run, out, Terminal(quiet, as_json))


@app.command(rich_help_panel="Use")
def demo(
    run: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path(
        "runs/demo"
    ),
    pictures: Annotated[int, typer.Option(min=100, help="Scenes to train on.")] = 6000,
    dvae_set: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Change the dVAE's recipe.")
    ] = [],  # noqa: B006
    transformer_set: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Change the transformer's recipe.")
    ] = [],  # noqa: B006
    clip_set: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Change CLIP's recipe.")
    ] = [],  # noqa: B006
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train everything on toy scenes, draw, rerank, and measure how many pictures show their caption.

    Example: dalle demo
    """
    from dalle_cli.commands.demo import run_demo

    overrides = {"dvae": dvae_set, "transformer": transformer_set, "clip": clip_set}
    run_demo(run, pictures, overrides, Terminal(quiet, as_json))
