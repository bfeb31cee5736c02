"""`dalle reconstruct`: pictures through a discrete VAE and back, side by side."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from dalle_cli.console import Terminal
from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, decode_image, to_image, to_tensor
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import load_dvae
from dalle_cli.metrics import code_counts, psnr
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.training.precision import apply_precision, choose_device, choose_precision
from dalle_cli.untrusted import printable
from dalle_cli.viz import grid, labelled_grid

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}
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
    """Write original | reconstruction for each picture, and a grid; results are the PSNRs in dB."""
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UsageError(f"{options.out} already holds something", "name a new folder with --out")
    device = choose_device(options.device)
    dvae = load_dvae(options.run).to(device)
    apply_precision(dvae, choose_precision(options.precision, device), device)
    originals = read_pictures(options.pictures, dvae.image_size, terminal)
    options.out.mkdir(parents=True, exist_ok=True)

    rows, pairs, squared_errors = [], [], []
    counts = torch.zeros(dvae.vocab_size, dtype=torch.int64)
    for i, (path, original) in enumerate(originals):
        image_tokens, rebuilt = rebuild(dvae, original.to(device))
        counts += code_counts(image_tokens, dvae.vocab_size)
        squared_errors.append(float((rebuilt.cpu() - original).square().mean()))
        pair = [to_image(original), to_image(rebuilt)]
        file = options.out / f"{i:04d}-{path.stem[:MAX_STEM]}.png"
        labelled_grid([("", pair)]).save(file)
        pairs += pair
        rows.append({"picture": str(path), "file": str(file), "psnr": round(psnr(squared_errors[-1]), 2)})
    grid(pairs[: 2 * GRID_PICTURES], GRID_COLUMNS).save(options.out / "grid.png")
    summary = {
        "psnr": round(psnr(sum(squared_errors) / len(squared_errors)), 2),
        "codes_used": int((counts > 0).sum()),
        "vocab_size": dvae.vocab_size,
    }
    lines = [f"{row['psnr']:6.2f} dB  {printable(row['picture'])}" for row in rows]
    total = f"{summary['psnr']:6.2f} dB  all {len(rows)}; {summary['codes_used']} of {dvae.vocab_size} codes in use"
    terminal.result("\n".join([*lines, total]), {"out": str(options.out), **summary, "pictures": rows})


def read_pictures(paths: list[Path], image_size: int, terminal: Terminal) -> list[tuple[Path, torch.Tensor]]:
    """Read pictures and folders of them as float [3, H, W] in [0, 1]; name and leave out what is unreadable."""
    found = []
    for path in paths:
        if not path.exists():
            raise DalleError(f"no such picture or folder: {path}")
        for file in sorted(filter(_is_picture, path.rglob("*"))) if path.is_dir() else [path]:
            try:
                square = centre_crop(decode_image(file.read_bytes()), image_size)
                found.append((file, to_tensor(Image.fromarray(square)).float() / 255))
            except BadSample as error:
                terminal.warn(f"skipped {printable(str(file))}: {error.reason}")
            except OSError as error:
                terminal.warn(f"skipped {printable(str(file))}: {error.strerror}")
    if not found:
        raise DalleError(f"no usable picture in {', '.join(map(str, paths))}")
    return found


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


@torch.inference_mode()
def rebuild(dvae: DiscreteVAE, original: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode a picture [3, H, W] and decode its hard tokens: int64 [g*g] and [3, H, W]."""
    image_tokens = dvae.image_tokens(original[None])
    return image_tokens[0], dvae.decode(image_tokens)[0]
