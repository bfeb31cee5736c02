"""A CLIP from wherever it lies to one that scores on a device, and the checksum its scores go by."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from dalle_cli.loading import find_clip, find_vocabulary, load_clip, load_clip_tokenizer
from dalle_cli.reranking import ClipScorer, clip_checksum
from dalle_cli.training.precision import Precision, apply_precision


@dataclass(frozen=True)
class OpenedClip:
    """A CLIP ready to score, with the checksums of its weights and sizes, and of its vocabulary's file."""

    scorer: ClipScorer
    checksum: str
    vocabulary_checksum: str

    @property
    def identity(self) -> str:
        """What its scores depend on; embeddings of pictures depend on the first part alone."""
        return f"{self.checksum}-{self.vocabulary_checksum}"


def open_clip(name: str, vocabulary: Path | None, device: torch.device, precision: Precision) -> OpenedClip:
    """Load a CLIP and its vocabulary; raises DalleError where there is none or they don't belong together."""
    place = find_clip(name)
    clip = load_clip(place)
    file = vocabulary or find_vocabulary(place)
    tokenizer = load_clip_tokenizer(place, clip, file)
    checksum, vocabulary_checksum = clip_checksum(clip), hashlib.sha256(file.read_bytes()).hexdigest()
    apply_precision(clip, precision, device)
    return OpenedClip(ClipScorer(clip.to(device), tokenizer, device), checksum, vocabulary_checksum)
