"""`dalle generate`: captions to pictures."""

import hashlib
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dalle_cli.console import Terminal
from dalle_cli.data.images import to_image
from dalle_cli.data.preparation import pad_tokens
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import load_dvae, load_tokenizer, load_transformer
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.run_dir import WEIGHTS, RunDir, check_new_folder, model_dir
from dalle_cli.sampling import SamplingSettings, candidate_uniforms, sample_image_tokens
from dalle_cli.training.precision import apply_precision, open_device, told_when_out_of_memory
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
    device: str
    precision: str
    out: Path | None


@dataclass(frozen=True)
class Candidate:
    """One picture to draw: the number-th one of its caption."""

    caption: str
    number: int


@dataclass(frozen=True)
class Painter:
    """Everything between a caption and its picture."""

    transformer: Transformer
    dvae: DiscreteVAE
    tokenizer: Tokenizer
    device: torch.device

    def check(self, run: Path) -> None:
        """Raise DalleError unless the three parts of a run speak the same tokens."""
        reads = (self.transformer.text_vocab_size, self.transformer.grid_size, self.transformer.image_vocab_size)
        speaks = (self.tokenizer.vocab_size, self.dvae.grid_size, self.dvae.vocab_size)
        names = ("text vocabulary", "token grid", "image vocabulary")
        for name, read, spoken in zip(names, reads, speaks, strict=True):
            if read != spoken:
                raise DalleError(f"the parts of {run} don't belong together: {name} of {read} and of {spoken}")

    def text_tokens(self, captions: list[str]) -> Tensor:
        """Encode captions: int64 [B, T], -1 after each."""
        rows = [pad_tokens(self.tokenizer.encode(caption), self.transformer.text_len) for caption in captions]
        return torch.stack([torch.from_numpy(row) for row in rows]).to(self.device)


def generate(options: GenerateOptions, terminal: Terminal) -> None:
    """Draw n pictures of each caption into a folder with a grid and a manifest."""
    if options.out is not None:
        check_new_folder(options.out)
    device, precision = open_device(options.device, options.precision)
    run = RunDir(options.run)
    transformer, dvae = load_transformer(options.run).to(device), load_dvae(options.run).to(device)
    for model in (transformer, dvae):
        apply_precision(model, precision, device)
    painter = Painter(transformer, dvae, load_tokenizer(run), device)
    painter.check(options.run)
    warn_of_captions(painter, options.captions, terminal)

    candidates = [Candidate(caption, number) for caption in options.captions for number in range(options.n)]
    width = options.batch_size or min(len(candidates), WIDEST)
    settings = {
        "seed": options.seed,
        **asdict(options.sampling),
        "decode_width": width,
        "device": device.type,
        "precision": precision,
        "model": model_checksum(options.run),
    }
    out = make_folder(options)
    terminal.say(f"writing {len(candidates)} pictures to {out}")
    files: list[str] = []
    shown: list[Image.Image] = []
    progress = terminal.progress(len(candidates), 0, "picture")
    with progress as line, (out / "manifest.jsonl").open("w") as manifest, told_when_out_of_memory():
        for candidate, picture in draw(painter, candidates, width, options):
            record = {"file": f"{len(files):04d}.png", **asdict(candidate), **settings}
            save_png(picture, out / record["file"], record)
            manifest.write(json.dumps(record) + "\n")
            files.append(str(out / record["file"]))
            shown += [picture] if len(shown) < GRID_PICTURES else []
            line.advance()
    save_grid(options, shown, out / "grid.png")
    result = {"out": str(out), "files": files, "grid": str(out / "grid.png"), "manifest": str(out / "manifest.jsonl")}
    terminal.result(str(out), result)


def make_folder(options: GenerateOptions) -> Path:
    """Make the folder of --out, or the next numbered one of the run's samples, which another call may want as well."""
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
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


def draw(
    painter: Painter, candidates: list[Candidate], width: int, options: GenerateOptions
) -> Iterator[tuple[Candidate, Image.Image]]:
    """Sample and decode `width` candidates at a time; a short batch is filled up, so that all have the same shape."""
    n_tokens = painter.transformer.image_len
    for start in range(0, len(candidates), width):
        batch = candidates[start : start + width]
        filled = batch + batch[-1:] * (width - len(batch))
        rows = [candidate_uniforms(options.seed, c.caption, [c.number], n_tokens) for c in filled]
        text_tokens = painter.text_tokens([c.caption for c in filled])
        tokens = sample_image_tokens(painter.transformer, text_tokens, torch.cat(rows), options.sampling)
        images = painter.dvae.decode(tokens)
        yield from zip(batch, map(to_image, images), strict=False)


def save_png(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a picture with its record in PNG text chunks."""
    text = PngInfo()
    for key, value in record.items():
        text.add_itxt(key, str(value))
    picture.save(path, pnginfo=text)


def save_grid(options: GenerateOptions, pictures: list[Image.Image], path: Path) -> None:
    """Lay the pictures out under their captions."""
    rows = []
    for i, caption in enumerate(options.captions[: math.ceil(len(pictures) / options.n)]):
        own = pictures[i * options.n : (i + 1) * options.n]
        for start in range(0, len(own), GRID_COLUMNS):
            rows.append((printable(caption) if start == 0 else "", own[start : start + GRID_COLUMNS]))
    labelled_grid(rows).save(path)


def model_checksum(run: Path) -> str:
    """SHA-256 of the transformer's weights."""
    with (model_dir(run) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
