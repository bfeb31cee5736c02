"""The pairs of a batch as the frozen CLIP sees them: what priors and decoder are trained on.

Axes used below:

    B batch    D width of CLIP's embedding    T text slots    F width of CLIP's text tower
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.data.loader import Batch
from dalle_cli.models.clip import Clip
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.clip_captions import encode_captions, given_slots


class ClipPairs(NamedTuple):
    """Pictures and captions of a batch.

    images    [B, D], embeddings of unit length
    texts     [B, D], embeddings of unit length
    captions  tokens, or outputs of CLIP's text tower
    """

    images: Tensor
    texts: Tensor
    captions: CaptionInputs


class PairEncoder:
    """Embeds the pairs of batches, unless they were embedded beforehand."""

    def __init__(self, clip: Clip, *, reads_tokens: bool) -> None:
        """clip: frozen; reads_tokens: whether captions are wanted as tokens."""
        self._clip = clip
        self._reads_tokens = reads_tokens

    @torch.no_grad()
    def __call__(self, batch: Batch) -> ClipPairs:
        """Embed a batch, which is on CLIP's device."""
        clip, tokens = self._clip, batch.text_tokens
        if batch.embeddings is not None:
            images, texts, states = batch.embeddings
            captions = CaptionInputs(states, given_slots(clip, tokens))
        else:
            squares = batch.images if batch.clip_images is None else batch.clip_images
            images = clip.encode_image(clip.normalise(squares))  # [B, D]
            captions, texts = encode_captions(clip, tokens)

        if self._reads_tokens:
            captions = CaptionInputs(tokens, captions.is_given)
        return ClipPairs(F.normalize(images, dim=1), F.normalize(texts, dim=1), captions)
