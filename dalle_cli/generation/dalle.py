"""From captions to pictures with a trained transformer: tokenized, sampled, decoded, so many side by side.

Knows nothing of files, nor of which pictures are worth keeping.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dalle_cli.data.images import to_image
from dalle_cli.data.preprocessing import pad_tokens
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.generation.pipeline import BatchSizes, Candidate, GeneratedBatch
from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer


@dataclass(frozen=True)
class DallePipeline:
    """Everything between a caption and its picture."""

    transformer: Transformer
    dvae: DiscreteVAE
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype = torch.float32  # of the transformer's branches
    is_compiled: bool = False  # what draws a token; for many batches

    def check(self, run: Path) -> None:
        """Raise DalleError unless the three parts of a run speak the same tokens."""
        reads = (
            self.transformer.text_vocab_size,
            self.transformer.grid_size,
            self.transformer.image_vocab_size,
        )
        speaks = (self.tokenizer.vocab_size, self.dvae.grid_size, self.dvae.vocab_size)
        names = ("text vocabulary", "token grid", "image vocabulary")
        for name, read, spoken in zip(names, reads, speaks, strict=True):
            if read != spoken:
                raise DalleError(
                    f"the parts of {run} don't belong together: {name} of {read} and of {spoken}"
                )

    def text_tokens(self, captions: list[str]) -> Tensor:
        """Encode captions: int64 [B, T], -1 after each."""
        rows = [
            pad_tokens(self.tokenizer.encode(caption), self.transformer.text_len)
            for caption in captions
        ]
        return torch.stack([torch.from_numpy(row) for row in rows]).to(self.device)

    def generate(
        self,
        candidates: list[Candidate],
        places: Sequence[int],
        widths: BatchSizes,
        seed: int,
        settings: SamplingSettings,
        kept: Tensor | None = None,
    ) -> Iterator[GeneratedBatch]:
        """Draw the candidates at these places, in order; `kept` int64 [I] has tokens of all, -1 to be drawn.

        Batches begin at multiples of their width, have others drawn with what is wanted of them, and a short one is
        filled up, so that a picture does not depend on which others are wanted.
        """
        n_tokens, width = self.transformer.image_len, widths.sampling
        wanted = set(places)
        if not wanted:
            return
        sampler = Sampler(
            self.transformer,
            settings,
            dtype=self.dtype,
            compiled_batch_size=width if self.is_compiled else 0,
        )
        for first in sorted({place - place % width for place in wanted}):
            batch = candidates[first : first + width]
            others = itertools.cycle(
                candidates
            )  # from the first on, so that captions come in rows of equally many
            filled = batch + list(itertools.islice(others, width - len(batch)))
            rows = [
                candidate_uniforms(seed, c.caption, numbers=[c.number], n_tokens=n_tokens)
                for c in filled
            ]
            text_tokens = self.text_tokens([c.caption for c in filled])
            image_tokens = sampler.sample(text_tokens, torch.cat(rows), kept)
            for at in range(0, width, widths.decoding):
                own = slice(at, at + widths.decoding)
                asked = [i for i in range(len(filled[own])) if first + at + i in wanted]
                if asked:
                    pictures = [to_image(image) for image in self.dvae.decode(image_tokens[own])]
                    yield GeneratedBatch(
                        first + at,
                        filled[own],
                        text_tokens[own],
                        image_tokens[own],
                        pictures,
                        asked,
                    )
