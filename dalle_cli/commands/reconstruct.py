"""`dalle reconstruct`: pictures encoded and decoded by a discrete VAE, next to the originals."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.commands.reports.passed_over import tell_passed_over
from dalle_cli.console import Terminal
from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, decode_image, to_image, to_png, to_tensor
from dalle_cli.data.picture_lists import find_pictures
from dalle_cli.errors import DalleError, printable
from dalle_cli.evaluation.figures.reconstruction_figures import ReconstructionFigures
from dalle_cli.loading import load_dvae
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.storage.atomic import atomic_folder, write_file
from dalle_cli.storage.run_dir import GRID, check_new_folder
from dalle_cli.storage.small_files import read_input
from dalle_cli.viz import grid

GRID_COLUMNS = 8
GRID_PAIRS = 64
MAX_STEM = 60  # characters of a picture's name that go into that of its comparison


@dataclass(frozen=True)
class ReconstructOptions:
    """The command line of `reconstruct`."""

    run: Path
    pictures: list[Path]
    out: Path
    device: str
    precision: str


def run_reconstruct(options: ReconstructOptions, terminal: Terminal) -> None:
    """Write original | reconstruction for each picture, and a grid of the first of them.

    Results are PSNR in dB, SSIM and the use of the codebook. Pictures are cropped to the centred
    square and scaled by area, as for validation. An interruption leaves nothing in the folder.
    """
    check_new_folder(options.out)
    device, precision = open_device(options.device, options.precision, say=terminal.say)
    dvae = load_dvae(options.run)
    # torch's stubs lack memory_format
    dvae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply_precision(dvae, precision, device)

    listed = find_pictures(options.pictures)
    files = [picture.path for picture in listed.pictures]
    terminal.say(f"writing {len(files)} comparisons to {options.out}")
    tell_passed_over(listed, terminal)

    rows: list[dict[str, Any]] = []
    tiles: list[Image.Image] = []
    figures = ReconstructionFigures(dvae)
    progress = terminal.progress(len(files), 0, "picture")
    with atomic_folder(options.out) as staging, progress as line:
        for path, original in _read_pictures(files, dvae.image_size, terminal):
            image_tokens, rebuilt = _rebuild(dvae, original.to(device))
            found = figures.add(original, rebuilt, image_tokens=image_tokens)

            pair = [to_image(original), to_image(rebuilt)]
            name = f"{len(rows):04d}-{path.stem[:MAX_STEM]}.png"
            write_file(staging / name, to_png(grid(pair, columns=2)))

            tiles += pair if len(rows) < GRID_PAIRS else []
            rows.append({"picture": str(path), "file": str(options.out / name), **found})
            line.advance()

        if not rows:
            raise DalleError(f"no usable picture in {', '.join(map(str, options.pictures))}")
        write_file(staging / GRID, to_png(grid(tiles, GRID_COLUMNS)))
    summary = figures.summary()
    terminal.result(_text(rows, summary), {"out": str(options.out), **summary, "pictures": rows})


def _read_pictures(
    files: list[Path], image_size: int, terminal: Terminal
) -> Iterator[tuple[Path, Tensor]]:
    """Yield pictures as float [3, H, W] in [0, 1]; warn of unreadable ones and skip them."""
    for file in files:
        try:
            square = centre_crop(decode_image(read_input(file)), image_size)
            yield file, to_tensor(Image.fromarray(square)).float() / 255
        except BadSample as error:
            terminal.warn(f"skipped {printable(str(file))}: {error.reason}")
        except OSError as error:
            terminal.warn(f"skipped {printable(str(file))}: {error.strerror}")


@torch.inference_mode()
def _rebuild(dvae: DiscreteVAE, original: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a picture [3, H, W] and decode its hard tokens: int64 [G * G] and [3, H, W]."""
    image_tokens = dvae.image_tokens(original[None])
    return image_tokens[0].cpu(), dvae.decode(image_tokens)[0].cpu()


def _text(rows: list[dict[str, Any]], summary: dict[str, float]) -> str:
    each = "{psnr:6.2f} dB  SSIM {ssim:.3f}  {picture}"
    lines = [each.format(**{**row, "picture": printable(row["picture"])}) for row in rows]
    lines.append(f"{summary['psnr']:6.2f} dB  SSIM {summary['ssim']:.3f}  all {len(rows)}")

    without_blanks = f"{summary['perplexity_without_blanks']:.1f} without blank cells"
    by_entropy = f"{summary['bits_per_pixel_by_entropy']:.3f} by their entropy"
    lines.append(
        f"{summary['codes_used']} of {summary['vocab_size']} codes in use, "
        f"perplexity {summary['perplexity']:.1f} ({without_blanks}); "
        f"{summary['bits_per_pixel']:.3f} bits a pixel, {by_entropy}"
    )
    return "\n".join(lines)
