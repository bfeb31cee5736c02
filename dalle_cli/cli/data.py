"""`dalle data`: render, check, compare, pack and encode training data."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import data_app
from dalle_cli.cli.help import MACHINE, add_command
from dalle_cli.cli.options import (
    FORMS,
    INPUT,
    OUTPUT,
    CaptionColumn,
    Device,
    Exclude,
    Gpus,
    ImageColumn,
    Json,
    OptionalDVAERun,
    OptionalFrozenClipName,
    PrecisionToUse,
    Quiet,
    Threads,
)
from dalle_cli.cli.processes import launch_workers
from dalle_cli.console import Terminal
from dalle_cli.errors import UsageError
from dalle_cli.storage.shipped import resolve_run

SCENES = "Scenes"
PICTURES = "Pictures"
COMPARISON = "Comparison"


@add_command(
    data_app,
    example="dalle data shapes shapes/ --pictures 2000 &&\n"
    "  dalle train-dvae dvae/demo --data shapes/train --run runs/dvae",
)
def shapes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    level: Annotated[
        int,
        typer.Option(
            metavar="1|2",
            min=1,
            max=2,
            help="1: one object; 2: two objects and a relation.",
            rich_help_panel=SCENES,
        ),
    ] = 1,
    *,
    pictures: Annotated[
        int,
        typer.Option(metavar="N", min=2, help="Number of pictures.", rich_help_panel=SCENES),
    ] = 6000,
    size: Annotated[
        int, typer.Option(metavar="N", min=16, help="Side in pixels.", rich_help_panel=SCENES)
    ] = 32,
    unseen_share: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0.01,
            max=0.9,
            help="Share of the combinations to leave out of training.",
            rich_help_panel=SCENES,
        ),
    ] = 0.25,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="The same seed gives the same pictures.", rich_help_panel=SCENES
        ),
    ] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render captioned toy scenes to train on.

    Some combinations are never rendered, so that a model can be asked for them later.
    """
    from dalle_cli.commands.data.shapes import run_data_shapes

    run_data_shapes(
        folder,
        Terminal(quiet=quiet, as_json=as_json),
        level=level,
        n_pictures=pictures,
        side=size,
        unseen_share=unseen_share,
        seed=seed,
    )


@add_command(
    data_app,
    example="dalle data emoji emoji/ --size 64 &&\n  dalle train emoji/train --run runs/emoji",
)
def emoji(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    *,
    font: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Font of colour bitmaps, if not the installed NotoColorEmoji.ttf.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder `common` of Unicode's CLDR, if not the installed one.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            metavar="N", min=16, max=512, help="Side in pixels.", rich_help_panel=PICTURES
        ),
    ] = 128,
    ground: Annotated[
        str,
        typer.Option(
            metavar="COLOUR",
            help="Colour behind the emoji: a name, or as in #ffffff.",
            rich_help_panel=PICTURES,
        ),
    ] = "white",
    held_out_share: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            max=0.9,
            help="Share of the concepts to keep out of training.",
            rich_help_panel=PICTURES,
        ),
    ] = 0.1,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Decides which concepts these are.", rich_help_panel=PICTURES
        ),
    ] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render captioned emoji to train on.

    Pictures are those of an installed font, captions Unicode's English names and keywords. All
    skin tones, genders and directions of one thing are on the same side of the split.
    """
    from dalle_cli.commands.data.emoji import EmojiOptions, run_data_emoji

    options = EmojiOptions(
        font=font,
        annotations=annotations,
        side=size,
        ground=ground,
        held_out_share=held_out_share,
        seed=seed,
    )
    run_data_emoji(folder, Terminal(quiet=quiet, as_json=as_json), options)


@add_command(data_app, example="dalle data check 'shards/{000000..000007}.tar'")
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help=f"{FORMS}, or a folder of tokens.",
        ),
    ],
    *,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode every sample and report the bad ones.

    Prints counts, sizes, and what is wrong with each bad sample.
    """
    from dalle_cli.commands.data.check import run_data_check

    run_data_check(
        data,
        Terminal(quiet=quiet, as_json=as_json),
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
    )


@add_command(
    data_app,
    example="dalle data overlap birds/ test-birds/ --out shared/ &&\n"
    "  dalle train birds/ --exclude shared/exclude-train.txt --run runs/birds",
)
def overlap(
    train: Annotated[str, typer.Argument(metavar="TRAIN", help=f"{FORMS}.")],
    test: Annotated[str, typer.Argument(metavar="TEST", help="The same, to measure with.")],
    *,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="CLIP",
            parser=resolve_run,
            help="Compare by this CLIP's embeddings, as `rerank` takes it; by default by "
            "perceptual hashes, which takes the library imagehash.",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CLIP's vocabulary, if it is not next to the CLIP.",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Distance up to which pictures count as copies; by default 30 bits of a hash, or "
            "a cosine distance of 0.1.",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    image_column: ImageColumn = None,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A new folder.", rich_help_panel=OUTPUT),
    ],
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find test pictures among the training pictures.

    Writes the nearest pairs, side by side and as a table, and lists of keys for `--exclude`.
    """
    from dalle_cli.commands.data.overlap import OverlapOptions, run_data_overlap

    options = OverlapOptions(
        training=train,
        test=test,
        out=out,
        image_column=image_column,
        clip=clip,
        tokenizer=tokenizer,
        threshold=threshold,
        device=device,
        precision=precision or "auto",
    )
    run_data_overlap(options, Terminal(quiet=quiet, as_json=as_json))


@add_command(
    data_app,
    example="dalle data pack birds/ --out shards/ &&\n  dalle train shards/ --run runs/birds",
)
def pack(
    data: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help=f"{FORMS}.",
        ),
    ],
    *,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A new folder.", rich_help_panel=OUTPUT),
    ],
    shard_size: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Samples in a shard.", rich_help_panel=OUTPUT),
    ] = 10_000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write tar shards of pictures and captions.

    Pictures are copied as they are. The shards hold the same samples in the same order, and are
    read faster than many small files, from network disks above all.
    """
    from dalle_cli.commands.data.pack import run_data_pack

    run_data_pack(
        data,
        out,
        Terminal(quiet=quiet, as_json=as_json),
        shard_size=shard_size,
        image_column=image_column,
        caption_column=caption_column,
        exclude=exclude,
    )


@add_command(
    data_app,
    example="dalle data encode pictures/ --dvae runs/dvae --out tokens/ --copies 8",
)
def encode(
    data: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help=f"{FORMS}.",
        ),
    ],
    *,
    dvae: OptionalDVAERun = None,
    clip: OptionalFrozenClipName = None,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="New folder, or one to resume.", rich_help_panel=OUTPUT),
    ],
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    exclude: Exclude = None,
    copies: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Random crops of each picture, in addition to the centred one.",
            rich_help_panel=OUTPUT,
        ),
    ] = 4,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Crops encoded at once.", rich_help_panel=MACHINE),
    ] = 16,
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the image tokens or the CLIP embeddings of pictures.

    `dalle train-transformer --data DIR` then learns from the tokens, and `dalle train-prior` from
    the embeddings, without the pictures.
    """
    if (dvae is None) == (clip is None):
        hint = "--dvae makes image tokens, --clip makes embeddings"
        raise UsageError("give either --dvae or --clip", hint)
    if launch_workers(gpus):
        return

    from dalle_cli.commands.data.encode import EncodeOptions, run_data_encode

    options = EncodeOptions(
        data=data,
        image_column=image_column,
        caption_column=caption_column,
        dvae=dvae,
        clip=clip,
        out=out,
        copies=copies,
        batch_size=batch_size,
        device=device,
        precision=precision or "auto",
        exclude=exclude,
    )
    run_data_encode(options, Terminal(quiet=quiet, as_json=as_json))
