"""`dalle data encode`: encodes captioned pictures, so that training need not run a frozen model."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dalle_cli.commands.data.clip_encoding import EmbeddingFormat, embedding_format
from dalle_cli.commands.data.crop_encoding import SampleEncoder
from dalle_cli.commands.data.encoded_folder import write_missing
from dalle_cli.commands.data.token_encoding import TokenFormat, token_format
from dalle_cli.console import Terminal
from dalle_cli.data.sources import Columns, open_dataset
from dalle_cli.errors import printable
from dalle_cli.recipe import fitting_transformer
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.runtime.precision import Precision
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.storage.job_folder import JobFolder


@dataclass(frozen=True)
class EncodeOptions:
    """The command line of `data encode`.

    dvae  makes image tokens of pictures; None where there is a `clip`
    clip  makes embeddings of pictures and captions
    """

    data: str
    image_column: str | None
    caption_column: str | None
    dvae: Path | None
    clip: str | None
    out: Path
    copies: int
    batch_size: int
    device: str
    precision: str
    exclude: Path | None = None


def run_data_encode(options: EncodeOptions, terminal: Terminal) -> None:
    """Write what a model makes of every sample; the same command resumes an unfinished folder.

    Several processes write what one does. Bad samples are reported, recorded and left out. Raises
    DalleError for what a user can cause.
    """
    folder = JobFolder.open(options.out)
    columns = Columns(options.image_column, options.caption_column)
    source = open_dataset(
        options.data, captions_required=True, columns=columns, exclude=options.exclude
    )
    terminal.say(f"data: {printable(source.name)}: {source.form}")
    terminal.warn_about(source.problems)

    choice = folder.recall_choice("precision", options.precision)
    device, precision = open_device(options.device, choice, say=terminal.say)
    with init_process_group(device) as world:
        precision = world.broadcast(precision)
        shards = _shard_format(options, world.device, precision)
        encoding = shards.encoding.model_dump()
        job = {"command": "data encode", "data": source.fingerprint(), **encoding}
        folder.check(job, is_complete=True)  # on every rank, told once

        with folder.writing(job) if world.is_main else nullcontext(), explain_out_of_memory():
            encoder: SampleEncoder[Any] = SampleEncoder(source, shards, options.batch_size)
            n_shards = write_missing(options.out, encoder, terminal, world=world)
            if not world.is_main:
                return
            record = shards.write_record(options.out, n_shards, source)

    terminal.say(f"{record.samples:,} samples encoded, {len(record.bad):,} bad ones left out")
    terminal.suggest([*_next_command(options, shards), "--run", "DIR"])
    facts = {
        "out": str(options.out),
        "samples": record.samples,
        "copies": options.copies,
        "bad": len(record.bad),
    }
    terminal.result(str(options.out), facts)


def _shard_format(
    options: EncodeOptions, device: torch.device, precision: Precision
) -> TokenFormat | EmbeddingFormat:
    """Load the model that encodes; raises DalleError if there is none."""
    copies, batch_size = options.copies, options.batch_size
    if options.dvae is not None:
        return token_format(
            options.dvae, copies=copies, batch_size=batch_size, device=device, precision=precision
        )
    assert options.clip is not None  # as the command line checks
    return embedding_format(
        options.clip, copies=copies, batch_size=batch_size, device=device, precision=precision
    )


def _next_command(options: EncodeOptions, shards: TokenFormat | EmbeddingFormat) -> list[str]:
    """Return the beginning of the command that trains on the folder."""
    data = ["--data", str(options.out)]
    if isinstance(shards, EmbeddingFormat):
        return ["train-prior", "RECIPE", *data, "--clip", str(options.clip)]
    fitting = fitting_transformer(shards.encoding.grid_size, shards.encoding.vocab_size)
    return ["train-transformer", fitting, *data, "--dvae", str(options.dvae)]
