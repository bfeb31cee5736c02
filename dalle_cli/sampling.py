"""From a caption's tokens to image tokens, one at a time (Ramesh et al. 2021, section 2.6, appendix B).

All randomness is drawn up front, one generator a candidate, so that a picture depends on the seed, its caption and its
number alone. Knows nothing of captions as text, pixels or files. Axes: B batch, T text slots, I image slots, V image
vocabulary.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dalle_cli.models.decoder import Decoder
from dalle_cli.models.guided_decoder import GuidedDecoder
from dalle_cli.models.transformer import Transformer


@dataclass(frozen=True)
class SamplingSettings:
    """How a token is drawn; the paper's own are the defaults (appendix B: temperature 1, nothing cut off).

    Guidance comes first: logits are empty + guidance * (caption - empty), of no caption and of the sample's own.
    """

    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the likeliest tokens that hold this share of the probability; 1: all
    guidance: float = 1.0  # 1: go by the caption's own prediction, at no further cost


def candidate_uniforms(seed: int, caption: str, numbers: list[int], n_tokens: int) -> Tensor:
    """Draw each candidate's random numbers: float64 [len(numbers), n_tokens] in [0, 1), on the CPU."""
    rows = []
    for number in numbers:
        digest = hashlib.sha256(f"{seed}\0{number}\0{caption}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        rows.append(torch.rand(n_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def token_probabilities(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """Turn logits [B, V] into the probabilities [B, V] that tokens are drawn with, in fp32; guided already."""
    logits = logits.float()
    if settings.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    if 0 < settings.top_k < logits.shape[1]:
        kept, order = logits.topk(settings.top_k, dim=1)
        logits = torch.full_like(logits, -torch.inf).scatter_(1, order, kept)
    logits = logits - logits.amax(dim=1, keepdim=True)  # so that no temperature is too small to divide by
    probabilities = (logits / settings.temperature).softmax(dim=1)
    if settings.top_p < 1:
        ranked, order = probabilities.sort(dim=1, descending=True)
        before = ranked.cumsum(dim=1) - ranked  # the share already held by likelier tokens
        kept = ranked * (before < settings.top_p)
        probabilities = torch.zeros_like(probabilities).scatter_(1, order, kept / kept.sum(dim=1, keepdim=True))
    return probabilities


def draw_tokens(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw by inverse distribution: probabilities [B, V] (any scale), uniforms [B] -> int64 [B]."""
    cumulative = probabilities.double().cumsum(dim=1)
    threshold = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=probabilities.shape[1] - 1)


@torch.inference_mode()
def sample_image_tokens(
    transformer: Transformer,
    text_tokens: Tensor,
    uniforms: Tensor,
    settings: SamplingSettings,
    advance: Callable[[], None] = lambda: None,
    dtype: torch.dtype = torch.float32,
    kept: Tensor | None = None,
) -> Tensor:
    """Draw image tokens for each caption.

    text_tokens  int64 [B, T], -1 after the caption
    uniforms     [B, I], see `candidate_uniforms`
    advance      called after each position, for a progress display
    dtype        of the branches' arithmetic, see `models.decoder`
    kept         int64 [B, I], tokens that are there already, -1 where one is to be drawn; None: all are drawn
    returns      int64 [B, I] in raster order
    """
    device = text_tokens.device
    uniforms = uniforms.to(device)
    if settings.guidance == 1:
        decoder = Decoder(transformer, text_tokens, dtype)
    else:
        decoder = GuidedDecoder(transformer, text_tokens, settings.guidance, dtype)
    tokens = torch.empty(len(text_tokens), transformer.image_len, dtype=torch.int64, device=device)
    held = None
    for position in range(transformer.image_len):
        logits = decoder.logits(held, position)
        held = draw_tokens(token_probabilities(logits, settings), uniforms[:, position])
        if kept is not None:
            held = torch.where(kept[:, position] < 0, held, kept[:, position])
        tokens[:, position] = held
        advance()
    return tokens
