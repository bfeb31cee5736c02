"""Captions as the priors and the decoder get them from CLIP: the outputs of its text tower.

Axes used below:

    B batch    T text slots    F width of CLIP's text tower    D width of CLIP's embedding
"""

import torch
from torch import Tensor

from dalle_cli.models.clip import Clip
from dalle_cli.models.unclip.caption_encoders import CaptionInputs


def given_slots(clip: Clip, tokens: Tensor) -> Tensor:
    """Return which slots of captions int64 [B, T] hold a token, up to end of text: bool [B, T]."""
    is_end = tokens if clip.end_of_text is None else (tokens == clip.end_of_text).int()
    ends = is_end.argmax(dim=1)  # [B]
    slots = torch.arange(tokens.shape[1], device=tokens.device)
    return slots <= ends[:, None]  # [B, T]


def encode_captions(clip: Clip, tokens: Tensor) -> tuple[CaptionInputs, Tensor]:
    """Encode captions, int64 [B, T], as CLIP's text tower does.

    returns  its outputs, with values [B, T, F], and the embeddings [B, D], of any length
    """
    states = clip.text_states(tokens)
    return CaptionInputs(states, given_slots(clip, tokens)), clip.project_text(states, tokens)
