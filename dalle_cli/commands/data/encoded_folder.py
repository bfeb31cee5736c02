"""The shards of a folder of `dalle data encode`: those there, and those still to be written."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dalle_cli.commands.data.crop_encoding import SampleEncoder, read_checked
from dalle_cli.console import Terminal
from dalle_cli.data.sources import Source
from dalle_cli.data.token_shards import AGAIN, SHARD_SAMPLES
from dalle_cli.errors import UsageError, printable


def write_missing(folder: Path, encoder: SampleEncoder[Any], terminal: Terminal) -> int:
    """Encode and write the shards that the folder lacks; returns the number of all shards.

    Raises UsageError, before anything is written, if a sample has changed since it was encoded.
    """
    everything, form = range(len(encoder.source)), encoder.shards
    shards = {
        form.path(folder, number): everything[start : start + SHARD_SAMPLES]
        for number, start in enumerate(everything[::SHARD_SAMPLES])
    }
    there = {path: shard for path, shard in shards.items() if path.is_file()}
    n_done = sum(map(len, there.values()))
    if there:
        terminal.say(f"{n_done:,} samples are there already; checking that they have not changed")
        _check_unchanged(folder, there, encoder=encoder, terminal=terminal)

    mib = form.bytes_of(len(everything)) / 2**20
    crops = f"{len(everything):,} samples of {1 + form.copies} crops, {mib:.1f} MiB"
    terminal.say(f"writing {folder}: {crops}")

    with terminal.progress(len(everything), n_done, "sample") as line:
        for path in [path for path in shards if path not in there]:
            samples, bad, checksums = encoder.encode(shards[path], line.advance)
            for key, reason in bad:
                terminal.warn(f"skipped {printable(key)}: {reason}")
            form.write(path, samples, bad=bad, checksums=checksums)
    return len(shards)


def _check_unchanged(
    folder: Path, shards: dict[Path, range], *, encoder: SampleEncoder[Any], terminal: Terminal
) -> None:
    changed: list[str] = []
    with terminal.progress(sum(map(len, shards.values())), 0, "sample") as line:
        for path, shard in shards.items():
            checksums = encoder.shards.checksums(path)
            changed += _changed_keys(encoder.source, shard, checksums, line.advance)
    if changed:
        raise UsageError(
            f"{folder} was encoded from other samples: {len(changed):,} have changed since, "
            f"such as {printable(changed[0])}",
            AGAIN,
        )


def _changed_keys(
    source: Source, shard: range, checksums: np.ndarray, advance: Callable[[], None]
) -> Iterator[str]:
    """Yield the keys of samples whose checksums, uint8 [M, 32], are others now."""
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda index: read_checked(source, index).checksum, shard)
        for index, then, now in zip(shard, checksums, read, strict=False):
            if now != then.tobytes():
                yield source.key(index)
            advance()
