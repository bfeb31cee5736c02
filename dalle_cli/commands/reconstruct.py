"""`dalle reconstruct`: pictures encoded and decoded by a discrete VAE, next to the originals."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.commands.reports.passed_over import tell_passed_over
from dalle_cli.console import ProgressLine, Terminal
from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, decode_image, to_image, to_png, to_tensor
from dalle_cli.data.picture_lists import find_pictures
from dalle_cli.errors import DalleError, printable
from dalle_cli.evaluation.figures.reconstruction_figures import (
    Reconstruction,
    ReconstructionFigures,
    measure_reconstruction,
)
from dalle_cli.loading import load_dvae
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.distributed import World, init_process_group
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.storage.atomic import atomic_folder, write_file
from dalle_cli.storage.run_dir import GRID, check_new_folder
from dalle_cli.storage.small_files import read_input
from dalle_cli.viz import grid

GRID_COLUMNS = 8
GRID_PAIRS = 64
EACH = 8  # pictures that a process reconstructs before those of all are written
MAX_STEM = 60  # characters of a picture's name that go into that of its comparison


@dataclass(frozen=True)
class ReconstructOptions:
    """The command line of `reconstruct`."""

    run: Path
    pictures: list[Path]
    out: Path
    device: str
    precision: str


class _Comparison(NamedTuple):
    """A picture and its reconstruction, side by side as a file, and how good it is."""

    pair: list[Image.Image]
    png: bytes
    found: Reconstruction


def run_reconstruct(options: ReconstructOptions, terminal: Terminal) -> None:
    """Write original | reconstruction for each picture, and a grid of the first of them.

    Results are PSNR in dB, SSIM and the use of the codebook. Pictures are cropped to the centred
    square and scaled by area, as for validation. An interruption leaves nothing in the folder.
    Several processes each take some of the pictures.
    """
    check_new_folder(options.out)
    device, precision = open_device(options.device, options.precision, say=terminal.say)
    with init_process_group(device) as world:
        dvae = _load(options.run, world.broadcast(precision), world.device)
        listed = find_pictures(options.pictures)
        files = [picture.path for picture in listed.pictures]
        terminal.say(f"writing {len(files)} comparisons to {options.out}")
        tell_passed_over(listed, terminal)

        compared = _compare_all(files, dvae, world)
        if not world.is_main:
            for _ in compared:
                pass
            return
        figures = ReconstructionFigures(dvae)
        with terminal.progress(len(files), 0, "picture") as line:
            rows = _write_all(options, compared, figures=figures, terminal=terminal, line=line)

    summary = figures.summary()
    terminal.result(_text(rows, summary), {"out": str(options.out), **summary, "pictures": rows})


def _load(run: Path, precision: Precision, device: torch.device) -> DiscreteVAE:
    dvae = load_dvae(run)
    # torch's stubs lack memory_format
    dvae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply_precision(dvae, precision, device)
    return dvae


def _compare_all(
    files: list[Path], dvae: DiscreteVAE, world: World
) -> Iterator[tuple[Path, _Comparison | str]]:
    """Yield the comparison of each picture, in order, or the problem that it has instead.

    Every rank iterates, and only the main one gets anything.
    """
    n_together = EACH * world.size
    for start in range(0, len(files), n_together):
        part = files[start : start + n_together]
        share = world.share_of_batches(len(part), 1)
        ours = part[share.start : share.stop]
        compared = [(file, _compare(file, dvae)) for file in ours]
        world.reach(f"picture {start + len(part):,}")
        yield from world.gather(compared)


def _compare(file: Path, dvae: DiscreteVAE) -> _Comparison | str:
    """Reconstruct the picture in a file; returns its problem if it can't be read."""
    try:
        square = centre_crop(decode_image(read_input(file)), dvae.image_size)
    except BadSample as error:
        return error.reason
    except OSError as error:
        return error.strerror or str(error)
    original = to_tensor(Image.fromarray(square)).float() / 255  # [3, H, W]
    image_tokens, rebuilt = _rebuild(dvae, original)

    pair = [to_image(original), to_image(rebuilt)]
    found = measure_reconstruction(original, rebuilt, image_tokens=image_tokens)
    return _Comparison(pair, to_png(grid(pair, columns=2)), found)


@torch.inference_mode()
def _rebuild(dvae: DiscreteVAE, original: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a picture [3, H, W] and decode its hard tokens: int64 [G * G] and [3, H, W]."""
    device = next(dvae.parameters()).device
    image_tokens = dvae.image_tokens(original[None].to(device))
    return image_tokens[0].cpu(), dvae.decode(image_tokens)[0].cpu()


def _write_all(
    options: ReconstructOptions,
    compared: Iterable[tuple[Path, _Comparison | str]],
    *,
    figures: ReconstructionFigures,
    terminal: Terminal,
    line: ProgressLine,
) -> list[dict[str, Any]]:
    """Write comparisons and their grid, count their figures, and return a row for each.

    Warns of pictures that have a problem; raises DalleError if all have.
    """
    rows: list[dict[str, Any]] = []
    tiles: list[Image.Image] = []
    with atomic_folder(options.out) as staging:
        for path, result in compared:
            line.advance()
            if isinstance(result, str):
                terminal.warn(f"skipped {printable(str(path))}: {result}")
                continue

            name = f"{len(rows):04d}-{path.stem[:MAX_STEM]}.png"
            write_file(staging / name, result.png)
            tiles += result.pair if len(rows) < GRID_PAIRS else []
            found = figures.add(result.found)
            rows.append({"picture": str(path), "file": str(options.out / name), **found})

        if not rows:
            raise DalleError(f"no usable picture in {', '.join(map(str, options.pictures))}")
        write_file(staging / GRID, to_png(grid(tiles, GRID_COLUMNS)))
    return rows


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
