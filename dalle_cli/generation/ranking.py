"""The order of a caption's candidates: by CLIP's cosine, or by likelihoods under the transformer
itself.

Ramesh et al. 2021, section 2.6, generate many candidates and keep those that a contrastive model
likes best. A likelihood needs no second model: that of the picture alone, or how much the caption
adds to it. Knows nothing of files. Axes: B batch, T text positions, I image positions, V image
vocabulary.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.errors import UsageError
from dalle_cli.generation.dalle import DallePipeline, TokenBatch
from dalle_cli.generation.pipeline import Candidate, GeneratedBatch, Pipeline
from dalle_cli.models.transformer import Transformer
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer


@torch.inference_mode()
def image_perplexity(
    transformer: Transformer, text_tokens: Tensor, image_tokens: Tensor
) -> list[float]:
    """Compute the exponential of the mean -ln p of each picture's tokens under the model; lower is
    better.

    text_tokens   int64 [B, T], -1 after the caption
    image_tokens  int64 [B, I]
    """
    n_tokens = image_tokens.shape[1]
    nats = -image_log_likelihood(transformer, text_tokens, image_tokens) / n_tokens  # [B]
    return nats.exp().tolist()


@torch.inference_mode()
def caption_gain(
    transformer: Transformer, text_tokens: Tensor, image_tokens: Tensor
) -> list[float]:
    """Compute ln p(picture | caption) - ln p(picture | empty caption) of each picture, in nats.

    Higher is better: the caption explains more of the picture. The empty caption is the one that a
    recipe's `caption_dropout` trains. The arguments are those of `image_perplexity`.
    """
    given = image_log_likelihood(transformer, text_tokens, image_tokens)  # [B]
    without = image_log_likelihood(transformer, torch.full_like(text_tokens, -1), image_tokens)
    return (given - without).tolist()


@torch.inference_mode()
def image_log_likelihood(
    transformer: Transformer, text_tokens: Tensor, image_tokens: Tensor
) -> Tensor:
    """Compute ln p of each picture's tokens under the model: fp32 [B].

    The arguments are those of `image_perplexity`. Pictures are taken one by one: batch sizes are
    chosen for sampling and decoding, which have no logits of all positions at once.
    """
    sums = []
    for text, image in zip(text_tokens.split(1), image_tokens.split(1), strict=True):
        _, logits = transformer(text, image)  # [1, I, V]
        by_class = logits.float().transpose(1, 2)  # [1, V, I]
        sums.append(F.cross_entropy(by_class, image, reduction="sum"))
    return -torch.stack(sums)  # [B]


Likelihood = Literal["perplexity", "caption"]
LIKELIHOODS: dict[Likelihood, Callable[[Transformer, Tensor, Tensor], list[float]]] = {
    "perplexity": image_perplexity,
    "caption": caption_gain,
}


@dataclass(frozen=True)
class RankingOptions:
    """The ranking of candidates, if there is one, and how many of each caption's n are written.

    likelihood  to rank by, in place of a CLIP: see `LIKELIHOODS`
    clip        a CLIP to rank by: a run, a public checkpoint or a name on the hub
    vocabulary  the CLIP's vocabulary file, where it does not come with it
    best        how many of the n to keep, best first; 0: all
    keep_all    also write the rest, after the best
    """

    likelihood: Likelihood | None = None
    clip: str | None = None
    vocabulary: Path | None = None
    best: int = 0
    keep_all: bool = False

    def n_kept(self, n: int) -> int:
        """Return how many pictures of each caption are written."""
        return n if self.keep_all or not self.best else self.best

    def n_shown(self, n: int) -> int:
        """Return how many of those a grid shows: the best, where pictures are ranked."""
        return self.best or n


@dataclass(frozen=True)
class Ranking:
    """How the candidates of one caption are put in order.

    score     computes a number for each picture of a batch
    checksum  of the CLIP that scores depend on, if any
    warnings  to be printed before generation: captions that CLIP reads truncated
    """

    by: Literal["clip"] | Likelihood
    score: Callable[[GeneratedBatch], list[float]]
    checksum: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate, its position among all of a job, and where candidates are ranked its score.

    rank  from 1, once all candidates of its caption are scored
    """

    position: int
    candidate: Candidate
    score: float | None
    rank: int | None = None
    ranked_by: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the candidate's fields in a manifest."""
        if self.score is None:
            return asdict(self.candidate)
        ranked = {"rank": self.rank, "score": round(self.score, 6), "ranked_by": self.ranked_by}
        return {**asdict(self.candidate), **ranked}


def rank_by_likelihood(transformer: Transformer, by: Likelihood) -> Ranking:
    """Rank by a likelihood under the transformer, which needs no second model."""

    def scores(batch: GeneratedBatch) -> list[float]:
        assert isinstance(batch, TokenBatch), "a likelihood needs the tokens of a batch"
        return LIKELIHOODS[by](transformer, batch.text_tokens, batch.image_tokens)

    return Ranking(by, scores)


def rank_by_clip(scorer: ClipScorer, captions: Sequence[str]) -> Ranking:
    """Rank by the cosine with the caption; each caption is embedded once, beforehand."""
    distinct = list(dict.fromkeys(captions))
    embeddings = dict(zip(distinct, scorer.embed_captions(distinct), strict=True))

    def cosines(batch: GeneratedBatch) -> list[float]:
        squares = [scorer.square(picture) for picture in batch.pictures]
        texts = torch.stack([embeddings[c.caption] for c in batch.candidates])  # [B, E]
        return (scorer.embed_pictures(squares) * texts).sum(dim=1).tolist()

    return Ranking("clip", cosines, scorer.identity, tuple(scorer.warnings(distinct)))


def load_ranking(
    options: RankingOptions, pipeline: Pipeline, captions: Sequence[str]
) -> Ranking | None:
    """Load what ranks a pipeline's candidates, on the pipeline's device and in its precision.

    Raises DalleError where there is no such CLIP, or its vocabulary is missing, and UsageError
    where a likelihood cannot be computed: without a transformer, or for one that does not know the
    empty caption that a ranking compares with.
    """
    if options.likelihood is not None:
        return _likelihood_ranking(pipeline, options.likelihood)
    if options.clip is None:
        return None

    scorer = load_clip_scorer(
        options.clip,
        options.vocabulary,
        device=pipeline.device,
        precision=pipeline.settings["precision"],
    )
    return rank_by_clip(scorer, captions)


def _likelihood_ranking(pipeline: Pipeline, by: Likelihood) -> Ranking:
    if not isinstance(pipeline, DallePipeline):
        message = f"`--rank {by}` is for pictures made of tokens, and this model makes none"
        raise UsageError(message, "rank by a CLIP with `--clip`")
    if by == "caption" and not pipeline.knows_empty_caption:
        raise UsageError(
            "`--rank caption` compares with the empty caption, which this run never saw in "
            "training: `loss.caption_dropout` was 0",
            "rank by a CLIP with `--clip`, or by `--rank perplexity`",
        )
    return rank_by_likelihood(pipeline.transformer, by)


def score_batch(
    batch: GeneratedBatch, ranking: Ranking | None
) -> list[tuple[ScoredCandidate, Image.Image]]:
    """Return the requested candidates of a batch with their pictures.

    A ranking scores the whole batch.
    """
    scores = ranking.score(batch) if ranking else [None] * len(batch.candidates)
    return [
        (
            ScoredCandidate(batch.position + i, batch.candidates[i], scores[i]),
            batch.pictures[i],
        )
        for i in batch.requested
    ]


def keep_best(
    candidates: Iterable[ScoredCandidate], *, n: int, n_kept: int, ranking: Ranking | None
) -> Iterator[ScoredCandidate]:
    """Yield the best n_kept of each n consecutive candidates, best first, as soon as all n have
    come.

    Without a ranking every candidate is passed on as it comes.
    """
    if ranking is None:
        yield from candidates
        return

    candidates = iter(candidates)
    while group := list(itertools.islice(candidates, n)):
        # a lower perplexity is better, and a higher score of any other kind
        group.sort(key=_score_of, reverse=ranking.by != "perplexity")
        for rank, scored in enumerate(group[:n_kept], start=1):
            yield replace(scored, rank=rank, ranked_by=ranking.by)


def _score_of(scored: ScoredCandidate) -> float:
    assert scored.score is not None, "a ranking scores every candidate"
    return scored.score
