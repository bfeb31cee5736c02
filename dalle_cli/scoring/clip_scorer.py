"""A CLIP from wherever it lies to one that scores on a device, and the checksum its scores go by."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.data.augment import clip_square
from dalle_cli.data.clip_tokenizer import ClipTokenizer
from dalle_cli.errors import DalleError
from dalle_cli.loading import find_clip, find_vocabulary, load_clip, load_clip_tokenizer
from dalle_cli.models.clip import Clip
from dalle_cli.runtime.precision import Precision, apply_precision

CAPTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP ready to compare pictures with captions on a device; scores are cosines, and higher is better."""

    clip: Clip
    tokenizer: ClipTokenizer
    device: torch.device

    def square(self, picture: Image.Image) -> np.ndarray:
        """Scale and cut a picture as CLIP wants it: uint8 [H, W, 3]."""
        return clip_square(picture, self.clip.image_size)

    @torch.inference_mode()
    def embed_pictures(self, squares: Sequence[np.ndarray]) -> Tensor:
        """Embed squares uint8 [H, W, 3]: unit vectors fp32 [B, E], on the CPU."""
        pixels = torch.from_numpy(np.stack(squares)).to(self.device).permute(0, 3, 1, 2)
        return _unit_vectors(self.clip.encode_image(self.clip.normalise(pixels.float() / 255)))

    def cuts(self, caption: str) -> bool:
        """Whether a caption has more tokens than CLIP has room for between start and end."""
        return len(self.tokenizer.encode(caption)) > self.clip.text_len - 2

    @torch.inference_mode()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Embed captions, cut to what CLIP has room for: unit vectors fp32 [B, E], on the CPU."""
        rows = []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            tokens = self.tokenizer(captions[start : start + CAPTIONS_AT_ONCE], self.clip.text_len)
            longest = int((tokens == self.tokenizer.end_of_text).int().argmax(dim=1).max()) + 1
            tokens = tokens[:, :longest]  # what follows a caption's end changes nothing
            rows.append(_unit_vectors(self.clip.encode_text(tokens.to(self.device))))
        return torch.cat(rows)


def _unit_vectors(embeddings: Tensor) -> Tensor:
    vectors = F.normalize(embeddings.float(), dim=1).cpu()
    if not vectors.isfinite().all():
        raise DalleError(
            "this CLIP's embeddings are not finite numbers", "its weights may be damaged"
        )
    return vectors


def clip_checksum(clip: Clip) -> str:
    """Hash a CLIP's weights and everything else its embeddings depend on, wherever it was loaded from."""
    facts = {"image_size": clip.image_size, "mean": clip.pixel_mean, "std": clip.pixel_std}
    sizes = [asdict(tower) for tower in (clip.vision, clip.text)]
    digest = hashlib.sha256(json.dumps([facts, sizes, clip.activation, clip.end_of_text]).encode())
    for name, tensor in sorted(clip.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP ready to score, with the checksums of its weights and sizes, and of its vocabulary's file."""

    scorer: ClipScorer
    checksum: str
    vocabulary_checksum: str

    @property
    def identity(self) -> str:
        """What its scores depend on; embeddings of pictures depend on the first part alone."""
        return f"{self.checksum}-{self.vocabulary_checksum}"


def load_clip_scorer(
    name: str, vocabulary: Path | None, device: torch.device, precision: Precision
) -> LoadedClip:
    """Load a CLIP and its vocabulary; raises DalleError where there is none or they don't belong together."""
    place = find_clip(name)
    clip = load_clip(place)
    file = vocabulary or find_vocabulary(place)
    tokenizer = load_clip_tokenizer(place, clip, file)
    checksum, vocabulary_checksum = (
        clip_checksum(clip),
        hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    apply_precision(clip, precision, device)
    return LoadedClip(ClipScorer(clip.to(device), tokenizer, device), checksum, vocabulary_checksum)
