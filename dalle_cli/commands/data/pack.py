"""`dalle data pack`: writes the samples of any source to tar shards."""

from pathlib import Path

from dalle_cli.console import Terminal
from dalle_cli.data.images import BadSample
from dalle_cli.data.loader import read_sample
from dalle_cli.data.sources import Columns, Problem, Source, open_dataset
from dalle_cli.data.sources.tar.packing import ShardWriter, is_packable
from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.atomic import atomic_folder
from dalle_cli.storage.run_dir import check_new_folder


def run_data_pack(
    spec: str,
    out: Path,
    terminal: Terminal,
    *,
    shard_size: int,
    image_column: str | None,
    caption_column: str | None,
    exclude: Path | None,
) -> None:
    """Write pictures, as they are, and captions to shards of `shard_size` samples in a new folder.

    Samples that cannot be read are reported and left out. An interrupted command leaves nothing in
    the folder.
    """
    check_new_folder(out)
    columns = Columns(image_column, caption_column)
    source = open_dataset(spec, captions_required=False, columns=columns, exclude=exclude)
    terminal.say(f"data: {printable(source.name)}: {source.form}")
    terminal.warn_about(source.problems)
    _check_keys(source)

    bad: list[Problem] = []
    n_samples = n_captioned = 0
    terminal.say(f"writing {out}: {len(source):,} samples")
    with atomic_folder(out) as staging:
        with (
            ShardWriter(staging, shard_size) as writer,
            terminal.progress(len(source), 0, "sample") as line,
        ):
            for index in range(len(source)):
                try:
                    sample = read_sample(source, index)
                    writer.add(sample)
                    n_samples += 1
                    n_captioned += bool(sample.captions)
                except BadSample as fault:
                    bad.append((printable(source.key(index)), fault.reason))
                    terminal.warn(f"skipped {bad[-1][0]}: {fault.reason}")
                line.advance()
        if not n_samples:
            raise DalleError(f"not one usable sample in {printable(spec)}", "see the reasons above")

    shards = "1 shard" if writer.n_shards == 1 else f"{writer.n_shards:,} shards"
    terminal.say(
        f"{n_samples:,} samples in {shards}, {n_captioned:,} of them with captions, "
        f"{len(bad):,} bad ones left out"
    )
    terminal.suggest(["train", str(out), "--run", "DIR"])
    facts = {
        "out": str(out),
        "shards": writer.n_shards,
        "samples": n_samples,
        "with_captions": n_captioned,
        "bad": [{"where": where, "reason": reason} for where, reason in bad],
    }
    terminal.result(str(out), facts)


def _check_keys(source: Source) -> None:
    """Raise DalleError, before anything is written, for a key that a shard cannot have."""
    for index in range(len(source)):
        key = source.key(index)
        if not is_packable(key):
            raise DalleError(
                f"a shard cannot hold a sample called {printable(key)}: it would be ignored there, "
                "as hidden files and those of systems are",
                "give the picture another name",
            )
