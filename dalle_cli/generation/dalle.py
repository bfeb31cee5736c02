"""DALL-E as a pipeline (Ramesh et al. 2021, section 2).

Captions are tokenized, image tokens sampled and pictures decoded. Knows nothing of files, apart
from the run it is opened from, or of which pictures are worth keeping.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dalle_cli.data.images import to_image
from dalle_cli.data.preprocessing import pad_tokens
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import printable
from dalle_cli.generation.cached_transformer import kv_cache_bytes
from dalle_cli.generation.image_prompt import ImagePrompt, keep_tokens
from dalle_cli.generation.pipeline import (
    CAPTION_SHOWN,
    BatchSizes,
    Candidate,
    GeneratedBatch,
    filled_batches,
    repeated_captions,
    requested_parts,
)
from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.loading import load_dalle
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.precision import DTYPES, Precision, apply_precision

FP32_BYTES = 4
SAMPLING_BYTES_PER_LOGIT = 64  # guided and unguided logits, probabilities, bisection, sums in fp64
SAMPLING_VALUES_PER_SLOT = 32  # times the width: what a block normalises, fuses, expands, in fp32
# times the last channels: twice as many come in, a ReLU, a new layout
DECODING_VALUES_PER_PIXEL = 8
WORD_SHOWN = 30  # characters of a word
MOST_WORDS_SHOWN = 8  # of a caption
MOST_CAPTIONS_SHOWN = 5  # with words that were never trained on


@dataclass(frozen=True)
class TokenBatch(GeneratedBatch):
    """A generated batch with its tokens, from which a likelihood can be computed.

    text_tokens   int64 [B, T], -1 after the caption
    image_tokens  int64 [B, I]
    """

    text_tokens: Tensor
    image_tokens: Tensor


@dataclass(frozen=True)
class DallePipeline:
    """A transformer, a discrete VAE and a tokenizer on a device, and how tokens are sampled.

    dtype        of the arithmetic in the transformer's residual branches
    kept_tokens  int64 [I]: tokens that all pictures share, -1 where one is to be sampled; None: all
                 are sampled
    settings     the fields of a picture's record that state all this

    `knows_empty_caption` states whether the transformer was trained with empty captions, which
    guidance compares with; `known_words` are those of its training captions, if they are recorded.
    `on_progress` is called after each position with the share of all sampling that is done; what it
    raises ends the generation.
    """

    transformer: Transformer
    dvae: DiscreteVAE
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype = torch.float32
    seed: int = 0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    kept_tokens: Tensor | None = None
    is_compiled: bool = False
    knows_empty_caption: bool = True
    known_words: KnownWords | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    on_progress: Callable[[float], None] | None = None

    @classmethod
    def open(
        cls,
        run: Path,
        *,
        device: torch.device,
        precision: Precision,
        sampling: SamplingSettings,
        seed: int,
        image: ImagePrompt | None = None,
        checkpoint: str | None = None,
    ) -> "DallePipeline":
        """Load a run's transformer, dVAE and tokenizer onto a device.

        image       a picture whose tokens are kept in part
        checkpoint  "best", "last" or a step: whose weights are used; None: the run's model

        Raises DalleError where a part is missing or does not belong to the others, and UsageError
        where nothing of the picture could be kept or sampled.
        """
        parts = load_dalle(run, checkpoint)
        transformer, dvae = parts.transformer, parts.dvae
        for model in (transformer.to(device), dvae.to(device)):
            apply_precision(model, precision, device)

        kept = None if image is None else keep_tokens(image, dvae)
        settings = {
            "seed": seed,
            **asdict(sampling),
            "device": device.type,
            "precision": precision,
            "model": parts.checksum,
            **({} if parts.step is None else {"checkpoint": parts.step}),
            **(kept.record if kept else {}),
        }
        return cls(
            transformer=transformer,
            dvae=dvae,
            tokenizer=parts.tokenizer,
            device=device,
            dtype=DTYPES.get(precision, torch.float32),
            seed=seed,
            sampling=sampling,
            kept_tokens=kept.tokens if kept else None,
            knows_empty_caption=parts.caption_dropout != 0,
            known_words=parts.known_words,
            settings=settings,
        )

    def compiled(self, *, is_compiled: bool) -> "DallePipeline":
        """Return the same pipeline with the sampling step compiled, or not."""
        return replace(self, is_compiled=is_compiled)

    def text_tokens(self, captions: list[str]) -> Tensor:
        """Encode captions: int64 [B, T], -1 after each caption."""
        rows = [
            pad_tokens(self.tokenizer.encode(caption), self.transformer.text_len)
            for caption in captions
        ]
        return torch.stack([torch.from_numpy(row) for row in rows]).to(self.device)  # [B, T]

    def generate(
        self, candidates: Sequence[Candidate], positions: Sequence[int], sizes: BatchSizes
    ) -> Iterator[TokenBatch]:
        """Generate the candidates at these positions, in order.

        Batches start at multiples of their size. Candidates that were not asked for are sampled all
        the same, and a short batch is filled up, since the last bits of a multiplication depend on
        its shape and on its other rows.
        """
        size, requested = sizes.sampling, set(positions)
        if not requested:
            return

        sampler = Sampler(
            self.transformer,
            self.sampling,
            dtype=self.dtype,
            compiled_batch_size=size if self.is_compiled else 0,
        )
        batches = filled_batches(candidates, requested, size)
        for n_done, (first, batch) in enumerate(batches):
            yield from self._generate_batch(
                sampler,
                batch,
                first,
                requested,
                decoding_batch_size=sizes.decoding,
                on_progress=partial(self._report, n_done, len(batches)),
            )

    def _report(self, n_done: int, n_batches: int, share: float) -> None:
        if self.on_progress is not None:
            self.on_progress((n_done + share) / n_batches)

    def _generate_batch(
        self,
        sampler: Sampler,
        batch: list[Candidate],
        first: int,
        requested: set[int],
        *,
        decoding_batch_size: int,
        on_progress: Callable[[float], None],
    ) -> Iterator[TokenBatch]:
        """Sample the batch that starts at position `first`, and decode its requested parts."""
        n_tokens = self.transformer.image_len
        uniforms = [
            candidate_uniforms(self.seed, c.caption, numbers=[c.number], n_tokens=n_tokens)
            for c in batch
        ]
        text_tokens = self.text_tokens([candidate.caption for candidate in batch])
        image_tokens = sampler.sample(
            text_tokens, torch.cat(uniforms), self.kept_tokens, on_progress=on_progress
        )

        parts = requested_parts(first, len(batch), decoding_batch_size, requested)
        for part, asked_for in parts:
            images = self.dvae.decode(image_tokens[part])  # [B, 3, H, W]
            yield TokenBatch(
                position=first + part.start,
                candidates=batch[part],
                pictures=[to_image(image) for image in images],
                requested=asked_for,
                text_tokens=text_tokens[part],
                image_tokens=image_tokens[part],
            )

    def sampling_bytes(self, n_samples: int, n_captions: int) -> int:
        """Estimate what sampling takes: a copy of the weights, the KV cache, activations, and the
        choice of a token.

        n_captions  how many captions the samples belong to, in equal parts
        """
        if self.sampling.guidance != 1:  # every sample and caption also runs with an empty caption
            n_samples, n_captions = 2 * n_samples, 2 * n_captions

        transformer = self.transformer
        n_weights = sum(parameter.numel() for parameter in transformer.parameters())
        n_slots = n_samples + n_captions * transformer.text_len
        width = transformer.start_of_text.numel()

        return (
            n_weights * self.dtype.itemsize
            + kv_cache_bytes(transformer, n_samples, n_captions=n_captions, dtype=self.dtype)
            + n_slots * width * SAMPLING_VALUES_PER_SLOT * FP32_BYTES
            + n_samples * transformer.image_vocab_size * SAMPLING_BYTES_PER_LOGIT
        )

    def decoding_bytes(self) -> int:
        """Estimate what decoding takes per picture, at its widest: next to the pixels."""
        n_channels = self.dvae.decoder.trunk.output.in_channels
        return DECODING_VALUES_PER_PIXEL * FP32_BYTES * n_channels * self.dvae.image_size**2

    def n_steps(self, n_batches: int) -> int:
        """Return at how many positions n batches sample a token."""
        return n_batches * self.transformer.image_len

    def warnings(self, captions: list[str]) -> Iterator[str]:
        """Yield a warning for repeated and truncated captions, for words that were never trained
        on, and for guidance that was not trained for.
        """
        yield from repeated_captions(captions)
        room = self.transformer.text_len - 1
        for caption in captions:
            n_tokens = len(self.tokenizer.encode(caption))
            if n_tokens > room:
                shown = printable(caption)[:CAPTION_SHOWN]
                yield f"caption truncated from {n_tokens:,} to {room} tokens: {shown}…"

        yield from self._unknown_words(captions)
        if self.sampling.guidance != 1 and not self.knows_empty_caption:
            yield (
                "guidance compares with the empty caption, which this run never saw in training: "
                "`loss.caption_dropout` was 0"
            )

    def _unknown_words(self, captions: list[str]) -> Iterator[str]:
        """Yield a warning for each of the first captions with words that were never trained on."""
        known = self.known_words
        if known is None:
            return

        lists = [
            words for caption in dict.fromkeys(captions) if (words := known.unknown_in(caption))
        ]
        for words in lists[:MOST_CAPTIONS_SHOWN]:
            named = [f'"{printable(word)[:WORD_SHOWN]}"' for word in words[:MOST_WORDS_SHOWN]]
            if len(words) > MOST_WORDS_SHOWN:
                named.append(f"and {len(words) - MOST_WORDS_SHOWN} more")
            shown = ", ".join(named)
            if known.is_complete:
                yield f"never seen in training: {shown}"
            else:
                n_known = f"{len(known.words):,}"
                yield f"not among the {n_known} most frequent words of training: {shown}"

        if len(lists) > MOST_CAPTIONS_SHOWN:
            yield f"and {len(lists) - MOST_CAPTIONS_SHOWN} more captions with such words"
