"""How well pictures fit their captions: CLIP's cosine, or the transformer's own likelihood.

Ramesh et al. 2021, section 2.6, draw many candidates and keep those that a contrastive model likes best. Knows nothing
of files. Axes: B batch, E CLIP's shared width.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.generation.pipeline import Candidate, GeneratedBatch
from dalle_cli.models.transformer import Transformer
from dalle_cli.scoring.clip_scorer import ClipScorer


@torch.inference_mode()
def image_perplexity(
    transformer: Transformer, text_tokens: Tensor, image_tokens: Tensor
) -> list[float]:
    """Exponential of the mean -ln p of a picture's tokens under the model that drew it; lower is better.

    text_tokens   int64 [B, T], -1 after the caption
    image_tokens  int64 [B, I]
    """
    _, logits = transformer(text_tokens, image_tokens)
    nats = F.cross_entropy(logits.float().transpose(1, 2), image_tokens, reduction="none").mean(
        dim=1
    )
    return nats.exp().tolist()


@dataclass(frozen=True)
class Ranking:
    """How candidates of one caption are put in order.

    score     gives a number for each picture of a slice
    checksum  of the CLIP that it depends on, if any
    """

    by: Literal["clip", "perplexity"]
    score: Callable[[GeneratedBatch], list[float]]
    checksum: str | None = None


@dataclass(frozen=True)
class Scored:
    """A candidate and its place among all; with its score and rank, from 1, where candidates are ranked."""

    place: int
    candidate: Candidate
    score: float | None
    rank: int | None = None
    ranked_by: str | None = None

    def record(self) -> dict[str, Any]:
        """Say for a manifest what this is."""
        if self.score is None:
            return asdict(self.candidate)
        ranked = {"rank": self.rank, "score": round(self.score, 6), "ranked_by": self.ranked_by}
        return {**asdict(self.candidate), **ranked}


def rank_by_perplexity(transformer: Transformer) -> Ranking:
    """Rank by the likelihood of the transformer itself, for which no second model is needed."""
    return Ranking(
        "perplexity",
        lambda drawn: image_perplexity(transformer, drawn.text_tokens, drawn.image_tokens),
    )


def rank_by_clip(scorer: ClipScorer, checksum: str, captions: Sequence[str]) -> Ranking:
    """Rank by the cosine with the caption; all captions are embedded beforehand."""
    captions = list(dict.fromkeys(captions))
    embeddings = dict(zip(captions, scorer.embed_captions(captions), strict=True))

    def cosines(drawn: GeneratedBatch) -> list[float]:
        pictures = scorer.embed_pictures([scorer.square(picture) for picture in drawn.pictures])
        return (
            (pictures * torch.stack([embeddings[c.caption] for c in drawn.candidates]))
            .sum(dim=1)
            .tolist()
        )

    return Ranking("clip", cosines, checksum)


def scored(drawn: GeneratedBatch, ranking: Ranking | None) -> list[tuple[Scored, Image.Image]]:
    """List the wanted candidates of a slice with their pictures; where there is a ranking, all of it is scored."""
    scores = ranking.score(drawn) if ranking else [None] * len(drawn.candidates)
    return [
        (Scored(drawn.place + i, drawn.candidates[i], scores[i]), drawn.pictures[i])
        for i in drawn.wanted
    ]


def keep_best(
    candidates: Iterable[Scored], n: int, n_kept: int, ranking: Ranking | None
) -> Iterator[Scored]:
    """Pass on the best n_kept of each n, the best first, once all n are there; unranked ones pass as they come."""
    if ranking is None:
        yield from candidates
        return
    candidates = iter(candidates)
    while group := list(itertools.islice(candidates, n)):
        group.sort(
            key=lambda one: one.score, reverse=ranking.by == "clip"
        )  # cosines fall, perplexities rise
        for rank, one in enumerate(group[:n_kept], start=1):
            yield replace(one, rank=rank, ranked_by=ranking.by)
