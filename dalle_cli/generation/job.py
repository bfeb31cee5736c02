"""One job of drawing, by one process or by several: each holds its share aside, and the first adds all in order.

Whole batches are dealt out, so that pictures are those that one process draws. Files are all that processes tell one
another while they draw: what one has held aside, whatever has become of it since, is there for the next time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dalle_cli.console import ProgressLine, Terminal
from dalle_cli.errors import DalleError
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.output_folder import OutputFolder
from dalle_cli.generation.pipeline import BatchSizes, Candidate
from dalle_cli.generation.ranking import Ranking, Scored, keep_best, scored
from dalle_cli.generation.sampling import SamplingSettings
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.background_writer import BackgroundWriter


@dataclass(frozen=True)
class GenerationJob:
    """What is drawn and how, the same in all processes.

    candidates  n of each caption, in order
    n_kept      how many of each n are added, the best first where there is a ranking
    kept        int64 [I], tokens of all pictures that are there already, -1 where one is to be drawn
    settings    what a picture's record says of all this
    """

    pipeline: DallePipeline
    candidates: list[Candidate]
    n: int
    n_kept: int
    widths: BatchSizes
    seed: int
    sampling: SamplingSettings
    kept: Tensor | None
    ranking: Ranking | None
    settings: dict[str, Any]
    world: World


def run_job(job: GenerationJob, folder: OutputFolder, terminal: Terminal) -> bool:
    """Draw what a folder lacks, with the help of all who `run_worker` it; say whether it lacked anything."""
    n_wanted = len(job.candidates) // job.n * job.n_kept
    n_added = folder.truncate(job.n_kept if job.ranking else 1)
    n_done = n_added // job.n_kept * job.n if job.ranking else n_added
    places = range(n_done, len(job.candidates))
    missing = job.world.broadcast([place for place in places if not folder.is_staged(place)])
    if n_added < n_wanted:
        terminal.say(f"writing {n_wanted - n_added} pictures to {folder.path}")
        if job.pipeline.is_compiled:
            terminal.say(
                "what draws a token is compiled first, since there are many: half a minute"
            )
        with (
            terminal.progress(len(job.candidates), n_done, "picture") as line,
            BackgroundWriter() as writer,
        ):
            share = generate_share(job, folder, missing, writer)
            drawn = in_order(job, folder, places, share, line)
            for number, one in enumerate(
                keep_best(drawn, job.n, job.n_kept, job.ranking), start=n_added
            ):
                writer.submit(folder.add, number, one)
                if job.ranking and (number + 1) % job.n_kept == 0:
                    end = (number + 1) // job.n_kept * job.n
                    writer.submit(folder.discard, range(end - job.n, end))
    else:
        terminal.say(f"{folder.path} holds all pictures already: nothing to do")
    folder.discard_all()
    return n_added < n_wanted


def run_worker(job: GenerationJob, folder: OutputFolder) -> None:
    """Draw a share of what the first process finds that a folder lacks."""
    missing = job.world.broadcast(None)
    with BackgroundWriter() as writer:
        for _ in generate_share(job, folder, missing, writer):
            pass


def generate_share(
    job: GenerationJob, folder: OutputFolder, missing: list[int], writer: BackgroundWriter
) -> Iterator[bool]:
    """Draw this process's batches of what is missing, slice by slice; in the end all of it is held, by whomever."""
    width = job.widths.sampling
    batches = sorted({place // width for place in missing})
    own = set(batches[job.world.rank :: job.world.size])
    places = [place for place in missing if place // width in own]
    for drawn in job.pipeline.generate(
        job.candidates, places, job.widths, job.seed, job.sampling, job.kept
    ):
        for one, picture in scored(drawn, job.ranking):
            writer.submit(folder.stage, one, picture)
        yield True
    writer.flush()
    if missing:
        job.world.barrier()
    yield True


def in_order(
    job: GenerationJob,
    folder: OutputFolder,
    places: range,
    share: Iterator[bool],
    line: ProgressLine,
) -> Iterator[Scored]:
    """Pass candidates on as they come to lie in the folder; draws the own share while the next one does not."""
    for place in places:
        while not folder.is_staged(place):
            if not next(share, False):
                hint = (
                    "run the same command again; of several machines, all must see the same folder"
                )
                raise DalleError(f"a picture that was drawn does not lie in {folder.path}", hint)
        yield Scored(place, job.candidates[place], folder.score(place) if job.ranking else None)
        line.advance()
    for _ in share:
        pass
