"""What the demo of DALL-E 2 has learnt, in figures.

The demo's folder holds `data`, the runs `clip`, `prior` and `decoder`, and folders of pictures:
those in `GENERATED`, `originals`, and what is made of these, `variations`, `blend`, `text-blend`.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.commands.reports.demos.demo_results import caption_accuracy, read_records
from dalle_cli.storage.atomic import copy_file, make_folder
from dalle_cli.storage.metrics_file import last_held_out, read_reports
from dalle_cli.storage.run_dir import RunDir

# folders of generated pictures: the list of prompts, and what guesses the embeddings
GENERATED = {
    "seen": ("seen", "prior"),
    "unseen": ("unseen", "prior"),
    "unseen_from_text": ("unseen", "text"),
    "unseen_from_caption": ("unseen", "none"),
}
ORIGINALS, VARIATIONS = 25, 4  # pictures, and variations of each


def keep_originals(folder: Path) -> list[Path]:
    """Copy the first of the demo's pictures, to be varied and blended, with their captions."""
    target = folder / "originals"
    make_folder(target)
    for picture in sorted((folder / "data" / "train").glob("*.png"))[:ORIGINALS]:
        for file in (picture.with_suffix(".txt"), picture):
            copy_file(file, target / file.name)
    return originals(folder)


def originals(folder: Path) -> list[Path]:
    """Return the pictures that are varied and blended."""
    return sorted((folder / "originals").glob("*.png"))


def caption_of(picture: Path) -> str:
    """Return the caption beside a picture."""
    return picture.with_suffix(".txt").read_text().strip()


def unclip_demo_figures(folder: Path) -> dict[str, Any]:
    """Return the held-out figures of the models, and how many pictures show their caption."""
    clip, prior, decoder = (
        last_held_out(read_reports(RunDir(folder / kind).metrics))[1]
        for kind in ("clip", "prior", "decoder")
    )
    accuracies = {name: _generated_accuracy(folder, name) for name in GENERATED}
    return {
        "clip_text_recall_at_1": round(clip["text_recall_at_1"], 4),
        "prior_loss": round(prior["loss"], 4),
        "prior_cosine_to_image": round(prior["cosine_to_image"], 4),
        "decoder_mse": round(decoder["mse"], 4),
        "caption_accuracy": {name: round(share, 4) for name, share in accuracies.items()},
        "variation_accuracy": round(_variation_accuracy(folder), 4),
        "blend_ends_right": _right_ends(folder),
    }


def _generated_accuracy(folder: Path, name: str) -> float:
    records = read_records(folder / name)
    pictures = [open_picture(folder / name / record["file"]) for record in records]
    return caption_accuracy(folder, pictures, [record["caption"] for record in records])


def _variation_accuracy(folder: Path) -> float:
    """Return the share of variations that show what the caption of their original says."""
    records = read_records(folder / "variations")
    pictures = [open_picture(folder / "variations" / record["file"]) for record in records]
    captions = [
        caption_of(folder / "originals" / Path(record["picture"]).name) for record in records
    ]
    return caption_accuracy(folder, pictures, captions)


def _right_ends(folder: Path) -> int:
    """Count the ends of the blend, of two, that show what the pictures there show."""
    records = read_records(folder / "blend")
    ends = [open_picture(folder / "blend" / record["file"]) for record in (records[0], records[-1])]
    captions = [caption_of(picture) for picture in originals(folder)[:2]]
    return round(2 * caption_accuracy(folder, ends, captions))


def open_picture(file: Path) -> Image.Image:
    """Read a picture of the demo."""
    with Image.open(file) as picture:
        return picture.convert("RGB")
