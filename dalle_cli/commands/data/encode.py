"""`dalle data encode`: encodes captioned pictures, so that training need not run the dVAE."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dalle_cli.commands.data.token_encoding import TokenEncoder
from dalle_cli.commands.data.token_folder import write_missing
from dalle_cli.console import Terminal
from dalle_cli.data.images import DECODING_VERSION
from dalle_cli.data.preprocessing import EncodingPreprocessing
from dalle_cli.data.sources import Columns, open_dataset
from dalle_cli.data.token_shards import Encoding, write_record
from dalle_cli.errors import printable
from dalle_cli.loading import dvae_checksum, load_dvae_encoder
from dalle_cli.recipe import fitting_transformer
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.storage.job_folder import JobFolder


@dataclass(frozen=True)
class EncodeOptions:
    """The command line of `data encode`."""

    data: str
    image_column: str | None
    caption_column: str | None
    dvae: Path
    out: Path
    copies: int
    batch_size: int
    device: str
    precision: str
    exclude: Path | None = None


def run_data_encode(options: EncodeOptions, terminal: Terminal) -> None:
    """Write the tokens of every sample's crops; the same command resumes an unfinished folder.

    Bad samples are reported, recorded and left out. Raises DalleError for what a user can cause.
    """
    folder = JobFolder.open(options.out)
    columns = Columns(options.image_column, options.caption_column)
    source = open_dataset(
        options.data, captions_required=True, columns=columns, exclude=options.exclude
    )
    terminal.say(f"data: {printable(source.name)}: {source.form}")
    terminal.warn_about(source.problems)

    choice = folder.recall_choice("precision", options.precision)
    device, precision = open_device(options.device, choice)
    dvae = load_dvae_encoder(options.dvae)
    # torch's stubs lack memory_format
    dvae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply_precision(dvae, precision, device)

    encoding = Encoding(
        dvae=dvae_checksum(options.dvae),
        precision=precision,
        grid_size=dvae.grid_size,
        vocab_size=dvae.vocab_size,
        copies=options.copies,
        decoding=DECODING_VERSION,
    )
    job = {"command": "data encode", "data": source.fingerprint(), **encoding.model_dump()}

    preprocessing = EncodingPreprocessing(dvae.image_size, options.copies)
    encoder = TokenEncoder(
        source=source, dvae=dvae, preprocessing=preprocessing, batch_size=options.batch_size
    )
    with folder.writing(job), explain_out_of_memory():
        n_shards = write_missing(options.out, encoder, encoding, terminal)
        record = write_record(
            options.out,
            encoding,
            n_shards=n_shards,
            problems=source.problems,
            n_lost=source.n_lost,
        )

    terminal.say(f"{record.samples:,} samples encoded, {len(record.bad):,} bad ones left out")
    fitting = fitting_transformer(encoding.grid_size, encoding.vocab_size)
    inputs = ["--data", str(options.out), "--dvae", str(options.dvae)]
    terminal.suggest(["train-transformer", fitting, *inputs, "--run", "DIR"])
    facts = {
        "out": str(options.out),
        "samples": record.samples,
        "copies": options.copies,
        "bad": len(record.bad),
    }
    terminal.result(str(options.out), facts)
