"""`dalle generate`: captions to pictures."""

import hashlib
import json
import sys
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
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import load_dvae, load_tokenizer, load_transformer
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.run_dir import WEIGHTS, RunDir, model_dir
from dalle_cli.sampling import SamplingSettings, candidate_uniforms, sample_image_tokens
from dalle_cli.training.precision import apply_precision, choose_device, choose_precision, use_fast_fp32_matmul
from dalle_cli.untrusted import SURROGATE, printable
from dalle_cli.viz import labelled_grid

WIDEST = 64  # candidates decoded side by side, unless told otherwise
GRID_COLUMNS = 8
GRID_ROWS = 64  # more would make a picture nobody opens


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
    out = choose_folder(options)
    device = choose_device(options.device)
    use_fast_fp32_matmul(device)
    precision = choose_precision(options.precision, device)
    run = RunDir(options.run)
    transformer, dvae = load_transformer(options.run).to(device), load_dvae(options.run).to(device)
    for model in (transformer, dvae):
        apply_precision(model, precision, device)
    painter = Painter(transformer, dvae, load_tokenizer(run), device)
    painter.check(options.run)
    warn_of_cut_captions(painter, options.captions, terminal)

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
    terminal.say(f"writing {len(candidates)} pictures to {out}")
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    with terminal.progress(len(candidates), 0, "picture") as line, (out / "manifest.jsonl").open("w") as manifest:
        for candidate, picture in draw(painter, candidates, width, options):
            record = {"file": f"{len(pictures):04d}.png", **asdict(candidate), **settings}
            save_png(picture, out / record["file"], record)
            manifest.write(json.dumps(record) + "\n")
            pictures.append(picture)
            line.advance()
    save_grid(options, pictures, out / "grid.png")
    files = [str(out / f"{i:04d}.png") for i in range(len(pictures))]
    terminal.result(str(out), {"out": str(out), "files": files, "grid": str(out / "grid.png")})


def choose_folder(options: GenerateOptions) -> Path:
    """Take --out, which must be new or empty, or the next numbered folder of the run's samples."""
    if options.out is None:
        samples = RunDir(options.run).samples
        taken = [int(path.name) for path in samples.glob("[0-9]*") if path.name.isdigit()]
        return samples / f"{max(taken, default=-1) + 1:03d}"
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UsageError(f"{options.out} already holds something", "name a new folder with --out")
    return options.out


def read_captions(captions: list[str], prompts: str | None) -> list[str]:
    """Gather captions from the command line and from a file, or `-` for the standard input, one a line.

    Raises UsageError where there is none, one is no text, or an empty one is asked for by name.
    """
    if any(SURROGATE.search(caption) for caption in captions):
        raise UsageError("a caption that is not UTF-8")
    if any(not caption.strip() for caption in captions):
        raise UsageError("an empty caption", 'give a caption in quotes, as in: dalle generate RUN "a red circle"')
    lines: list[str] = []
    if prompts is not None:
        try:
            data = sys.stdin.buffer.read() if prompts == "-" else Path(prompts).read_bytes()
            lines = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read captions from {prompts}: {error}") from error
    if not captions and not lines:
        raise UsageError("no captions", "give some in quotes, or a file of them with --prompts")
    return [*captions, *lines]


def warn_of_cut_captions(painter: Painter, captions: list[str], terminal: Terminal) -> None:
    """Say which captions have more tokens than the transformer has room for."""
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
    for i, caption in enumerate(options.captions):
        own = pictures[i * options.n : (i + 1) * options.n]
        for start in range(0, len(own), GRID_COLUMNS):
            rows.append((printable(caption) if start == 0 else "", own[start : start + GRID_COLUMNS]))
    labelled_grid(rows[:GRID_ROWS]).save(path)


def model_checksum(run: Path) -> str:
    """SHA-256 of the transformer's weights."""
    with (model_dir(run) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
