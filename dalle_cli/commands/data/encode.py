"""`dalle data encode`: captioned pictures to image tokens, so that training a transformer need not run the dVAE."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dalle_cli.console import Terminal
from dalle_cli.data.images import BadSample
from dalle_cli.data.loader import read_sample
from dalle_cli.data.preprocessing import EncodingPreprocessing
from dalle_cli.data.sources import Problem, Source, open_dataset
from dalle_cli.data.token_shards import (
    SHARD_SAMPLES,
    EncodedSample,
    Encoding,
    shard_path,
    write_record,
    write_shard,
)
from dalle_cli.loading import dvae_checksum, load_dvae_encoder
from dalle_cli.models.dvae import DVAEEncoder
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.scoring.embeddings import prefetch
from dalle_cli.storage.atomic import exclusive_lock
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.untrusted import printable


@dataclass(frozen=True)
class EncodeOptions:
    """What the command line says."""

    data: str
    dvae: Path
    out: Path
    copies: int
    batch_size: int
    device: str
    precision: str


@dataclass(frozen=True)
class CutSample:
    """A sample's crops uint8 [C, H, W, 3], or why there are none."""

    key: str
    captions: list[str]
    crops: np.ndarray
    problem: str | None = None


def data_encode(options: EncodeOptions, terminal: Terminal) -> None:
    """Write the tokens of every sample's crops; the same command goes on with a folder it did not finish.

    Bad samples are told, recorded and left out. Raises DalleError for what a user can cause.
    """
    folder = JobFolder.open(options.out)
    source = open_dataset(options.data, captions_required=True)
    terminal.warn_about(source.problems)
    choice = folder.recall_choice("precision", options.precision)
    device, precision = open_device(options.device, choice)
    dvae = load_dvae_encoder(options.dvae).to(device, memory_format=torch.channels_last)
    apply_precision(dvae, precision, device)
    encoding = Encoding(
        dvae=dvae_checksum(options.dvae),
        precision=precision,
        grid_size=dvae.grid_size,
        vocab_size=dvae.vocab_size,
        copies=options.copies,
    )
    folder.begin({"command": "data encode", "data": source.fingerprint(), **encoding.model_dump()})
    shards = [
        range(len(source))[start : start + SHARD_SAMPLES]
        for start in range(0, len(source), SHARD_SAMPLES)
    ]
    with exclusive_lock(options.out), explain_out_of_memory():
        _encode_missing(options, source, shards, encoding, dvae, terminal)
        record = write_record(options.out, encoding, n_shards=len(shards), problems=source.problems)
    terminal.say(f"{record.samples:,} samples encoded, {len(record.bad):,} bad ones left out")
    terminal.say(
        f"next: dalle train-transformer RECIPE --data {options.out} --dvae {options.dvae} --run DIR"
    )
    facts = {
        "out": str(options.out),
        "samples": record.samples,
        "copies": options.copies,
        "bad": len(record.bad),
    }
    terminal.result(str(options.out), facts)


def _encode_missing(
    options: EncodeOptions,
    source: Source,
    shards: list[range],
    encoding: Encoding,
    dvae: DVAEEncoder,
    terminal: Terminal,
) -> None:
    """Write the shards that a folder lacks; each has its range of the source's samples."""
    missing = {
        n: indices for n, indices in enumerate(shards) if not shard_path(options.out, n).is_file()
    }
    done = len(source) - sum(map(len, missing.values()))
    n_tokens = math.prod(encoding.shape(len(source)))
    there = f"; {done:,} samples are there already" if done else ""
    terminal.say(
        f"writing {options.out}: {len(source):,} samples of {1 + options.copies} crops, "
        f"{n_tokens * encoding.dtype.itemsize / 2**20:.1f} MiB{there}"
    )
    prepare = EncodingPreprocessing(dvae.image_size, options.copies)
    with terminal.progress(len(source), done, "sample") as line, ThreadPoolExecutor() as pool:
        for number, indices in missing.items():
            samples: list[EncodedSample] = []
            bad: list[Problem] = []
            for batch in prefetch(pool, partial(cut, source, prepare), indices, options.batch_size):
                bad += [(one.key, one.problem) for one in batch if one.problem is not None]
                samples += encode(
                    [one for one in batch if one.problem is None], dvae, options.batch_size
                )
                for _ in batch:
                    line.advance()
            for key, reason in bad:
                terminal.warn(f"skipped {printable(key)}: {reason}")
            write_shard(shard_path(options.out, number), encoding, samples=samples, bad=bad)


def cut(source: Source, prepare: EncodingPreprocessing, index: int) -> CutSample:
    """Read a sample and cut its crops, or say why that cannot be done."""
    try:
        sample = read_sample(source, index)
        return CutSample(sample.key, sample.captions, prepare(sample, index))
    except BadSample as problem:
        return CutSample(source.key(index), [], np.empty(0, np.uint8), problem.reason)


@torch.inference_mode()
def encode(samples: list[CutSample], dvae: DVAEEncoder, batch_size: int) -> list[EncodedSample]:
    """Turn every crop into tokens, so many at a time."""
    if not samples:
        return []
    device = next(dvae.parameters()).device
    crops = torch.from_numpy(np.concatenate([one.crops for one in samples])).permute(
        0, 3, 1, 2
    )  # [N * C, 3, H, W]
    parts = [
        dvae.image_tokens(part.to(device).float() / 255).cpu() for part in crops.split(batch_size)
    ]
    tokens = torch.cat(parts).view(len(samples), -1, dvae.grid_size**2).numpy()  # [N, C, I]
    return [
        EncodedSample(one.key, one.captions, own) for one, own in zip(samples, tokens, strict=True)
    ]
