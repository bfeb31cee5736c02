"""Copies told by a CLIP (Ramesh et al. 2021, section 3.2, which had a model trained for it).

An embedding changes little with a crop or another encoding, and somewhat more where a picture is
mirrored, so that test pictures are embedded mirrored as well. Axes: P = 1 part; W = 2 windows, as
it is and mirrored; V = 1 view; E CLIP's shared width.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from dalle_cli.scoring.clip_scorer import ClipScorer

# A conservative one: pictures of the same thing are among what it finds, and few copies are not
THRESHOLD = 0.1
CHECKSUM_SHOWN = 12  # hexadecimal digits


class ClipDescriptor:
    """Embeddings of pictures, as unit vectors."""

    unit = "of cosine distance"
    threshold = THRESHOLD

    def __init__(self, scorer: ClipScorer) -> None:
        self.method = f"CLIP {scorer.checksum[:CHECKSUM_SHOWN]}, {scorer.precision}"
        self._scorer = scorer

    def test_views(self, picture: Image.Image) -> np.ndarray:
        """Crop a picture and its mirror image to CLIP's square: uint8 [P, W, H, W', 3]."""
        squares = [self._scorer.square(view) for view in (picture, ImageOps.mirror(picture))]
        return np.stack(squares)[None]

    def training_views(self, picture: Image.Image) -> np.ndarray:
        """Crop a picture to CLIP's square: uint8 [P, V, H, W', 3]."""
        return self._scorer.square(picture)[None, None]

    def vectors(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Embed the squares of pictures: float32 [B, P, W or V, E]."""
        squares = np.stack(views)  # [B, P, W or V, H, W', 3]
        flat = squares.reshape(-1, *squares.shape[3:])  # [B * P * W or V, H, W', 3]
        embedded = self._scorer.embed_pictures(list(flat)).numpy()
        return embedded.reshape(*squares.shape[:3], -1)  # [B, P, W or V, E]

    def distances(self, products: np.ndarray) -> np.ndarray:
        """Return 1 minus the cosine, which rounding could make a little negative."""
        return np.maximum(1 - products, 0)
