"""Captions to pictures in memory, for notebooks and programs: `dalle generate` without its files.

A picture is the one that the command writes, if captions, options and batch size are the same.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from dalle_cli.errors import UsageError
from dalle_cli.generation.batch_size import choose_batch_sizes, even_batch_size
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.image_prompt import keep_top_rows
from dalle_cli.generation.pipeline import BatchSizes, Candidate
from dalle_cli.generation.ranking import (
    LIKELIHOODS,
    Likelihood,
    Ranking,
    RankingOptions,
    ScoredCandidate,
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
    rank     among its caption's candidates, 1 is the best; None where nothing ranks, and until all
             of them have come
    """

    image: Image.Image
    caption: str
    seed: int
    number: int
    score: float | None
    rank: int | None


@dataclass(frozen=True)
class GenerationOptions:
    """How the pictures of each caption are generated, and how many of them are kept.

    first       number of the first picture of each caption
    rank, best  see `TextToImage.generate`
    image       RGB, of which the top `keep_rows` rows of tokens are kept; by default 15 of 32
    batch_size  how many pictures are sampled together at most; 0: as many as pay off
    """

    n: int = 8
    first: int = 0
    seed: int = 0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    rank: RankBy | None = None
    best: int = 0
    image: Image.Image | None = None
    keep_rows: int | None = None
    batch_size: int = 0


@dataclass(frozen=True)
class Generation:
    """Pictures that are ready to be generated: everything that they depend on.

    n, n_kept  how many pictures of each caption are generated, and how many of these are kept
    """

    pipeline: DallePipeline
    candidates: list[Candidate]
    sizes: BatchSizes
    ranking: Ranking | None
    n: int
    n_kept: int

    @property
    def warnings(self) -> list[str]:
        """What `dalle generate` would warn of."""
        captions = [one.caption for one in self.candidates[:: self.n]]
        return [
            *self.pipeline.warnings(captions),
            *(self.ranking.warnings if self.ranking else ()),
        ]

    def images(self) -> Iterator[GeneratedImage]:
        """Generate all pictures; yield them in order as their batches come, with no rank yet."""
        positions = range(len(self.candidates))
        with explain_out_of_memory():
            for batch in self.pipeline.generate(self.candidates, positions, self.sizes):
                for scored, picture in score_batch(batch, self.ranking):
                    yield GeneratedImage(
                        image=picture,
                        caption=scored.candidate.caption,
                        seed=self.pipeline.seed,
                        number=scored.candidate.number,
                        score=scored.score,
                        rank=None,
                    )

    def kept(self, images: Sequence[GeneratedImage]) -> list[GeneratedImage]:
        """Return those of all pictures that are kept, the best of each caption first if ranked."""
        scored = (
            ScoredCandidate(position, candidate, image.score)
            for position, (candidate, image) in enumerate(zip(self.candidates, images, strict=True))
        )
        best = keep_best(scored, n=self.n, n_kept=self.n_kept, ranking=self.ranking)
        return [replace(images[one.position], rank=one.rank) for one in best]


@dataclass(frozen=True)
class TextToImage:
    """A model that turns captions into pictures, with the CLIP that ranks them, if there is one."""

    pipeline: DallePipeline
    scorer: ClipScorer | None
    advice: SamplingAdvice

    @property
    def rankings(self) -> tuple[RankBy, ...]:
        """What can rank this model's pictures."""
        by_clip: tuple[RankBy, ...] = ("clip",) if self.scorer is not None else ()
        by_caption: tuple[RankBy, ...] = ("caption",) if self.pipeline.knows_empty_caption else ()
        return (*by_clip, *by_caption, "perplexity")

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
        options = GenerationOptions(n=n, seed=seed, sampling=settings, rank=rank, best=best)

        generation = self.prepare(captions, options)
        for text in generation.warnings:
            warnings.warn(text, stacklevel=2)
        return generation.kept(list(generation.images()))

    def prepare(
        self,
        captions: list[str],
        options: GenerationOptions,
        *,
        on_progress: Callable[[float], None] | None = None,
    ) -> Generation:
        """Prepare pictures of captions that are then generated one batch after another.

        on_progress  see `DallePipeline`

        Raises UsageError for options that can't be right.
        """
        _check(captions, options)
        pipeline = replace(
            self.pipeline, seed=options.seed, sampling=options.sampling, on_progress=on_progress
        )
        if options.image is not None:
            kept = keep_top_rows(options.image, options.keep_rows, pipeline.dvae)
            pipeline = replace(pipeline, kept_tokens=kept)

        n, free_bytes = options.n, free_memory(pipeline.device)
        sizes = choose_batch_sizes(pipeline, len(captions), n=n, free_bytes=free_bytes)
        if options.batch_size:
            bound = min(options.batch_size, sizes.sampling)
            sizes = replace(sizes, sampling=even_batch_size(len(captions), n, bound))

        numbers = range(options.first, options.first + n)
        return Generation(
            pipeline=pipeline,
            candidates=[Candidate(caption, number) for caption in captions for number in numbers],
            sizes=sizes,
            ranking=self._ranking(options.rank, captions),
            n=n,
            n_kept=options.best or n,
        )

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


def _check(captions: list[str], options: GenerationOptions) -> None:
    n, best = options.n, options.best
    if not captions:
        raise UsageError("there is no caption")
    if n < 1 or not 0 <= best <= n:
        raise UsageError(f"{best or n} of {n} pictures can't be returned")
    if best and options.rank is None:
        raise UsageError("nothing says which pictures are the best", "give `rank=`")
