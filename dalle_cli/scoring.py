"""A CLIP from wherever it lies to one that scores on a device, and the checksum its scores go by."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dalle_cli.loading import find_clip, load_clip, load_clip_tokenizer
from dalle_cli.reranking import ClipScorer, clip_checksum
from dalle_cli.training.precision import Precision, apply_precision


@dataclass(frozen=True)
class OpenedClip:
    """A CLIP ready to score, and the checksum of its weights and sizes."""

    scorer: ClipScorer
    checksum: str


def open_clip(name: str, vocabulary: Path | None, device: torch.device, precision: Precision) -> OpenedClip:
    """Load a CLIP and its vocabulary; raises DalleError where there is none or they don't belong together."""
    place = find_clip(name)
    clip = load_clip(place)
    tokenizer = load_clip_tokenizer(place, clip, vocabulary)
    checksum = clip_checksum(clip)
    apply_precision(clip, precision, device)
    return OpenedClip(ClipScorer(clip.to(device), tokenizer, device), checksum)
