"""Options that several commands share, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe's path, or the name of a shipped one.")
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a recipe key, as in training.steps=500."
    ),
]
DataSource = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SRC",
        help="Folder of pictures and captions, tar shards, or a CSV/JSONL file.",
    ),
]
PairSource = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SRC",
        help="Folder of pictures and captions, or of tokens (`dalle data encode`); tar shards; CSV/JSONL file.",
    ),
]
ValidSource = Annotated[
    str | None,
    typer.Option(
        "--valid", metavar="SRC", help="Held-out data; otherwise a share of --data is held out."
    ),
]
RunFolder = Annotated[
    Path, typer.Option("--run", metavar="DIR", help="The run's folder, new or to be resumed.")
]
Resume = Annotated[
    str,
    typer.Option(
        "--resume",
        metavar="auto|never|PATH",
        help="Go on from the newest checkpoint, or from this one.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what would be done, and stop.")
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|fp16",
        help="Arithmetic of the residual branches; CLIP does not train in fp16.",
    ),
]
DeepSpeedFile = Annotated[
    Path | None,
    typer.Option(
        "--deepspeed",
        metavar="FILE",
        help="Tunes ZeRO by DeepSpeed's own JSON; `auto` is what the recipe says.",
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", metavar="N", min=1, help="Start so many processes here, one for each GPU."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but results, warnings and errors.")
]
