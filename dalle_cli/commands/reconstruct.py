"""`dalle reconstruct`: pictures through a discrete VAE and back, side by side."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.console import Terminal
from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, decode_image, to_image, to_tensor
from dalle_cli.data.picture_lists import find_pictures
from dalle_cli.errors import DalleError
from dalle_cli.loading import load_dvae
from dalle_cli.metrics import blank_cells, code_counts, perplexity, psnr, ssim
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.storage.run_dir import check_new_folder
from dalle_cli.untrusted import printable
from dalle_cli.viz import grid

GRID_COLUMNS = 8
GRID_PICTURES = 64
MAX_STEM = 60  # characters of a picture's name that go into its comparison's


@dataclass(frozen=True)
class ReconstructOptions:
    """The command line of `reconstruct`."""

    run: Path
    pictures: list[Path]
    out: Path
    device: str
    precision: str


def reconstruct(options: ReconstructOptions, terminal: Terminal) -> None:
    """Write original | reconstruction for each picture, and a grid of the first; results are PSNR in dB and SSIM.

    Pictures are cropped to the centred square and scaled by area, as for validation.
    """
    check_new_folder(options.out)
    device, precision = open_device(options.device, options.precision)
    dvae = load_dvae(options.run).to(device, memory_format=torch.channels_last)
    apply_precision(dvae, precision, device)
    files = find_pictures(options.pictures)
    terminal.say(f"writing {len(files)} comparisons to {options.out}")

    rows: list[dict[str, Any]] = []
    shown: list[Image.Image] = []
    squared_error = total_ssim = 0.0
    counts, blank_counts = torch.zeros(2, dvae.vocab_size, dtype=torch.int64)
    with terminal.progress(len(files), 0, "picture") as line:
        for path, original in read_pictures(files, dvae.image_size, terminal):
            image_tokens, rebuilt = rebuild(dvae, original.to(device))
            counts += code_counts(image_tokens, dvae.vocab_size)
            is_blank = blank_cells(original[None], dvae.grid_size)[0]
            blank_counts += code_counts(image_tokens[is_blank], dvae.vocab_size)
            error = float((rebuilt - original).square().mean())
            squared_error += error
            likeness = ssim(rebuilt, original)
            pair = [to_image(original), to_image(rebuilt)]
            file = options.out / f"{len(rows):04d}-{path.stem[:MAX_STEM]}.png"
            options.out.mkdir(parents=True, exist_ok=True)
            grid(pair, columns=2).save(file)
            shown += pair if len(rows) < GRID_PICTURES else []
            figures = {"psnr": round(psnr(error), 2), "ssim": round(likeness, 4)}
            rows.append({"picture": str(path), "file": str(file), **figures})
            total_ssim += likeness
            line.advance()
    if not rows:
        raise DalleError(f"no usable picture in {', '.join(map(str, options.pictures))}")
    grid(shown, GRID_COLUMNS).save(options.out / "grid.png")
    summary = {
        "psnr": round(psnr(squared_error / len(rows)), 2),
        "ssim": round(total_ssim / len(rows), 4),
        "codes_used": int((counts > 0).sum()),
        "vocab_size": dvae.vocab_size,
        "perplexity": round(perplexity(counts), 2),
        "perplexity_without_blanks": round(perplexity(counts - blank_counts), 2),
        **bits_per_pixel(dvae, counts),
    }
    terminal.result(_text(rows, summary), {"out": str(options.out), **summary, "pictures": rows})


def read_pictures(
    files: list[Path], image_size: int, terminal: Terminal
) -> Iterator[tuple[Path, Tensor]]:
    """Read pictures one by one as float [3, H, W] in [0, 1]; name and leave out what is unreadable."""
    for file in files:
        try:
            square = centre_crop(decode_image(file.read_bytes()), image_size)
            yield file, to_tensor(Image.fromarray(square)).float() / 255
        except BadSample as error:
            terminal.warn(f"skipped {printable(str(file))}: {error.reason}")
        except OSError as error:
            terminal.warn(f"skipped {printable(str(file))}: {error.strerror}")


@torch.inference_mode()
def rebuild(dvae: DiscreteVAE, original: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a picture [3, H, W] and decode its hard tokens: int64 [g*g] and [3, H, W]."""
    image_tokens = dvae.image_tokens(original[None])
    return image_tokens[0].cpu(), dvae.decode(image_tokens)[0].cpu()


def bits_per_pixel(dvae: DiscreteVAE, counts: Tensor) -> dict[str, float]:
    """Say what tokens take, of any entry alike and by the entropy of those counted int64 [K]."""
    cells_per_pixel = (dvae.grid_size / dvae.image_size) ** 2
    return {
        "bits_per_pixel": round(math.log2(dvae.vocab_size) * cells_per_pixel, 5),
        "bits_per_pixel_by_entropy": round(math.log2(perplexity(counts)) * cells_per_pixel, 5),
    }


def _text(rows: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    lines = [
        f"{row['psnr']:6.2f} dB  SSIM {row['ssim']:.3f}  {printable(row['picture'])}"
        for row in rows
    ]
    lines.append(f"{summary['psnr']:6.2f} dB  SSIM {summary['ssim']:.3f}  all {len(rows)}")
    used = f"{summary['codes_used']} of {summary['vocab_size']} codes in use"
    varied = f"perplexity {summary['perplexity']:.1f} ({summary['perplexity_without_blanks']:.1f} without blank cells)"
    bits = f"{summary['bits_per_pixel']:.3f} bits a pixel, {summary['bits_per_pixel_by_entropy']:.3f} by their entropy"
    return "\n".join([*lines, f"{used}, {varied}; {bits}"])
