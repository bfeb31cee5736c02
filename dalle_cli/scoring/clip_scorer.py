"""A CLIP that scores pictures against captions, and the checksums that its scores depend on.

Ramesh et al. 2021, section 2.6. Axes: B batch, E CLIP's shared width.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.data.augment import CLIP_SQUARE_VERSION, clip_square
from dalle_cli.data.clip_tokenizer import ClipTokenizer
from dalle_cli.data.images import DECODING_VERSION
from dalle_cli.errors import DalleError, printable
from dalle_cli.loading import load_clip_parts
from dalle_cli.models.clip import Clip
from dalle_cli.runtime.precision import Precision, apply_precision

CAPTION_BATCH_SIZE = 256
CAPTION_SHOWN = 60  # characters of a caption in a warning


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP on a device; scores are cosines, and higher is better.

    checksum             of weights and sizes; embeddings of pictures depend on it
    vocabulary_checksum  of the vocabulary's file
    assumption           what had to be assumed of the CLIP, for users to read, or ""
    """

    clip: Clip
    tokenizer: ClipTokenizer
    device: torch.device
    precision: Precision = "fp32"
    checksum: str = ""
    vocabulary_checksum: str = ""
    assumption: str = ""

    @property
    def identity(self) -> str:
        """Everything, apart from the precision, that scores depend on."""
        return f"{self.checksum}-{self.vocabulary_checksum}"

    @property
    def embedding_key(self) -> str:
        """Everything, apart from a picture's bytes, that its embedding depends on."""
        return f"{self.checksum} {self.precision} {CLIP_SQUARE_VERSION} {DECODING_VERSION}"

    @property
    def width(self) -> int:
        """Width of an embedding, E."""
        return self.clip.text_projection.shape[1]

    def square(self, picture: Image.Image) -> np.ndarray:
        """Scale and crop a picture to CLIP's input: uint8 [H, W, 3]."""
        return clip_square(picture, self.clip.image_size)

    @torch.inference_mode()
    def embed_pictures(self, squares: Sequence[np.ndarray]) -> Tensor:
        """Compute embeddings of squares uint8 [H, W, 3]: unit vectors fp32 [B, E], on the CPU."""
        pixels = torch.from_numpy(np.stack(squares))  # [B, H, W, 3]
        pixels = pixels.to(self.device).permute(0, 3, 1, 2)  # [B, 3, H, W]
        return unit_vectors(self.clip.encode_image(self.clip.normalise(pixels.float() / 255)))

    def is_truncated(self, caption: str) -> bool:
        """Whether a caption has more tokens than fit between CLIP's start and end of text."""
        return len(self.tokenizer.encode(caption)) > self.clip.text_len - 2

    def warnings(self, captions: Sequence[str]) -> Iterator[str]:
        """Yield a warning of what was assumed, and of each distinct caption that is truncated."""
        if self.assumption:
            yield self.assumption
        for caption in dict.fromkeys(captions):
            if self.is_truncated(caption):
                shown = printable(caption)[:CAPTION_SHOWN]
                yield f"caption truncated to CLIP's {self.clip.text_len} tokens: {shown}…"

    @torch.inference_mode()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Compute embeddings of captions: unit vectors fp32 [B, E], on the CPU.

        Captions are truncated to CLIP's length.
        """
        parts = []
        for start in range(0, len(captions), CAPTION_BATCH_SIZE):
            batch = captions[start : start + CAPTION_BATCH_SIZE]
            tokens = self.tokenizer(batch, self.clip.text_len)  # [B, T]

            # attention is causal: padding after the end of text changes nothing
            ends = (tokens == self.tokenizer.end_of_text).int().argmax(dim=1)  # [B]
            tokens = tokens[:, : int(ends.max()) + 1]

            parts.append(unit_vectors(self.clip.encode_text(tokens.to(self.device))))
        return torch.cat(parts)


def unit_vectors(embeddings: Tensor) -> Tensor:
    """Scale embeddings [B, E] to unit length: fp32, on the CPU.

    Raises DalleError for embeddings that are not finite.
    """
    vectors = F.normalize(embeddings.float(), dim=1).cpu()
    if not vectors.isfinite().all():
        message = "this CLIP's embeddings are not finite numbers"
        raise DalleError(message, "its weights may be damaged")
    return vectors


def clip_checksum(clip: Clip) -> str:
    """Hash a CLIP's weights, sizes and everything else that its embeddings depend on.

    The checksum does not depend on where the CLIP was loaded from.
    """
    facts = {"image_size": clip.image_size, "mean": clip.pixel_mean, "std": clip.pixel_std}
    sizes = [asdict(tower) for tower in (clip.vision, clip.text)]
    digest = hashlib.sha256(json.dumps([facts, sizes, clip.activation, clip.end_of_text]).encode())

    for name, tensor in sorted(clip.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def load_clip_scorer(
    name: str, vocabulary: Path | None, *, device: torch.device, precision: Precision
) -> ClipScorer:
    """Load a CLIP and its vocabulary onto a device.

    name        a run, a public checkpoint or a name on the hub, see `loading.load_clip`
    vocabulary  the vocabulary's file; None is the file that comes with the CLIP

    Raises DalleError if either is missing or they do not belong together.
    """
    clip, tokenizer, file, assumption = load_clip_parts(name, vocabulary)
    checksum = clip_checksum(clip)
    vocabulary_checksum = hashlib.sha256(file.read_bytes()).hexdigest()

    apply_precision(clip, precision, device)
    return ClipScorer(
        clip=clip.to(device),
        tokenizer=tokenizer,
        device=device,
        precision=precision,
        checksum=checksum,
        vocabulary_checksum=vocabulary_checksum,
        assumption=assumption,
    )
