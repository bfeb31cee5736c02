"""Figures of a model on held-out pairs, without generating anything.

A transformer's losses are those of its training (`training/tasks/transformer.py`), over as many
pairs as are wanted: with the weights of a run, the same pairs give the same figures. Axes: B batch,
S side of a picture, E CLIP's shared width.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.loader import Batch, collate, read_sample
from dalle_cli.data.preprocessing import Example, TransformerPreprocessing
from dalle_cli.data.sources import Source
from dalle_cli.evaluation.figures.reconstruction_figures import (
    ReconstructionFigures,
    measure_reconstruction,
)
from dalle_cli.evaluation.figures.retrieval import retrieval_figures
from dalle_cli.evaluation.picture_sets import SourcePictures, centred_pictures, stack_squares
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.losses import linear_cross_entropy
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.scoring.embeddings import prefetch

BATCH_SIZE = 8  # sequences: attention of the paper's size fills gigabytes for each

Advance = Callable[[], None]


@dataclass(frozen=True)
class HeldOutFigures:
    """Figures by name, how many pairs they are of, and which were bad, with the reasons."""

    figures: dict[str, float]
    n_pairs: int
    bad: dict[str, str]


@dataclass
class _Tally:
    """Sums over the tokens of one kind: of -ln p, and of those that were the likeliest."""

    nats: float = 0.0
    hits: int = 0
    n_tokens: int = 0

    def figures(self, kind: str) -> dict[str, float]:
        n = max(self.n_tokens, 1)
        return {
            f"nats_per_{kind}_token": self.nats / n,
            f"bits_per_{kind}_token": self.nats / n / math.log(2),
            f"{kind}_token_accuracy": self.hits / n,
        }


@torch.inference_mode()
def transformer_figures(
    pipeline: DallePipeline, source: Source, indices: np.ndarray, *, advance: Advance
) -> HeldOutFigures:
    """Compute losses per token of both kinds, and how often the likeliest token is the right one.

    advance  called once for each pair
    """
    transformer = pipeline.transformer
    bad: dict[str, str] = {}
    preprocess = TransformerPreprocessing(
        image_size=pipeline.dvae.image_size,
        text_len=transformer.text_len,
        tokenizer=pipeline.tokenizer,
        bpe_dropout=0.0,
        caption_dropout=0.0,
    )
    text, image, n_pairs = _Tally(), _Tally(), 0

    for batch in _batches(source, indices, preprocess, bad=bad, device=pipeline.device):
        image_tokens = pipeline.dvae.image_tokens(batch.images)  # [B, I]
        features = transformer.features(batch.text_tokens, image_tokens)
        heads = (transformer.text_head, transformer.image_head)
        tokens = (batch.text_tokens, image_tokens)

        for tally, x, head, targets in zip((text, image), features, heads, tokens, strict=True):
            nats, hits = linear_cross_entropy(x, targets, weight=head.weight, bias=head.bias)
            tally.nats += float(nats)
            tally.hits += int(hits)
            tally.n_tokens += int((targets >= 0).sum())
        n_pairs += len(batch.positions)
        for _ in batch.positions:
            advance()
    return HeldOutFigures({**text.figures("text"), **image.figures("image")}, n_pairs, bad)


def _batches(
    source: Source,
    indices: np.ndarray,
    preprocess: TransformerPreprocessing,
    *,
    bad: dict[str, str],
    device: torch.device,
) -> Iterator[Batch]:
    """Yield the pairs that can be read, on a device; the others are added to `bad`."""

    def read(index: int) -> Example | Problem:
        try:
            return preprocess(read_sample(source, index), None)
        except BadSample as fault:
            return source.key(index), fault.reason

    with ThreadPoolExecutor() as pool:
        for batch in prefetch(read, indices.tolist(), pool=pool, batch_size=BATCH_SIZE):
            bad.update(item for item in batch if not isinstance(item, Example))
            examples = [item for item in batch if isinstance(item, Example)]
            if examples:
                whole = collate(examples, list(range(len(examples))), bad=[])
                yield from whole.micro_batches(0, device)


@torch.inference_mode()
def dvae_figures(
    dvae: DiscreteVAE,
    source: Source,
    indices: np.ndarray,
    *,
    device: torch.device,
    advance: Advance,
) -> HeldOutFigures:
    """Compute PSNR, SSIM and the use of the codebook, with hard tokens, as `reconstruct` does."""
    pictures = centred_pictures(source, indices, dvae.image_size)
    figures, n_pairs = ReconstructionFigures(dvae), 0

    for squares in pictures.batches():
        pixels = torch.from_numpy(stack_squares(squares)).permute(0, 3, 1, 2)  # [B, 3, S, S]
        originals = pixels.float() / 255
        image_tokens = dvae.image_tokens(originals.to(device))
        rebuilt = dvae.decode(image_tokens).cpu()
        for original, copy, tokens in zip(originals, rebuilt, image_tokens.cpu(), strict=True):
            figures.add(measure_reconstruction(original, copy, image_tokens=tokens))
            advance()
        n_pairs += len(squares)
    return HeldOutFigures(figures.summary() if n_pairs else {}, n_pairs, pictures.bad)


def clip_figures(
    scorer: ClipScorer, source: Source, indices: np.ndarray, *, advance: Advance
) -> HeldOutFigures:
    """Compute the mean cosine of picture and caption, and recalls of both ways of retrieval."""
    pictures = SourcePictures(source, indices, scorer.square)
    texts: list[str] = []
    embedded: list[torch.Tensor] = []

    for squares in pictures.batches():
        embedded.append(scorer.embed_pictures([square.pixels for square in squares]))
        texts += [square.caption for square in squares]
        for _ in squares:
            advance()
    if not texts:
        return HeldOutFigures({}, 0, pictures.bad)

    images, captions = torch.cat(embedded), scorer.embed_captions(texts)  # [N, E] each
    figures = {
        "clip_score": float((images * captions).sum(dim=1).double().mean()),
        **retrieval_figures(images, captions, texts),
    }
    return HeldOutFigures(figures, len(texts), pictures.bad)
