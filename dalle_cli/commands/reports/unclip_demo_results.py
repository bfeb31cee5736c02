"""What the demo of DALL-E 2 has learnt: figures and a grid of its pictures.

The demo's folder holds `data`, the runs `clip`, `prior` and `decoder`, and folders of pictures:
those in `GENERATED`, `originals`, and what is made of these, `variations`, `blend`, `text-blend`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.commands.reports.demo_results import caption_accuracy, read_records
from dalle_cli.data.images import to_png
from dalle_cli.storage.atomic import copy_file, make_folder, write_file
from dalle_cli.storage.metrics_file import last_held_out, read_reports
from dalle_cli.storage.run_dir import GRID, RunDir
from dalle_cli.viz import Row, labelled_grid, side_by_side

# folders of generated pictures: the list of prompts, and what guesses the embeddings
GENERATED = {
    "seen": ("seen", "prior"),
    "unseen": ("unseen", "prior"),
    "unseen_from_text": ("unseen", "text"),
    "unseen_from_caption": ("unseen", "none"),
}
ORIGINALS, VARIATIONS = 25, 4  # pictures, and variations of each
GRID_PROMPTS, GRID_ORIGINALS = 8, 6

# columns of the grid for the prompts of combinations that were never seen
UNSEEN = {
    "unseen": "prior",
    "unseen_from_text": "text embedding",
    "unseen_from_caption": "caption alone",
}


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
    pictures = [_open(folder / name / record["file"]) for record in records]
    return caption_accuracy(folder, pictures, [record["caption"] for record in records])


def _variation_accuracy(folder: Path) -> float:
    """Return the share of variations that show what the caption of their original says."""
    records = read_records(folder / "variations")
    pictures = [_open(folder / "variations" / record["file"]) for record in records]
    captions = [
        caption_of(folder / "originals" / Path(record["picture"]).name) for record in records
    ]
    return caption_accuracy(folder, pictures, captions)


def _right_ends(folder: Path) -> int:
    """Count the ends of the blend, of two, that show what the pictures there show."""
    records = read_records(folder / "blend")
    ends = [_open(folder / "blend" / record["file"]) for record in (records[0], records[-1])]
    captions = [caption_of(picture) for picture in originals(folder)[:2]]
    return round(2 * caption_accuracy(folder, ends, captions))


def save_unclip_demo_grid(folder: Path) -> None:
    """Lay out pictures of a few prompts, and a few variations above both blends."""
    seen = labelled_grid(_prompt_rows(folder, ["seen"]), columns=("seen in training",))
    unseen = labelled_grid(_prompt_rows(folder, list(UNSEEN)), columns=list(UNSEEN.values()))
    made = labelled_grid([*_variation_rows(folder), *_path_rows(folder)])
    write_file(folder / GRID, to_png(side_by_side([seen, unseen, made])))


def _prompt_rows(folder: Path, names: Sequence[str]) -> list[Row]:
    """Return a few prompts, each with its picture in every folder of these names."""
    records = [read_records(folder / name) for name in names]
    every = max(len(records[0]) // GRID_PROMPTS, 1)
    return [
        (
            same_prompt[0]["caption"],
            [
                _open(folder / name / record["file"])
                for name, record in zip(names, same_prompt, strict=True)
            ],
        )
        for same_prompt in list(zip(*records, strict=True))[::every][:GRID_PROMPTS]
    ]


def _variation_rows(folder: Path) -> list[Row]:
    """Return a few pictures, each followed by its variations."""
    records = read_records(folder / "variations")
    rows = []
    for original in originals(folder)[:GRID_ORIGINALS]:
        varied = [record for record in records if Path(record["picture"]).name == original.name]
        pictures = [_open(folder / "variations" / record["file"]) for record in varied]
        rows.append((f"{caption_of(original)}, varied", [_open(original), *pictures]))
    return rows


def _path_rows(folder: Path) -> list[Row]:
    """Return the way from picture to picture, and that along a change of text."""
    captions = {"blend": "from picture to picture", "text-blend": "from text to text"}
    return [
        (caption, [_open(folder / name / record["file"]) for record in read_records(folder / name)])
        for name, caption in captions.items()
    ]


def _open(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")
