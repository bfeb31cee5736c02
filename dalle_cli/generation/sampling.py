"""Sampling of image tokens for captions, one position at a time.

Ramesh et al. 2021, section 2.6 and appendix B. All random numbers are generated up front, with a
generator for each candidate, so that an image depends only on the seed, its caption and its number.
Knows nothing of captions as text, pixels or files. Axes used below:

    B batch    C captions    T text slots    I image slots    V image vocabulary
    J blocks of the vocabulary
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.generation.cached_transformer import CachedTransformer, KVCache, distinct_captions
from dalle_cli.generation.guidance import GuidedTransformer
from dalle_cli.models.transformer import TransformerBackbone
from dalle_cli.runtime.compilation import compile_step
from dalle_cli.storage.model_about import SamplingAdvice

BLOCK = 128  # tokens
NO_TOKEN = -1
ALMOST_ONE = 1 - 2**-53
SMALLEST_TEMPERATURE = 1e-30  # its inverse is an fp32 number; lower ones sample the same
GROUP = 8  # tokens; with 4 a top-k of 256 among 8,192 takes as long, with 16 longer
DIGIT = 10  # bits; three digits make up the bits of any fp32 number below 2


@dataclass(frozen=True)
class SamplingSettings:
    """How a token is sampled; the defaults are the paper's (appendix B: temperature 1, no cut-off).

    Guidance comes first: logits are empty + guidance * (caption - empty), from the predictions
    without a caption and with the sample's.
    """

    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the likeliest tokens with this share of the probability; 1: all
    guidance: float = 1.0  # 1: the prediction with the caption alone, at no further cost

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that nothing can be sampled with."""
        for name, value in (("temperature", self.temperature), ("guidance", self.guidance)):
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} must be finite and not negative: {value}")
        if self.top_k < 0:
            raise UsageError(f"top_k must not be negative: {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1: {self.top_p}")


def choose_sampling(
    advice: SamplingAdvice,
    *,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float | None = None,
) -> SamplingSettings:
    """Return settings in which None is what the model's author advises.

    Raises UsageError for numbers that nothing can be sampled with.
    """
    return SamplingSettings(
        temperature=advice.temperature if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=advice.guidance if guidance is None else guidance,
    )


def candidate_uniforms(seed: int, caption: str, *, numbers: list[int], n_tokens: int) -> Tensor:
    """Generate the random numbers of candidates, on the CPU.

    returns  float64 [len(numbers), n_tokens] in [0, 1)
    """
    rows = []
    for number in numbers:
        digest = hashlib.sha256(f"{seed}\0{number}\0{caption}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        rows.append(torch.rand(n_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def token_probabilities(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """Compute the probabilities [B, V], fp32, that tokens are sampled with.

    logits  [B, V], guided already
    """
    logits = logits.float()
    if settings.temperature == 0:
        highest, likeliest = logits.max(dim=1, keepdim=True)  # [B, 1] each
        one = highest * 0 + 1  # not a number where the logits are not finite
        return torch.zeros_like(logits).scatter_(1, likeliest, one)

    if 0 < settings.top_k < logits.shape[1]:
        kept, order = _largest(logits, settings.top_k)  # [B, K] each
        return torch.zeros_like(logits).scatter_(1, order, _unlimited_probabilities(kept, settings))
    return _unlimited_probabilities(logits, settings)


def _unlimited_probabilities(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """Compute the probabilities of tokens among which top-k has chosen, if it was to."""
    # with 0 as the largest logit, no temperature is too small to divide by
    logits = logits - logits.amax(dim=1, keepdim=True)
    probabilities = (logits / max(settings.temperature, SMALLEST_TEMPERATURE)).softmax(dim=1)

    if settings.top_p < 1:
        probabilities = probabilities * _is_in_nucleus(probabilities, settings.top_p)
    return probabilities


def _largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest logits of each row and their tokens, [B, k] each, in any order.

    They are all in the k groups of tokens with the largest maxima: two small searches, which take
    less than half as long as one among all tokens.
    """
    n_groups, rest = divmod(logits.shape[1], GROUP)
    if rest or k >= n_groups:
        return logits.topk(k, dim=1, sorted=False)

    groups = logits.unflatten(1, (GROUP, n_groups))  # [B, GROUP, V / GROUP]
    chosen = groups.amax(dim=1).topk(k, dim=1, sorted=False).indices  # [B, k]
    members = groups.gather(2, chosen[:, None].expand(-1, GROUP, -1)).flatten(1)  # [B, GROUP * k]
    kept, order = members.topk(k, dim=1, sorted=False)
    tokens = chosen[:, None] + n_groups * torch.arange(GROUP, device=chosen.device)[:, None]
    return kept, tokens.flatten(1).gather(1, order)


def _is_in_nucleus(probabilities: Tensor, share: float) -> Tensor:
    """Mark the fewest likeliest tokens that hold the share, and any as likely as the last.

    returns  bool [B, V]

    Finds the smallest probability among them digit by digit, since fp32 numbers are ordered as
    their bits: three histograms take a fifth of the time of sorting thousands of tokens. They are
    summed in fp64, where the order of the summands hardly ever matters.
    """
    bits = probabilities.view(torch.int32)  # [B, V]
    weights = probabilities.double()
    smallest = bits.new_zeros(len(bits), 1)  # the leading digits of the smallest, [B, 1]

    for shift in (2 * DIGIT, DIGIT, 0):
        # the first bucket is for all that is below the digits found, the last for all above
        smallest = smallest << DIGIT
        bucket = (bits >> shift).sub_(smallest - 1).clamp_(0, 2**DIGIT + 1)  # [B, V]
        held = weights.new_zeros(len(bits), 2**DIGIT + 2).scatter_add_(1, bucket.long(), weights)
        held = held.flip(1).cumsum(dim=1)  # by bucket and all above, from the last to the first
        n_too_few = (held < share).sum(dim=1, keepdim=True, dtype=torch.int32)
        smallest = smallest + (2**DIGIT - n_too_few).clamp(min=0)
    return bits >= smallest


def sample_tokens(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Sample by inverting the cumulative distribution.

    probabilities  [B, V], of any scale
    uniforms       [B]
    returns        int64 [B], NO_TOKEN where no probability is above 0 or one is not a number
    """
    # first a block of tokens, then a token of the block, since cumulative sums are slow
    n_blocks = -(-probabilities.shape[1] // BLOCK)
    padded = F.pad(probabilities, (0, n_blocks * BLOCK - probabilities.shape[1]))
    blocks = padded.unflatten(1, (n_blocks, BLOCK))  # [B, J, BLOCK]

    shares = blocks.sum(dim=2, dtype=torch.float64)  # [B, J]
    ends = shares.cumsum(dim=1)
    threshold = uniforms[:, None].double() * ends[:, -1:]  # [B, 1]
    block = (ends <= threshold).sum(dim=1, keepdim=True).clamp(max=n_blocks - 1)  # [B, 1]
    has_token = (ends[:, -1] > 0) & ends[:, -1].isfinite()  # [B]

    rest = threshold - (ends - shares).gather(1, block)  # [B, 1]
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1)  # [B, BLOCK]
    ends = inside.double().cumsum(dim=1)
    rest = rest.clamp(min=0).minimum(ends[:, -1:] * ALMOST_ONE)  # both sums are rounded
    tokens = (block * BLOCK + (ends <= rest).sum(dim=1, keepdim=True)).squeeze(1)  # [B]
    return torch.where(has_token, tokens, NO_TOKEN)


class Sampler:
    """Samples image tokens, batch after batch, from one transformer."""

    @torch.inference_mode()
    def __init__(
        self,
        transformer: TransformerBackbone,
        settings: SamplingSettings,
        *,
        dtype: torch.dtype = torch.float32,
        compiled_batch_size: int = 0,
    ) -> None:
        """Lay out the transformer's weights for sampling.

        dtype                of the branches' arithmetic, see `models.transformer`
        compiled_batch_size  the number of samples to compile for, at the first batch; 0: do not
                             compile
        """
        is_guided = settings.guidance != 1
        cached = CachedTransformer(transformer, dtype, is_packed=not compiled_batch_size)
        self._transformer: CachedTransformer | GuidedTransformer = cached
        if is_guided:
            self._transformer = GuidedTransformer(cached, settings.guidance)

        self._image_len = transformer.image_len
        n_rows = compiled_batch_size * (2 if is_guided else 1)
        self._step = compile_step(DecodeStep(self._transformer, settings), n_rows)
        self._cache: KVCache | None = None
        self._cache_sizes = (0, 0)  # samples and captions

    @torch.inference_mode()
    def sample(
        self,
        text_tokens: Tensor,
        uniforms: Tensor,
        kept: Tensor | None = None,
        *,
        on_progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Sample image tokens for each caption.

        text_tokens  int64 [B, T], -1 after the caption; where all captions come in rows of the same
                     number, samples of one share its keys and values
        uniforms     [B, I], see `candidate_uniforms`
        kept         int64 [I], tokens that all samples have already, -1 where one is to be sampled;
                     None: all are sampled
        on_progress  is called after each position with the share of them that is done; what it
                     raises ends the sampling
        returns      int64 [B, I] in raster order

        Raises DalleError where the transformer's predictions are not numbers.
        """
        n_samples, device = len(text_tokens), text_tokens.device
        kept = torch.full([self._image_len], -1) if kept is None else kept
        is_sampled = (kept < 0).tolist()
        first = is_sampled.index(True)
        last = len(is_sampled) - 1 - is_sampled[::-1].index(True)

        tokens = kept.to(device).repeat(n_samples, 1)  # [B, I]
        captions = distinct_captions(text_tokens)  # [C, T]
        cache = self._cache_for(n_samples, len(captions))
        self._transformer.prefill(captions, tokens[0, :first], cache)

        by_position = uniforms.to(device).T.contiguous()  # [I, B]
        positions = torch.arange(self._image_len, device=device)
        previous = tokens[:, max(first - 1, 0)].clamp(min=0)
        for i in range(first, last + 1):
            previous = self._step(previous, by_position[i], positions[i : i + 1], cache)
            if is_sampled[i]:
                tokens[:, i] = previous
            else:
                # in the memory layout of sampled tokens, or the step would be compiled again
                previous = tokens[:, i].contiguous()
            if on_progress is not None:
                on_progress((i + 1 - first) / (last + 1 - first))

        if bool((tokens == NO_TOKEN).any()):  # looked at once a batch: each look waits for a GPU
            hint = "the weights are damaged, or the precision is too low: `--precision fp32`"
            raise DalleError("the transformer's predictions are not finite", hint)
        return tokens

    def _cache_for(self, n_samples: int, n_captions: int) -> KVCache:
        """Return the cache of the last batch if it fits, else a new one.

        It is used again because a captured step reads and writes it at its address.
        """
        if self._cache is None or self._cache_sizes != (n_samples, n_captions):
            if self._cache is not None:
                self._cache.clear()  # before there are two; a captured step refers to it as well
            self._cache = self._transformer.new_cache(n_samples, n_captions)
            self._cache_sizes = n_samples, n_captions
        return self._cache


class DecodeStep(nn.Module):
    """One decode step: logits, probabilities and sampled tokens."""

    def __init__(
        self, transformer: CachedTransformer | GuidedTransformer, settings: SamplingSettings
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self._settings = settings

    def forward(
        self, previous: Tensor, uniforms: Tensor, position: Tensor, cache: KVCache
    ) -> Tensor:
        """Sample the tokens at a position.

        previous, uniforms  [B], the tokens before and random numbers
        position            int64 [1]
        returns             int64 [B]
        """
        # after NO_TOKEN any token will do: the batch fails at its end
        logits = self.transformer(previous.clamp(min=0), position, cache)  # [B, V]
        return sample_tokens(token_probabilities(logits, self._settings), uniforms)
