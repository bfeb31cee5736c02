"""Batches of a transformer of 256 px from JPEG files, crops of listing 2 included, on one core.

Usage: loading.py dalle|bare SHORT_SIDE

`bare` decodes the same files to RGB in a loop, and does nothing else: no loader can be faster that
decodes every pixel. The pictures are 4:3, and their detail is mostly coarse, as in photographs.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import measure
from PIL import Image

from dalle_cli.data.loader import TrainingBatches
from dalle_cli.data.preprocessing import TransformerPreprocessing
from dalle_cli.data.sources import open_dataset
from dalle_cli.data.tokenizer import learn_merges
from dalle_cli.recipe import load_recipe

N_FILES = 32
CAPTION = "a photograph of a small brown bird on a branch, in front of green leaves"


def main(what: str, short_side: int) -> None:
    """Time passes over all files, read from the system's cache."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number:03d}.jpg") for number in range(N_FILES)]
        for number, file in enumerate(files):
            file.write_bytes(photograph(short_side, np.random.default_rng(number)))
            file.with_suffix(".txt").write_text(CAPTION)

        if what == "bare":
            measure(lambda: [decode(file) for file in files])
        else:
            batches = training_batches(folder)
            measure(lambda: next(batches.start_at(0)))


def decode(file: Path) -> Image.Image:
    return Image.open(io.BytesIO(file.read_bytes())).convert("RGB")


def training_batches(folder: str) -> TrainingBatches:
    """One batch is all files."""
    recipe = load_recipe("transformer/base", [])
    source = open_dataset(folder, captions_required=True)
    return TrainingBatches(
        source,
        np.arange(len(source)),
        preprocess=TransformerPreprocessing(
            image_size=256,
            text_len=recipe.model.text_len,
            tokenizer=learn_merges([CAPTION], 300, backend="tokenizers"),
            bpe_dropout=recipe.tokenizer.dropout,
            caption_dropout=recipe.loss.caption_dropout,
        ),
        data=recipe.data,
        training=recipe.training.model_copy(update={"global_batch_size": N_FILES}),
        workers=0,
        on_bad=print,
    )


def photograph(short_side: int, rng: np.random.Generator) -> bytes:
    """Make a JPEG whose detail fades with its fineness."""
    width, height = short_side * 4 // 3, short_side
    pixels = np.zeros((height, width, 3))
    for cells in (4, 8, 16, 32, 64, 128, 256):
        for channel in range(3):
            noise = rng.normal(size=(cells, cells * 4 // 3)).astype(np.float32) / cells**0.8
            enlarged = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(enlarged)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255

    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
