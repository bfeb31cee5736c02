"""A generation job, run by one process or by several: each stages its share, and the main process
adds all in order.

Ranks get whole batches, so that the pictures are those of a single process. While they generate,
processes communicate through files alone: a staged candidate is there for the next attempt,
whatever becomes of the process that generated it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dalle_cli.console import ProgressLine, Terminal
from dalle_cli.errors import DalleError
from dalle_cli.generation.batch_size import choose_batch_sizes
from dalle_cli.generation.output_folder import OutputFolder
from dalle_cli.generation.pipeline import BatchSizes, Candidate, Pipeline
from dalle_cli.generation.ranking import (
    Ranking,
    RankingOptions,
    ScoredCandidate,
    keep_best,
    score_batch,
)
from dalle_cli.runtime.compilation import MIN_STEPS_TO_COMPILE, has_compiler
from dalle_cli.runtime.devices import explain_out_of_memory, free_memory
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.signals import StopRequested
from dalle_cli.storage.background_writer import BackgroundWriter
from dalle_cli.storage.job_folder import JobFolder


@dataclass(frozen=True)
class GenerationJob:
    """Captions and everything that determines their pictures: the same on every rank.

    first      number of each caption's first candidate
    n          candidates of each caption
    selection  how many of each n are added, the best first where there is a ranking
    """

    pipeline: Pipeline
    captions: list[str]
    first: int
    n: int
    selection: RankingOptions
    ranking: Ranking | None
    sizes: BatchSizes
    world: World

    @cached_property
    def candidates(self) -> list[Candidate]:
        """All candidates, n of each caption, in order."""
        numbers = range(self.first, self.first + self.n)
        return [Candidate(caption, number) for caption in self.captions for number in numbers]

    @property
    def n_kept(self) -> int:
        """How many of each n are added."""
        return self.selection.n_kept(self.n)

    @property
    def n_shown(self) -> int:
        """How many of those a grid shows."""
        return self.selection.n_shown(self.n)

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of a picture's record that state how it was generated."""
        return {
            **self.pipeline.settings,
            "sampling_batch_size": self.sizes.sampling,
            "decoding_batch_size": self.sizes.decoding,
            "compiled": self.pipeline.is_compiled,
        }

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the files of the job's folder depend on."""
        return {
            "command": "generate",
            "captions": self.captions,
            "first": self.first,
            "n": self.n,
            "best": self.selection.best,
            "keep_all": self.selection.keep_all,
            "ranked_by": self.ranking and self.ranking.by,
            "clip": self.ranking and self.ranking.checksum,
            **self.settings,
        }


def plan_job(
    pipeline: Pipeline,
    captions: list[str],
    *,
    first: int,
    n: int,
    selection: RankingOptions,
    ranking: Ranking | None,
    batch_size: int,
    folder: JobFolder,
    world: World,
) -> GenerationJob:
    """Choose batch sizes and whether to compile, or recall those the folder's job was begun with.

    batch_size  candidates sampled together; 0: automatic

    Every rank takes part. Raises DalleError where the job was begun with compiled sampling and this
    machine has no compiler, and UsageError where the folder was begun for another job.
    """
    n_candidates = len(captions) * n
    free_bytes = min(world.all_gather([free_memory(pipeline.device)]))
    automatic = choose_batch_sizes(
        pipeline,
        len(captions),
        n=n,
        # processes share the memory of a CPU, while each has a separate GPU
        free_bytes=free_bytes / world.size if pipeline.device.type == "cpu" else free_bytes,
        n_processes=world.size,
    )
    recalled = recall_batch_sizes(folder, automatic)
    sizes = BatchSizes(min(batch_size, n_candidates) or recalled.sampling, recalled.decoding)

    is_long = pipeline.n_steps(math.ceil(n_candidates / sizes.sampling)) >= MIN_STEPS_TO_COMPILE
    is_compiled = recall_compilation(folder, is_long=is_long, world=world)

    compiled = pipeline.compiled(is_compiled=is_compiled)
    job = GenerationJob(compiled, captions, first, n, selection, ranking, sizes, world)
    folder.check(job.description, is_complete=True)
    return job


def recall_batch_sizes(folder: JobFolder, automatic: BatchSizes) -> BatchSizes:
    """Return the usable batch sizes that a job was begun with, or the automatic ones."""
    recorded = [folder.recall(key, None) for key in ("sampling_batch_size", "decoding_batch_size")]
    is_usable = all(isinstance(size, int) and size > 0 for size in recorded)
    return BatchSizes(*recorded) if is_usable else automatic


def recall_compilation(folder: JobFolder, *, is_long: bool, world: World) -> bool:
    """Return whether sampling is compiled: as when the job was begun, or because it is long.

    Every rank takes part, and all get the same answer.

    Raises DalleError where the job was begun with compiled sampling and this machine has no
    compiler.
    """
    is_wanted = folder.recall("compiled", is_long)
    is_possible = is_wanted and all(world.all_gather([has_compiler(world.device)]))
    if folder.recall("compiled", False) and not is_possible:
        message = "this job was begun with compiled sampling, and this machine has no compiler"
        raise DalleError(message, "start another job with --out")
    return is_possible


@contextmanager
def explain_how_to_resume(out: Path, terminal: Terminal) -> Iterator[None]:
    """Print how to resume after a request to stop, and what to do when memory runs out."""
    try:
        with explain_out_of_memory():
            yield
    except StopRequested:
        terminal.say(f"to resume, run the same command with `--out {out}`")
        raise


def run_job(job: GenerationJob, folder: OutputFolder, terminal: Terminal) -> bool:
    """Generate the pictures that a folder lacks, while every other rank calls `run_worker`.

    Returns whether there were any.
    """
    n_wanted = len(job.candidates) // job.n * job.n_kept
    n_added = folder.truncate(job.n_kept if job.ranking else 1)
    n_done = n_added // job.n_kept * job.n if job.ranking else n_added
    pending = range(n_done, len(job.candidates))
    missing = job.world.broadcast([p for p in pending if not folder.is_staged(p)])

    if n_added < n_wanted:
        terminal.say(f"writing {n_wanted - n_added} pictures to {folder.path}")
        if job.pipeline.is_compiled:
            terminal.say("the job is long: its step is compiled first, in half a minute, or loaded")
        _generate_and_add(job, folder, terminal, pending=pending, missing=missing)
    else:
        terminal.say(f"{folder.path} already holds all pictures: nothing to do")

    folder.discard_all()
    return n_added < n_wanted


def run_worker(job: GenerationJob, folder: OutputFolder) -> None:
    """Generate this rank's share of the candidates that the main process finds missing."""
    missing = job.world.broadcast(None)
    with BackgroundWriter() as writer:
        for _ in generate_share(job, folder, missing, writer):
            pass


def _generate_and_add(
    job: GenerationJob,
    folder: OutputFolder,
    terminal: Terminal,
    *,
    pending: range,
    missing: list[int],
) -> None:
    """Generate the main process's share; add candidates in order, once staged."""
    n_added = pending.start // job.n * job.n_kept if job.ranking else pending.start

    with (
        terminal.progress(len(job.candidates), pending.start, "picture") as line,
        BackgroundWriter() as writer,
    ):
        share = generate_share(job, folder, missing, writer)
        staged = _staged_in_order(job, folder, pending=pending, share=share, line=line)
        kept = keep_best(staged, n=job.n, n_kept=job.n_kept, ranking=job.ranking)

        for number, scored in enumerate(kept, start=n_added):
            writer.submit(folder.add, number, scored)
            if job.ranking and (number + 1) % job.n_kept == 0:
                end = (number + 1) // job.n_kept * job.n
                writer.submit(folder.discard, range(end - job.n, end))


def generate_share(
    job: GenerationJob, folder: OutputFolder, missing: list[int], writer: BackgroundWriter
) -> Iterator[None]:
    """Generate and stage this rank's batches of the missing candidates.

    missing  their positions, the same on every rank: all ranks meet at a barrier if there are any

    Yields at the start, after each decoded batch, and when the shares of all ranks are staged.
    """
    yield
    size = job.sizes.sampling
    batches = sorted({position // size for position in missing})
    dealt = set(batches[job.world.rank :: job.world.size])
    positions = [position for position in missing if position // size in dealt]

    for batch in job.pipeline.generate(job.candidates, positions, job.sizes):
        for scored, picture in score_batch(batch, job.ranking):
            writer.submit(folder.stage, scored, picture)
        yield

    writer.flush()
    if missing:
        job.world.reach("the end of the pictures")
        job.world.barrier()
    yield


def _staged_in_order(
    job: GenerationJob,
    folder: OutputFolder,
    *,
    pending: range,
    share: Iterator[None],
    line: ProgressLine,
) -> Iterator[ScoredCandidate]:
    """Yield candidates in order, as soon as each is staged, while generating this rank's share."""
    position = pending.start
    for _ in share:
        while position < pending.stop and folder.is_staged(position):
            score = folder.staged_score(position) if job.ranking else None
            yield ScoredCandidate(position, job.candidates[position], score)
            line.advance()
            position += 1

    if position < pending.stop:
        hint = "run the same command again; several machines must see the same folder"
        raise DalleError(f"a generated picture is missing from {folder.path}", hint)
