"""`dalle reconstruct`: pictures encoded and decoded by a discrete VAE, next to the originals."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.commands.reports.passed_over import tell_passed_over
from dalle_cli.console import ProgressLine, Terminal
from dalle_cli.data.images import to_png
from dalle_cli.data.picture_lists import find_pictures
from dalle_cli.errors import DalleError, printable
from dalle_cli.evaluation.figures.reconstruction_figures import ReconstructionFigures
from dalle_cli.evaluation.reconstructions import ReconstructedPicture, reconstruct_files
from dalle_cli.loading import load_dvae
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.storage.atomic import atomic_folder, write_file
from dalle_cli.storage.run_dir import GRID, check_new_folder
from dalle_cli.training.tasks.frozen_dvae import prepare_for_inference
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
    Several processes each take some of the pictures.
    """
    check_new_folder(options.out)
    device, precision = open_device(options.device, options.precision, say=terminal.say)
    with init_process_group(device) as world:
        dvae = load_dvae(options.run)
        prepare_for_inference(dvae, precision=world.broadcast(precision), device=world.device)
        listed = find_pictures(options.pictures)
        files = [picture.path for picture in listed.pictures]
        terminal.say(f"writing {len(files)} comparisons to {options.out}")
        tell_passed_over(listed, terminal)

        compared = reconstruct_files(files, dvae, world)
        if not world.is_main:
            for _ in compared:
                pass
            return
        figures = ReconstructionFigures(dvae)
        with terminal.progress(len(files), 0, "picture") as line:
            rows = _write_all(options, compared, figures=figures, terminal=terminal, line=line)

    summary = figures.summary()
    terminal.result(_text(rows, summary), {"out": str(options.out), **summary, "pictures": rows})


def _write_all(
    options: ReconstructOptions,
    compared: Iterable[tuple[Path, ReconstructedPicture | str]],
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
