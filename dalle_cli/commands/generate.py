"""`dalle generate`: captions to pictures, all of them or the best of many."""

import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dalle_cli.console import Terminal
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.drawing import Candidate, Painter
from dalle_cli.errors import UsageError
from dalle_cli.jobs import begin_job, recorded_job
from dalle_cli.loading import load_clip, load_clip_tokenizer, load_dvae, load_tokenizer, load_transformer
from dalle_cli.reranking import (
    ClipScorer,
    Ranking,
    clip_checksum,
    keep_best,
    rank_by_clip,
    rank_by_perplexity,
    scored,
)
from dalle_cli.run_dir import GRID, MANIFEST, WEIGHTS, RunDir, model_dir, whole_or_absent
from dalle_cli.sampling import SamplingSettings
from dalle_cli.training.precision import Precision, apply_precision, open_device, told_when_out_of_memory
from dalle_cli.untrusted import SURROGATE, printable
from dalle_cli.viz import labelled_grid

WIDEST = 64  # candidates decoded side by side, unless told otherwise
GRID_COLUMNS = 8
GRID_PICTURES = 256  # more would make a picture nobody opens


@dataclass(frozen=True)
class GenerateOptions:
    """The command line of `generate`."""

    run: Path
    captions: list[str]
    n: int
    sampling: SamplingSettings
    seed: int
    batch_size: int  # 0: as many as there are, up to 64
    clip: str | None  # ranks by it, where given
    tokenizer: Path | None
    by_perplexity: bool
    best: int  # of the n, to keep; 0: all
    keep_all: bool
    device: str
    precision: str
    out: Path | None


def generate(options: GenerateOptions, terminal: Terminal) -> None:
    """Draw n pictures of each caption into a folder with a grid and a manifest; keep the best, where ranked.

    The same command goes on with a folder it did not finish: with the next picture, or caption where they are ranked.
    """
    recorded = (recorded_job(options.out) if options.out is not None else None) or {}
    precision = recorded.get("precision", "auto") if options.precision == "auto" else options.precision
    device, precision = open_device(options.device, precision)
    painter = load_painter(options.run, device, precision)
    warn_of_captions(painter, options.captions, terminal)
    ranking = choose_ranking(options, painter, precision)
    candidates = [Candidate(caption, number) for caption in options.captions for number in range(options.n)]
    settings = {
        "seed": options.seed,
        **asdict(options.sampling),
        "decode_width": options.batch_size or min(len(candidates), WIDEST),
        "device": device.type,
        "precision": precision,
        "model": model_checksum(options.run),
    }
    out = make_folder(options)
    begin_job(out, describe(options, ranking, settings))
    n_kept = options.n if options.keep_all or not options.best else options.best
    n_wanted = len(options.captions) * n_kept
    n_written = keep_whole_groups(out, n_kept if ranking else 1)
    if n_written == n_wanted:
        terminal.say(f"{out} holds all pictures already: nothing to do")
    else:
        terminal.say(f"writing {n_wanted - n_written} pictures to {out}")
    n_drawn = n_written // n_kept * options.n if ranking else n_written
    progress = terminal.progress(len(candidates), n_drawn, "picture")
    with progress as line, (out / MANIFEST).open("a", buffering=1) as manifest, told_how_to_go_on(out, terminal):
        batches = painter.draw(candidates, n_drawn, settings["decode_width"], options.seed, options.sampling)
        drawn = keep_best(scored(batches, ranking, line.advance), options.n, n_kept, ranking)
        for place, one in enumerate(drawn, start=n_written):
            record = {"file": f"{place:04d}.png", **one.record(), **settings}
            save_png(one.picture, out / record["file"], record)
            manifest.write(json.dumps(record) + "\n")
    records = read_manifest(out)
    if n_written < n_wanted or not (out / GRID).is_file():
        save_grid(out, records, n_kept, options.best or options.n)
    report(out, records, terminal)


@contextmanager
def told_how_to_go_on(out: Path, terminal: Terminal) -> Iterator[None]:
    """Say where an interrupted job has got to, and what to do where memory is short."""
    try:
        with told_when_out_of_memory():
            yield
    except KeyboardInterrupt:
        terminal.say(f"the same command with `--out {out}` goes on from here")
        raise


def load_painter(run: Path, device: torch.device, precision: Precision) -> Painter:
    """Load a run's transformer, dVAE and tokenizer; raises DalleError where they don't belong together."""
    transformer, dvae = load_transformer(run).to(device), load_dvae(run).to(device)
    for model in (transformer, dvae):
        apply_precision(model, precision, device)
    painter = Painter(transformer, dvae, load_tokenizer(RunDir(run)), device)
    painter.check(run)
    return painter


def choose_ranking(options: GenerateOptions, painter: Painter, precision: Precision) -> Ranking | None:
    """Make what puts candidates in order, if anything does."""
    if options.by_perplexity:
        return rank_by_perplexity(painter.transformer)
    if options.clip is None:
        return None
    clip = load_clip(options.clip)
    checksum = clip_checksum(clip)
    apply_precision(clip, precision, painter.device)
    tokenizer = load_clip_tokenizer(options.clip, clip, options.tokenizer)
    return rank_by_clip(ClipScorer(clip.to(painter.device), tokenizer, painter.device), checksum, options.captions)


def describe(options: GenerateOptions, ranking: Ranking | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Say everything that the files of a folder depend on."""
    return {
        "command": "generate",
        "captions": options.captions,
        "n": options.n,
        "best": options.best,
        "keep_all": options.keep_all,
        "ranked_by": ranking and ranking.by,
        "clip": ranking and ranking.checksum,
        **settings,
    }


def make_folder(options: GenerateOptions) -> Path:
    """Name the folder of --out, or make the next numbered one of the run's samples, which others may want as well."""
    if options.out is not None:
        return options.out
    samples = RunDir(options.run).samples
    samples.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in samples.iterdir() if path.name.isdecimal()]
    for number in itertools.count(max(taken, default=-1) + 1):
        try:
            (samples / f"{number:03d}").mkdir()
        except FileExistsError:
            continue
        return samples / f"{number:03d}"
    raise AssertionError("unreachable")


def keep_whole_groups(out: Path, size: int) -> int:
    """Cut a manifest that an interruption has left back to whole groups of pictures; give the number of pictures."""
    manifest = (out / MANIFEST).read_bytes() if (out / MANIFEST).is_file() else b""
    n_written = manifest.count(b"\n") // size * size
    whole = b"".join(manifest.splitlines(keepends=True)[:n_written])
    if whole != manifest:
        with whole_or_absent(out / MANIFEST) as beside:
            beside.write_bytes(whole)
    return n_written


def read_captions(captions: list[str], prompts: str | None) -> list[str]:
    """Gather captions from the command line and from a file, or `-` for the standard input, one a line.

    Raises UsageError where there is none, one is no text, or an empty one is asked for by name.
    """
    if any(SURROGATE.search(caption) for caption in captions):
        raise UsageError("a caption that is not UTF-8")
    if any(not caption.strip() for caption in captions):
        raise UsageError("an empty caption", 'give a caption in quotes, as in: dalle generate RUN "a red circle"')
    captions = clean_captions(captions)
    lines: list[str] = []
    if prompts is not None:
        try:
            data = sys.stdin.buffer.read() if prompts == "-" else Path(prompts).read_bytes()
            lines = clean_captions(data.decode("utf-8-sig").splitlines())
        except OSError as error:
            raise UsageError(f"cannot read captions from {prompts}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"cannot read captions from {prompts}: it is not UTF-8 text") from error
    if not captions and not lines:
        raise UsageError("no captions", "give some in quotes, or a file of them with --prompts")
    return [*captions, *lines]


def warn_of_captions(painter: Painter, captions: list[str], terminal: Terminal) -> None:
    """Say which captions have more tokens than the transformer has room for, and which are asked for twice."""
    for caption, times in Counter(captions).items():
        if times > 1:
            terminal.warn(f"caption given {times} times, for the same pictures: {printable(caption)[:60]}")
    room = painter.transformer.text_len - 1
    for caption in captions:
        n_tokens = len(painter.tokenizer.encode(caption))
        if n_tokens > room:
            terminal.warn(f"caption cut from {n_tokens:,} to {room} tokens: {printable(caption)[:60]}…")


def save_png(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a picture with its record in PNG text chunks."""
    text = PngInfo()
    for key, value in record.items():
        text.add_itxt(key, str(value))
    picture.save(path, pnginfo=text)


def read_manifest(out: Path) -> list[dict[str, Any]]:
    """Read the records of all pictures of a folder, in order."""
    return [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]


def save_grid(out: Path, records: list[dict[str, Any]], n_kept: int, n_shown: int) -> None:
    """Lay the pictures out under their captions, at most n_shown of the n_kept of each."""
    rows: list[tuple[str, list[Image.Image]]] = []
    n_pictures = 0
    for first in range(0, len(records), n_kept):
        own = records[first : first + min(n_shown, n_kept, GRID_PICTURES - n_pictures)]
        n_pictures += len(own)
        for start in range(0, len(own), GRID_COLUMNS):
            pictures = [Image.open(out / record["file"]) for record in own[start : start + GRID_COLUMNS]]
            rows.append((printable(own[0]["caption"]) if start == 0 else "", pictures))
    with whole_or_absent(out / GRID) as beside:
        labelled_grid(rows).save(beside, format="PNG")


def report(out: Path, records: list[dict[str, Any]], terminal: Terminal) -> None:
    """Print where the pictures are; as JSON, with the scores where there are any."""
    result = {
        "out": str(out),
        "files": [str(out / record["file"]) for record in records],
        "grid": str(out / GRID),
        "manifest": str(out / MANIFEST),
    }
    if "score" in records[0]:
        result["scores"] = [record["score"] for record in records]
    terminal.result(str(out), result)


def model_checksum(run: Path) -> str:
    """SHA-256 of the transformer's weights."""
    with (model_dir(run) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
