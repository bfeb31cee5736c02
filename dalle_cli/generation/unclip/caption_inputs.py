"""Captions as the priors and the decoder read them, by way of a decoder's CLIP.

Axes used below:

    B batch    T text slots    D width of CLIP's embedding
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.clip_captions import encode_captions
from dalle_cli.scoring.clip_scorer import ClipScorer


class EncodedCaptions(NamedTuple):
    """Captions in all the forms that models of DALL-E 2 read.

    tokens      int64 [B, T]
    states      outputs of CLIP's text tower
    embeddings  [B, D], unit vectors
    """

    tokens: Tensor
    states: CaptionInputs
    embeddings: Tensor

    def inputs(self, *, reads_tokens: bool) -> CaptionInputs:
        """Return the form that a model reads: tokens, or the outputs of CLIP's text tower."""
        return CaptionInputs(self.tokens, self.states.is_given) if reads_tokens else self.states


@torch.inference_mode()
def encode_with_clip(scorer: ClipScorer, captions: Sequence[str]) -> EncodedCaptions:
    """Encode captions on the CLIP's device; they are truncated to its length."""
    tokens = scorer.tokenizer(captions, scorer.clip.text_len).to(scorer.device)  # [B, T]
    states, embeddings = encode_captions(scorer.clip, tokens)
    return EncodedCaptions(tokens, states, F.normalize(embeddings.float(), dim=1))
