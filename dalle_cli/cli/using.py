"""`dalle rerank`, `reconstruct`, `export`, `serve` and `demo`: what trained models are for."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.help import MACHINE, TRAIN, USE, add_command
from dalle_cli.cli.options import (
    INPUT,
    OUTPUT,
    RANKING,
    RECIPE,
    RUN,
    Checkpoint,
    ClipVocabulary,
    Device,
    Gpus,
    Json,
    PrecisionToUse,
    Quiet,
    RunToUse,
    Threads,
    run_path,
)
from dalle_cli.cli.processes import launch_workers, refuse_standard_input
from dalle_cli.console import Terminal
from dalle_cli.storage.shipped import resolve_run

SERVER = "Server"


@add_command(
    app,
    panel=USE,
    example='dalle rerank pictures/ "an armchair in the shape of an avocado" \\\n'
    "  --clip ViT-B-32.pt --top-k 8 --out best/",
)
def rerank(
    pictures: Annotated[
        str,
        typer.Argument(
            metavar="PICTURES",
            help="Folder, .txt list (- is standard input), or table that names pictures.",
        ),
    ],
    caption: Annotated[
        str | None,
        typer.Argument(
            metavar="CAPTION",
            help="What they should show; by default the caption of each.",
        ),
    ] = None,
    *,
    clip: Annotated[
        str,
        typer.Option(
            metavar="CLIP",
            parser=resolve_run,
            help="A `train-clip` run, a shipped model, or a public checkpoint: file, folder or "
            "hub name.",
            rich_help_panel=RANKING,
        ),
    ],
    tokenizer: ClipVocabulary = None,
    top_k: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=1,
            help="How many of the best to show and copy per caption; tables and --json have all.",
            rich_help_panel=RANKING,
        ),
    ] = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Copy the best here, with a grid and tables.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Pictures embedded at once; 0: what suits the device.",
            rich_help_panel=MACHINE,
        ),
    ] = 0,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rank pictures by how well they match a caption.

    A CLIP scores them; the best come first.
    """
    refuse_standard_input(pictures, gpus, hint="PICTURES")
    if launch_workers(gpus):
        return

    from dalle_cli.commands.rerank import RerankOptions, run_rerank

    options = RerankOptions(
        pictures=pictures,
        caption=caption,
        clip=clip,
        tokenizer=tokenizer,
        top_k=top_k,
        batch_size=batch_size,
        device=device,
        precision=precision or "auto",
        out=out,
    )
    run_rerank(options, Terminal(quiet=quiet, as_json=as_json))


@add_command(app, panel=USE, example="dalle reconstruct runs/dvae pictures/ --out compared/")
def reconstruct(
    run: RunToUse,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURES", help="Pictures, and folders of them.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.", rich_help_panel=OUTPUT)],
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode and decode pictures, and compare them.

    RUN is a discrete VAE's, or a transformer's, which has a copy of its dVAE.
    """
    if launch_workers(gpus):
        return

    from dalle_cli.commands.reconstruct import ReconstructOptions, run_reconstruct

    run_reconstruct(
        ReconstructOptions(run, pictures, out, device, precision or "auto"),
        Terminal(quiet=quiet, as_json=as_json),
    )


@add_command(
    app,
    panel=USE,
    example="dalle export runs/dalle --clip runs/clip --half --out dalle-model",
)
def export(
    run: RunToUse,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.", rich_help_panel=OUTPUT)],
    *,
    checkpoint: Checkpoint = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            parser=run_path,
            help="Also export this CLIP, so that the folder can rank its own pictures.",
            rich_help_panel=RANKING,
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            parser=run_path,
            help="Also export this prior with a decoder, so that the folder takes captions.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option(
            "--half",
            help="Store matrices in fp16, for half the size; vectors stay fp32, and all is "
            "computed as before.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx",
            help="Also write the discrete VAE's encoder and decoder as ONNX, in fp32.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy what `generate` needs into one folder.

    The folder holds safetensors and JSON, and a model card that says what they are.
    """
    from dalle_cli.commands.export import ExportOptions, run_export

    options = ExportOptions(
        run, out, clip=clip, prior=prior, checkpoint=checkpoint, half=half, onnx=onnx
    )
    run_export(options, Terminal(quiet=quiet, as_json=as_json))


@add_command(app, panel=USE, example="dalle serve emoji")
def serve(
    run: RunToUse,
    *,
    checkpoint: Checkpoint = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="CLIP",
            parser=resolve_run,
            help="A CLIP that can rank the pictures; by default the one that an export brings.",
            rich_help_panel=RANKING,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="Listen at this address; with any but this machine's own, the page needs a token.",
            rich_help_panel=SERVER,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="Listen at this port; 0: any free one.",
            rich_help_panel=SERVER,
        ),
    ] = 8000,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try a model on a page in the browser.

    The address is printed; only this machine can open it unless --host says otherwise.
    """
    from dalle_cli.commands.serving.serve import ServeOptions, run_serve

    options = ServeOptions(
        run=run,
        checkpoint=checkpoint,
        clip=clip,
        host=host,
        port=port,
        device=device,
        precision=precision or "auto",
    )
    run_serve(options, Terminal(quiet=quiet, as_json=as_json))


@add_command(app, panel=TRAIN, example="dalle demo")
def demo(
    run: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for everything.", rich_help_panel=RUN)
    ] = Path("runs/demo"),
    pictures: Annotated[
        int,
        typer.Option(metavar="N", min=100, help="Scenes to train on.", rich_help_panel=INPUT),
    ] = 6000,
    *,
    dvae_set: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUE", help="Change the dVAE's recipe.", rich_help_panel=RECIPE),
    ] = [],  # noqa: B006  typer copies it
    transformer_set: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="Change the transformer's recipe.", rich_help_panel=RECIPE
        ),
    ] = [],  # noqa: B006  typer copies it
    clip_set: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUE", help="Change CLIP's recipe.", rich_help_panel=RECIPE),
    ] = [],  # noqa: B006  typer copies it
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train all three models on toy scenes and measure them.

    Then generates and reranks pictures, and counts how many show their caption.
    """
    from dalle_cli.commands.demo import run_demo

    overrides = {"dvae": dvae_set, "transformer": transformer_set, "clip": clip_set}
    run_demo(run, pictures, overrides, Terminal(quiet=quiet, as_json=as_json))
