"""Captions to pictures in memory, for notebooks and programs: `dalle generate` without its files.

A picture is the one that the command writes, if captions, options and batch size are the same.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from dalle_cli.errors import UsageError
from dalle_cli.generation.batch_size import choose_batch_sizes
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.pipeline import Candidate
from dalle_cli.generation.ranking import (
    LIKELIHOODS,
    Likelihood,
    Ranking,
    RankingOptions,
    keep_best,
    load_ranking,
    rank_by_clip,
    score_batch,
)
from dalle_cli.generation.sampling import SamplingSettings, choose_sampling
from dalle_cli.runtime.devices import explain_out_of_memory, free_memory, open_device
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer
from dalle_cli.storage.model_about import SamplingAdvice, read_sampling_advice
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.shipped import resolve_run

RankBy = Literal["clip"] | Likelihood


@dataclass(frozen=True)
class GeneratedImage:
    """A picture of a caption.

    image    RGB
    number   which of its caption's candidates it is: with the seed, it names the picture
    score    CLIP's cosine or a likelihood, see `TextToImage.generate`; None where nothing ranks
    rank     among its caption's candidates, 1 is the best; None where nothing ranks
    """

    image: Image.Image
    caption: str
    seed: int
    number: int
    score: float | None
    rank: int | None


@dataclass(frozen=True)
class TextToImage:
    """A model that turns captions into pictures, with the CLIP that ranks them, if there is one."""

    pipeline: DallePipeline
    scorer: ClipScorer | None
    advice: SamplingAdvice

    def generate(
        self,
        captions: str | Sequence[str],
        n: int = 8,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float | None = None,
        rank: RankBy | None = None,
        best: int = 0,
    ) -> list[GeneratedImage]:
        """Generate n pictures of each caption, in the order of the captions.

        rank  "clip": by the cosine of picture and caption, needs a model loaded with a CLIP;
              "caption": by how much the caption explains of the picture, in nats; "perplexity": by
              the picture's likelihood, lower is better. Each caption's pictures come best first
        best  how many of each caption's n are returned; 0: all

        The other options are those of `dalle generate`. Raises UsageError for options that can't
        be right; what the command warns of is a Python warning here.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        settings = choose_sampling(
            self.advice, temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance
        )
        _check(captions, n, best, is_ranked=rank is not None)
        pipeline = replace(self.pipeline, seed=seed, sampling=settings)
        ranking = self._ranking(rank, captions)

        for text in (*pipeline.warnings(captions), *(ranking.warnings if ranking else ())):
            warnings.warn(text, stacklevel=2)

        candidates = [Candidate(caption, i) for caption in captions for i in range(n)]
        sizes = choose_batch_sizes(
            pipeline, len(captions), n=n, free_bytes=free_memory(pipeline.device)
        )
        scored, pictures = [], []
        with explain_out_of_memory():
            for batch in pipeline.generate(candidates, range(len(candidates)), sizes):
                for candidate, picture in score_batch(batch, ranking):
                    scored.append(candidate)
                    pictures.append(picture)

        return [
            GeneratedImage(
                image=pictures[kept.position],
                caption=kept.candidate.caption,
                seed=seed,
                number=kept.candidate.number,
                score=kept.score,
                rank=kept.rank,
            )
            for kept in keep_best(scored, n=n, n_kept=best or n, ranking=ranking)
        ]

    def _ranking(self, rank: RankBy | None, captions: list[str]) -> Ranking | None:
        if rank is None:
            return None
        if rank != "clip":
            if rank not in LIKELIHOODS:
                raise UsageError(f"no such ranking: {rank}", "clip, caption or perplexity")
            return load_ranking(RankingOptions(likelihood=rank), self.pipeline, captions)
        if self.scorer is None:
            raise UsageError("no CLIP was loaded to rank by", "load the model with `clip=`")
        return rank_by_clip(self.scorer, captions)


def load_pipeline(
    run: str | Path,
    *,
    clip: str | Path | None = None,
    checkpoint: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> TextToImage:
    """Load what turns captions into pictures.

    run         a `train-transformer` run, an export, or the name of a shipped model
    clip        a CLIP to rank by: a run, a shipped model, a public checkpoint or a name on the hub
    checkpoint  "best", "last" or a step: whose weights are used; None: the run's model
    device      "auto", "cpu" or "cuda"
    precision   "auto", "fp32", "bf16" or "fp16"

    Raises DalleError where a part is missing or does not belong to the others.
    """
    chosen, arithmetic = open_device(device, precision)
    folder = Path(resolve_run(str(run)))
    pipeline = DallePipeline.open(
        folder,
        device=chosen,
        precision=arithmetic,
        sampling=SamplingSettings(),
        seed=0,
        checkpoint=checkpoint,
    )
    advice = read_sampling_advice(RunDir(folder))
    if clip is None:
        return TextToImage(pipeline, None, advice)
    name = resolve_run(str(clip))
    scorer = load_clip_scorer(name, None, device=chosen, precision=arithmetic)
    return TextToImage(pipeline, scorer, advice)


def _check(captions: list[str], n: int, best: int, *, is_ranked: bool) -> None:
    if not captions:
        raise UsageError("there is no caption")
    if n < 1 or not 0 <= best <= n:
        raise UsageError(f"{best or n} of {n} pictures can't be returned")
    if best and not is_ranked:
        raise UsageError("nothing says which pictures are the best", "give `rank=`")
