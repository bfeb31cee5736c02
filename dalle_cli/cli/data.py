"""`dalle data`: make and look at training data."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import data_app
from dalle_cli.cli.options import Device, Json, Precision, Quiet
from dalle_cli.console import Terminal


@data_app.command()
def shapes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    level: Annotated[
        int, typer.Option(min=1, max=2, help="1: one object; 2: two objects and a relation.")
    ] = 1,
    pictures: Annotated[int, typer.Option(min=2, help="How many to draw.")] = 6000,
    size: Annotated[int, typer.Option(min=16, help="Side in pixels.")] = 32,
    unseen_share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Combinations kept out of training.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw captioned toy scenes; some combinations are never drawn, to be asked for later.

    Example: dalle data shapes shapes/ && dalle train-dvae dvae/demo --data shapes/train --run runs/dvae
    """
    from dalle_cli.commands.data.shapes import run_data_shapes

    run_data_shapes(folder, level, pictures, size, unseen_share, seed, Terminal(quiet, as_json))


@data_app.command()
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Folder (of tokens, too), tar shards, or a CSV/JSONL file."
        ),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read and decode every sample; print counts, sizes, and what is wrong with each bad one.

    Example: dalle data check 'shards/{000000..000007}.tar'
    """
    from dalle_cli.commands.data.check import run_data_check

    run_data_check(data, Terminal(quiet, as_json))


@data_app.command()
def encode(
    data: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Captioned pictures: folder, tar shards, or a CSV/JSONL."
        ),
    ],
    dvae: Annotated[
        Path, typer.Option(metavar="RUN", help="The discrete VAE whose tokens they become.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one to go on with.")],
    copies: Annotated[
        int, typer.Option(min=1, help="Random crops of each picture, beside the centred one.")
    ] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops encoded side by side.")] = 16,
    device: Device = "auto",
    precision: Precision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the image tokens of captioned pictures, for `train-transformer --data DIR` to learn without the pictures.

    Example: dalle data encode pictures/ --dvae runs/dvae --out tokens/ --copies 8
    """
    from dalle_cli.commands.data.encode import EncodeOptions, run_data_encode

    options = EncodeOptions(data, dvae, out, copies, batch_size, device, precision or "auto")
    run_data_encode(options, Terminal(quiet, as_json))
