"""The grid of DALL-E 2's demo: generated pictures, variations, and the ways between pictures."""

from collections.abc import Sequence
from pathlib import Path

from dalle_cli.commands.reports.demos.demo_results import read_records
from dalle_cli.commands.reports.demos.unclip_demo_results import (
    caption_of,
    open_picture,
    originals,
)
from dalle_cli.data.images import to_png
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.run_dir import GRID
from dalle_cli.viz import Row, labelled_grid, side_by_side

SHOWN_PROMPTS, SHOWN_ORIGINALS = 8, 6

# columns of the grid for the prompts of combinations that were never seen
UNSEEN_COLUMNS = {
    "unseen": "prior",
    "unseen_from_text": "text embedding",
    "unseen_from_caption": "caption alone",
}


def save_unclip_demo_grid(folder: Path) -> None:
    """Lay out pictures of a few prompts, and a few variations above both blends."""
    seen = labelled_grid(_prompt_rows(folder, ["seen"]), columns=("seen in training",))
    unseen = labelled_grid(
        _prompt_rows(folder, list(UNSEEN_COLUMNS)), columns=list(UNSEEN_COLUMNS.values())
    )
    made = labelled_grid([*_variation_rows(folder), *_path_rows(folder)])
    write_file(folder / GRID, to_png(side_by_side([seen, unseen, made])))


def _prompt_rows(folder: Path, names: Sequence[str]) -> list[Row]:
    """Return a few prompts, each with its picture in every folder of these names."""
    records = [read_records(folder / name) for name in names]
    every = max(len(records[0]) // SHOWN_PROMPTS, 1)
    return [
        (
            same_prompt[0]["caption"],
            [
                open_picture(folder / name / record["file"])
                for name, record in zip(names, same_prompt, strict=True)
            ],
        )
        for same_prompt in list(zip(*records, strict=True))[::every][:SHOWN_PROMPTS]
    ]


def _variation_rows(folder: Path) -> list[Row]:
    """Return a few pictures, each followed by its variations."""
    records = read_records(folder / "variations")
    rows = []
    for original in originals(folder)[:SHOWN_ORIGINALS]:
        varied = [record for record in records if Path(record["picture"]).name == original.name]
        pictures = [open_picture(folder / "variations" / record["file"]) for record in varied]
        rows.append((f"{caption_of(original)}, varied", [open_picture(original), *pictures]))
    return rows


def _path_rows(folder: Path) -> list[Row]:
    """Return the way from picture to picture, and that along a change of text."""
    captions = {"blend": "from picture to picture", "text-blend": "from text to text"}
    return [
        (
            caption,
            [
                open_picture(folder / name / record["file"])
                for record in read_records(folder / name)
            ],
        )
        for name, caption in captions.items()
    ]
