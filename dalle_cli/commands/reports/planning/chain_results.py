"""The last grid of `dalle train`: the best pictures for captions of training and held-out ones."""

from collections.abc import Sequence

from PIL import Image

from dalle_cli.commands.reports.demos.demo_results import read_records
from dalle_cli.data.images import to_png
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.run_dir import GRID
from dalle_cli.training.planning.chain import ChainFolder
from dalle_cli.viz import labelled_grid, side_by_side


def save_chain_grid(files: ChainFolder, groups: Sequence[str]) -> None:
    """Lay out the pictures of each group of captions, the best of each caption first."""
    sheets = [_sheet(files, group) for group in groups]
    write_file(files.root / GRID, to_png(side_by_side(sheets)))


def _sheet(files: ChainFolder, group: str) -> Image.Image:
    folder = files.pictures(group)
    records = sorted(read_records(folder), key=lambda record: record["rank"])
    captions = list(dict.fromkeys(files.captions(group).read_text("utf-8").splitlines()))
    rows = [
        (
            f"{caption} ({group})",
            [
                Image.open(folder / record["file"]).convert("RGB")
                for record in records
                if record["caption"] == caption
            ],
        )
        for caption in captions
    ]
    return labelled_grid(rows)
