"""From a caption's tokens to image tokens, one at a time (Ramesh et al. 2021, section 2.6, appendix B).

All randomness is drawn up front, one generator a candidate, so that a picture depends on the seed, its caption and its
number alone. Knows nothing of captions as text, pixels or files. Axes: B batch, T text slots, I image slots, V image
vocabulary.
"""

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.generation.cached_transformer import CachedTransformer, KVCache, distinct_captions
from dalle_cli.generation.guidance import GuidedTransformer
from dalle_cli.models.transformer import TransformerBackbone
from dalle_cli.runtime.compilation import compile_step

BLOCK = 128  # tokens
ALMOST_ONE = 1 - 2**-53
SMALLEST_TEMPERATURE = 1e-30  # whose inverse is an fp32 number; lower ones draw the same
INFINITY_BITS = 0x7F800000  # of fp32; any finite number that is not negative has less


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
        kept, order = logits.topk(settings.top_k, dim=1, sorted=False)
        logits = torch.full_like(logits, -torch.inf).scatter_(1, order, kept)
    logits = logits - logits.amax(
        dim=1, keepdim=True
    )  # so that no temperature is too small to divide by
    probabilities = (logits / max(settings.temperature, SMALLEST_TEMPERATURE)).softmax(dim=1)
    if settings.top_p < 1:
        probabilities = probabilities * _is_likely(probabilities, settings.top_p)
    return probabilities


def _is_likely(probabilities: Tensor, share: float) -> Tensor:
    """Mark the likeliest tokens, as few as hold the share together, and any as likely as the last: bool [B, V].

    By halving the span of fp32 numbers where the least of them can be, which are ordered as their bits: a compiled step
    spends less on that than on sorting thousands of tokens.
    """
    bits = probabilities.view(torch.int32)
    enough = bits.new_zeros(len(bits), 1)
    too_few = torch.full_like(enough, INFINITY_BITS)
    for _ in range(INFINITY_BITS.bit_length()):
        middle = enough + (too_few - enough) // 2
        is_enough = torch.where(bits >= middle, probabilities, 0).sum(dim=1, keepdim=True) >= share
        enough, too_few = (
            torch.where(is_enough, middle, enough),
            torch.where(is_enough, too_few, middle),
        )
    return bits >= enough


def sample_tokens(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw by inverse distribution: probabilities [B, V] (any scale), uniforms [B] -> int64 [B].

    First a block of tokens is drawn, then one of its own, since cumulative sums are slow.
    """
    n_blocks = -(-probabilities.shape[1] // BLOCK)
    padded = F.pad(probabilities, (0, n_blocks * BLOCK - probabilities.shape[1]))
    blocks = padded.unflatten(1, (n_blocks, BLOCK))
    shares = blocks.sum(dim=2, dtype=torch.float64)  # [B, blocks]
    ends = shares.cumsum(dim=1)
    threshold = uniforms[:, None].double() * ends[:, -1:]
    block = (ends <= threshold).sum(dim=1, keepdim=True)
    left = threshold - (ends - shares).gather(1, block)
    own = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1).double().cumsum(dim=1)
    left = left.clamp(min=0).minimum(own[:, -1:] * ALMOST_ONE)  # both sums are rounded
    return (block * BLOCK + (own <= left).sum(dim=1, keepdim=True)).squeeze(1)


class Sampler:
    """Draws image tokens, batch after batch, from one transformer."""

    @torch.inference_mode()
    def __init__(
        self,
        transformer: TransformerBackbone,
        settings: SamplingSettings,
        dtype: torch.dtype = torch.float32,
        compiled_batch_size: int = 0,
    ) -> None:
        """Lay its weights out for drawing.

        dtype         of the branches' arithmetic, see `models.transformer`
        compiled_batch_size  batches of so many samples: the first one waits for a compiler; 0: not compiled
        """
        cached = CachedTransformer(transformer, dtype, is_packed=not compiled_batch_size)
        is_guided = settings.guidance != 1
        self._transformer = GuidedTransformer(cached, settings.guidance) if is_guided else cached
        self._image_len = transformer.image_len
        self._step = compile_step(
            _Step(self._transformer, settings), compiled_batch_size * (2 if is_guided else 1)
        )
        self._cache: KVCache | None = None
        self._cache_is_for = (0, 0)  # samples and captions

    @torch.inference_mode()
    def sample(self, text_tokens: Tensor, uniforms: Tensor, kept: Tensor | None = None) -> Tensor:
        """Draw image tokens for each caption.

        text_tokens  int64 [B, T], -1 after the caption; where all captions come in rows of equally many, samples of one
                     share its keys and values
        uniforms     [B, I], see `candidate_uniforms`
        kept         int64 [I], tokens that all samples have already, -1 where one is to be drawn; None: all are drawn
        returns      int64 [B, I] in raster order
        """
        device = text_tokens.device
        kept = torch.full([self._image_len], -1) if kept is None else kept
        is_drawn = (kept < 0).tolist()
        first = is_drawn.index(True)
        last = len(is_drawn) - 1 - is_drawn[::-1].index(True)
        tokens = kept.to(device).repeat(len(text_tokens), 1)
        captions = distinct_captions(text_tokens)
        cache = self._room(len(text_tokens), len(captions))
        self._transformer.prefill(captions, tokens[0, :first], cache)
        by_position = uniforms.to(device).T.contiguous()
        positions = torch.arange(self._image_len, device=device)
        before = tokens[:, max(first - 1, 0)].clamp(min=0)
        for place in range(first, last + 1):
            own = slice(place, place + 1)
            before = self._step(before, by_position[place], positions[own], cache)
            if is_drawn[place]:
                tokens[:, place] = before
            else:
                before = tokens[
                    :, place
                ].contiguous()  # laid out as what is drawn, or it would be compiled again
        return tokens

    def _room(self, n_samples: int, n_captions: int) -> KVCache:
        """Give the cache of the last batch again where it fits, since a captured step goes by its place."""
        if self._cache is None or self._cache_is_for != (n_samples, n_captions):
            if self._cache is not None:
                self._cache.clear()  # before there are two; a captured step knows it as well
            self._cache = self._transformer.new_cache(n_samples, n_captions)
            self._cache_is_for = n_samples, n_captions
        return self._cache


class _Step(nn.Module):
    """One position: logits, probabilities, a draw."""

    def __init__(
        self, transformer: CachedTransformer | GuidedTransformer, settings: SamplingSettings
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self._settings = settings

    def forward(self, before: Tensor, uniforms: Tensor, position: Tensor, cache: KVCache) -> Tensor:
        """Draw the tokens at a position int64 [1] from those before it and random numbers, [B] each: int64 [B]."""
        logits = self.transformer(before, position, cache)
        return sample_tokens(token_probabilities(logits, self._settings), uniforms)
