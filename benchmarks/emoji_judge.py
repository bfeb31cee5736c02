"""Whether samples of an emoji model show their captions, by a CLIP that never ranked them.

    emoji_judge.py DATA --prompts FILE [--split held-out]     choose captions, one a line
    emoji_judge.py DATA PICTURES --judge CLIP                 judge what was generated from them

DATA is a folder of `dalle data emoji`; PICTURES is what `dalle generate` wrote; the judge was
trained on the same pairs with another seed. A sample is right at k if a caption of its emoji is
among the k nearest of all captions. Real pictures are judged in the same way: the upper bound. The
nearest training picture, in pixels, tells how much is learnt by heart.
"""

import argparse
import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dalle_cli.metrics import recall_at, retrieval_ranks
from dalle_cli.runtime.devices import open_device
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer
from dalle_cli.storage.run_dir import MANIFEST

VARIANTS = 2_000  # pairs of variants whose distance is measured, at most


@dataclass(frozen=True)
class Emoji:
    """A row of the manifest of `dalle data emoji`, with the captions beside its picture."""

    picture: Path
    split: str
    name: str
    concept: str
    captions: tuple[str, ...]

    def pixels(self, side: int) -> np.ndarray:
        """Read the picture: float32 [side, side, 3] in [0, 1]."""
        return read_pixels(self.picture, side)


def main(data: Path, pictures: Path, judge: str, split: str) -> None:
    """Print the figures of best samples, one for each caption."""
    emoji = read_emoji(data)
    records = [json.loads(line) for line in (pictures / MANIFEST).read_text().splitlines()]
    records = [record for record in records if record.get("rank", 1) == 1]
    shown = [one for one in emoji if one.split == split]
    device, precision = open_device("cpu", "fp32")
    scorer = load_clip_scorer(judge, None, device=device, precision=precision)

    captions = sorted({caption.lower() for one in emoji for caption in one.captions})
    texts = scorer.embed_captions(captions)  # [M, E]
    owners = captions_by_name(shown, captions)
    names = [record["caption"] for record in records]
    sampled = [pictures / record["file"] for record in records]
    of_name = {one.name.lower(): one.picture for one in reversed(shown)}
    real = [of_name[name.lower()] for name in names]

    print(f"{len(names)} captions of {split}, judged among {len(captions):,}\n")
    print(f"  {'':24}{'recall@1':>10}{'recall@10':>11}")
    for title, files in (("samples", sampled), ("real pictures", real)):
        ranks = judge_ranks(files, names, owners, scorer=scorer, texts=texts)
        print(f"  {title:24}{recall_at(1, ranks):10.1%}{recall_at(10, ranks):11.1%}")
    report_memory([one for one in emoji if one.split == "train"], sampled, names)


def judge_ranks(
    files: list[Path],
    names: list[str],
    owners: dict[str, set[int]],
    *,
    scorer: ClipScorer,
    texts: Tensor,
) -> Tensor:
    """Return where the best caption of each picture's emoji stands: int64 [N], 0 is first."""
    squares = [scorer.square(Image.open(file).convert("RGB")) for file in files]
    similarity = torch.cat(
        [scorer.embed_pictures(squares[i : i + 64]) for i in range(0, len(squares), 64)]
    )
    is_match = torch.zeros(len(names), len(texts), dtype=torch.bool)
    for row, name in enumerate(names):
        is_match[row, sorted(owners[name.lower()])] = True
    return retrieval_ranks(similarity @ texts.T, is_match)


def report_memory(trained: list[Emoji], sampled: list[Path], names: list[str]) -> None:
    """Print how near the samples are to training pictures, against variants of one emoji."""
    side = Image.open(sampled[0]).width
    known = np.stack([one.pixels(side) for one in trained])  # [M, side, side, 3]
    flat = known.reshape(len(known), -1)
    nearest, distances = [], []
    for file in sampled:
        squared = ((flat - read_pixels(file, side).reshape(-1)) ** 2).mean(axis=1)
        nearest.append(int(squared.argmin()))
        distances.append(float(squared.min()) ** 0.5)

    same = [trained[i].name.lower() == name.lower() for i, name in zip(nearest, names, strict=True)]
    variants = variant_distances(trained, flat)
    print(f"\n  nearest training picture has the caption: {np.mean(same):.1%}")
    print(f"  distance to it (root of the mean square): median {np.median(distances):.3f}")
    print(f"  distance of two variants of one emoji:    median {np.median(variants):.3f}")


def variant_distances(trained: list[Emoji], flat: np.ndarray) -> list[float]:
    """Return the distances between pictures of the same concept."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(trained):
        groups[one.concept].append(i)
    pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:VARIANTS]
    return [float(((flat[i] - flat[j]) ** 2).mean() ** 0.5) for i, j in (pairs[k] for k in chosen)]


def write_prompts(data: Path, file: Path, split: str, n_captions: int) -> None:
    """Write short names of a split, one a line, chosen by a hash, skin tones among them."""
    names = sorted({one.name for one in read_emoji(data) if one.split == split}, key=_hash)
    file.write_text("".join(f"{name}\n" for name in names[:n_captions]), "utf-8")


def captions_by_name(emoji: Iterable[Emoji], captions: list[str]) -> dict[str, set[int]]:
    """Map the name of each emoji to the indices of all captions that it has."""
    index = {caption: i for i, caption in enumerate(captions)}
    owners: dict[str, set[int]] = defaultdict(set)
    for one in emoji:
        owners[one.name.lower()] |= {index[caption.lower()] for caption in one.captions}
    return owners


def read_emoji(data: Path) -> list[Emoji]:
    """Read the manifest of `dalle data emoji`."""
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = [data / row["file"] for row in rows]
    captions = [file.with_suffix(".txt").read_text("utf-8").splitlines() for file in files]
    return [
        Emoji(file, row["split"], row["name"], row["concept"], tuple(lines))
        for file, row, lines in zip(files, rows, captions, strict=True)
    ]


def read_pixels(file: Path, side: int) -> np.ndarray:
    """Read a picture: float32 [side, side, 3] in [0, 1]."""
    picture = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(picture, np.float32) / 255


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--judge")
    parser.add_argument("--split", choices=["train", "held-out"], default="train")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--captions", type=int, default=300)
    asked = parser.parse_args()
    if asked.prompts:
        write_prompts(asked.data, asked.prompts, asked.split, asked.captions)
    else:
        main(asked.data, asked.pictures, asked.judge, asked.split)
