"""DALL-E 2 as a pipeline (Ramesh et al. 2022, section 2).

A caption's embeddings are guessed by a prior, and painted by a decoder. Knows nothing of files,
apart from the runs it is opened from, or of which pictures are worth keeping. Axes used below:

    B batch    D width of CLIP's embedding
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dalle_cli.data.images import to_image
from dalle_cli.generation.pipeline import (
    BatchSizes,
    Candidate,
    GeneratedBatch,
    filled_batches,
    repeated_captions,
    requested_parts,
)
from dalle_cli.generation.unclip.caption_inputs import EncodedCaptions, encode_with_clip
from dalle_cli.generation.unclip.decoder_sampler import DecoderSampler
from dalle_cli.generation.unclip.noise import NoiseKey
from dalle_cli.generation.unclip.opening import open_decoder, open_prior
from dalle_cli.generation.unclip.prior_samplers import EmbeddingGuesser, NoGuesser
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.runtime.precision import Precision
from dalle_cli.scoring.clip_scorer import ClipScorer


@dataclass(frozen=True)
class UnclipPipeline:
    """A prior, a decoder and their CLIP on a device.

    Embeddings are guessed for a sampling batch, and painted for a decoding batch. `settings` are
    the fields of a picture's record that state all this.
    """

    guesser: EmbeddingGuesser
    decoder: DecoderSampler
    scorer: ClipScorer
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        run: Path,
        *,
        prior: str | None,
        device: torch.device,
        precision: Precision,
        sampling: UnclipSettings,
        seed: int,
        checkpoint: str | None = None,
    ) -> "UnclipPipeline":
        """Load a decoder's run or export, its CLIP and a prior onto a device.

        prior       see `open_prior`
        checkpoint  "best", "last" or a step: whose weights the decoder gets; None: the run's model

        Raises DalleError where a part is missing or does not belong to the others, and UsageError
        for settings that they can't be sampled with.
        """
        decoder, scorer = open_decoder(
            run, sampling, device=device, precision=precision, checkpoint=checkpoint
        )
        guesser = open_prior(
            prior, sampling, run=run, parts=decoder.parts, scorer=scorer, precision=precision
        )
        settings = {
            "seed": seed,
            **decoder.settings,
            **guesser.settings,
            "embedding_clip": scorer.identity,
            "device": device.type,
            "precision": precision,
        }
        return cls(guesser, decoder, scorer, seed, settings)

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.decoder.device

    @property
    def is_compiled(self) -> bool:
        """Whether the first batch waits for a compiler."""
        return False

    def compiled(self, *, is_compiled: bool) -> "UnclipPipeline":
        """Return the same pipeline: nothing of it is compiled."""
        return self

    def generate(
        self, candidates: Sequence[Candidate], positions: Sequence[int], sizes: BatchSizes
    ) -> Iterator[GeneratedBatch]:
        """Generate the candidates at these positions, in order.

        As for DALL-E, batches start at multiples of their size and are always full, since the last
        bits of a multiplication depend on its shape and on its other rows.
        """
        requested = set(positions)
        for first, batch in filled_batches(candidates, requested, sizes.sampling):
            keys = [NoiseKey(self.seed, c.caption, c.number) for c in batch]
            captions = encode_with_clip(self.scorer, [c.caption for c in batch])
            embeddings = self.guesser.guess(captions, keys)  # [B, D]
            inputs = self._decoder_captions(captions)

            for part, asked_for in requested_parts(first, len(batch), sizes.decoding, requested):
                images = self.decoder.sample(
                    embeddings[part],
                    None if inputs is None else CaptionInputs(*(tensor[part] for tensor in inputs)),
                    keys[part],
                    is_embedding_dropped=isinstance(self.guesser, NoGuesser),
                )  # [B, 3, R, R]
                yield GeneratedBatch(
                    position=first + part.start,
                    candidates=batch[part],
                    pictures=[to_image(image) for image in images],
                    requested=asked_for,
                )

    def _decoder_captions(self, captions: EncodedCaptions) -> CaptionInputs | None:
        if not self.decoder.reads_captions:
            return None
        return captions.inputs(reads_tokens=self.decoder.parts.table.text is not None)

    def sampling_bytes(self, n_samples: int, n_captions: int) -> int:
        """Estimate what guessing takes; each picture has an embedding of its own."""
        return self.guesser.n_bytes(n_samples)

    def decoding_bytes(self) -> int:
        """Estimate what a step of the decoder takes per picture."""
        return self.decoder.bytes_per_picture()

    def n_steps(self, n_batches: int) -> int:
        """Return 0, since nothing is compiled."""
        return 0

    def warnings(self, captions: list[str]) -> Iterator[str]:
        """Yield a warning for repeated captions, and for those that CLIP reads truncated."""
        yield from repeated_captions(captions)
        yield from self.scorer.warnings(captions)
