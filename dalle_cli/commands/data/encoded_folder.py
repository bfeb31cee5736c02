"""The shards of a folder of `dalle data encode`: those there, and those still to be written.

Several processes each encode whole batches of a shard, which the main one writes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dalle_cli.commands.data.crop_encoding import EncodedPart, SampleEncoder, read_checked
from dalle_cli.commands.data.shard_format import ShardFormat
from dalle_cli.console import Terminal, advance_for_all
from dalle_cli.data.sources import Source
from dalle_cli.data.token_shards import AGAIN, SHARD_SAMPLES
from dalle_cli.errors import UsageError, printable
from dalle_cli.runtime.distributed import World


def write_missing(
    folder: Path, encoder: SampleEncoder[Any], terminal: Terminal, *, world: World
) -> int:
    """Encode and write the shards that the folder lacks; returns the number of all shards.

    Every rank takes part. Raises UsageError, before anything is written, if a sample has changed
    since it was encoded.
    """
    everything, form = range(len(encoder.source)), encoder.shards
    shards = {
        form.path(folder, number): everything[start : start + SHARD_SAMPLES]
        for number, start in enumerate(everything[::SHARD_SAMPLES])
    }
    there = world.broadcast({path: shard for path, shard in shards.items() if path.is_file()})
    n_done = sum(map(len, there.values()))
    if there:
        terminal.say(f"{n_done:,} samples are there already; checking that they have not changed")
        _check_unchanged(folder, there, encoder=encoder, terminal=terminal, world=world)

    mib = form.bytes_of(len(everything)) / 2**20
    crops = f"{len(everything):,} samples of {1 + form.copies} crops, {mib:.1f} MiB"
    terminal.say(f"writing {folder}: {crops}")

    with terminal.progress(len(everything), n_done, "sample") as line:
        for path in [path for path in shards if path not in there]:
            share = _share(shards[path], encoder, world)
            advance = advance_for_all(line.advance, n_ours=len(share), n_all=len(shards[path]))
            part = encoder.encode(share, advance)
            world.reach(f"the end of {path.name}")
            parts = world.gather([part])
            if world.is_main:
                _write(path, parts, form=form, terminal=terminal)
    return len(shards)


def _share(shard: range, encoder: SampleEncoder[Any], world: World) -> range:
    """Return the part of a shard's samples that this process encodes or checks."""
    positions = world.share_of_batches(len(shard), encoder.batch_size)
    return shard[positions.start : positions.stop]


def _write(
    path: Path, parts: list[EncodedPart[Any]], *, form: ShardFormat[Any], terminal: Terminal
) -> None:
    """Write a shard of what all processes have encoded of it."""
    samples, bad, checksums = (
        list(chain.from_iterable(of_all)) for of_all in zip(*parts, strict=True)
    )
    for key, reason in bad:
        terminal.warn(f"skipped {printable(key)}: {reason}")
    digests = np.frombuffer(b"".join(checksums), np.uint8).reshape(-1, 32)
    form.write(path, samples, bad=bad, checksums=digests)


def _check_unchanged(
    folder: Path,
    shards: dict[Path, range],
    *,
    encoder: SampleEncoder[Any],
    terminal: Terminal,
    world: World,
) -> None:
    changed: list[str] = []
    with terminal.progress(sum(map(len, shards.values())), 0, "sample") as line:
        for path, shard in shards.items():
            share = _share(shard, encoder, world)
            advance = advance_for_all(line.advance, n_ours=len(share), n_all=len(shard))
            now = list(_checksums(encoder.source, share, advance))
            world.reach(f"the end of {path.name}")
            now = world.gather(now)
            if world.is_main:
                then = encoder.shards.checksums(path)
                changed += _changed_keys(encoder.source, shard, then=then, now=now)

    changed = world.broadcast(changed)
    if changed:
        raise UsageError(
            f"{folder} was encoded from other samples: {len(changed):,} have changed since, "
            f"such as {printable(changed[0])}",
            AGAIN,
        )


def _checksums(source: Source, indices: range, advance: Callable[[], None]) -> Iterator[bytes]:
    """Yield the checksums of samples as they are now."""
    with ThreadPoolExecutor() as pool:
        for read in pool.map(lambda index: read_checked(source, index), indices):
            yield read.checksum
            advance()


def _changed_keys(
    source: Source, shard: range, *, then: np.ndarray, now: list[bytes]
) -> Iterator[str]:
    """Yield the keys of samples that have other checksums now than then, uint8 [M, 32]."""
    for index, before, checksum in zip(shard, then, now, strict=False):
        if checksum != before.tobytes():
            yield source.key(index)
