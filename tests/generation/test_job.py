"""Generation jobs.

They know a pipeline by its protocol alone, so a toy that paints colours serves as well as a model.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

from dalle_cli.console import Terminal
from dalle_cli.errors import UsageError
from dalle_cli.generation.job import GenerationJob, generate_share, plan_job, run_job
from dalle_cli.generation.output_folder import OutputFolder
from dalle_cli.generation.pipeline import BatchSizes, Candidate, GeneratedBatch, Pipeline
from dalle_cli.generation.ranking import Ranking, RankingOptions, ScoredCandidate
from dalle_cli.runtime.distributed import World, single_process
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.storage.background_writer import BackgroundWriter
from dalle_cli.storage.job_folder import JobFolder

CPU = torch.device("cpu")
CAPTIONS = ["a ring", "a red circle", "a square"]
N = 4
SIZES = BatchSizes(sampling=3, decoding=2)
BY_NUMBER = Ranking("clip", lambda batch: [float(c.number) for c in batch.candidates], "checksum")


@dataclass(frozen=True)
class Painter:
    """A pipeline without a model: a picture's colour says which candidate it is."""

    device: torch.device = CPU
    is_compiled: bool = False
    settings: dict = field(default_factory=lambda: {"seed": 7, "precision": "fp32"})
    asked_for: list[int] = field(default_factory=list)

    def generate(
        self, candidates: Sequence[Candidate], positions: Sequence[int], sizes: BatchSizes
    ) -> Iterator[GeneratedBatch]:
        for position in positions:
            self.asked_for.append(position)
            candidate = candidates[position]
            colour = (CAPTIONS.index(candidate.caption), candidate.number, 0)
            yield GeneratedBatch(position, [candidate], [Image.new("RGB", (2, 2), colour)], [0])

    def sampling_bytes(self, n_samples: int, n_captions: int) -> int:
        return n_samples

    def decoding_bytes(self) -> int:
        return 1

    def warnings(self, captions: list[str]) -> Iterator[str]:
        return iter(())

    def n_steps(self, n_batches: int) -> int:
        return n_batches

    def compiled(self, *, is_compiled: bool) -> "Painter":
        return replace(self, is_compiled=is_compiled)


def job_of(
    painter: Pipeline, ranking: Ranking | None = None, world: World | None = None, **selection: int
) -> GenerationJob:
    options = RankingOptions(**selection)
    world = world or single_process(CPU)
    return GenerationJob(painter, CAPTIONS, 0, N, options, ranking, SIZES, world)


def folder_of(job: GenerationJob, path: Path) -> OutputFolder:
    path.mkdir(exist_ok=True)
    return OutputFolder(path, job.settings)


def painted(folder: OutputFolder) -> list[tuple[str, int]]:
    """Read from the colours which candidates the pictures of a folder show, in order."""
    found = []
    for record in folder.records():
        with Image.open(folder.path / record["file"]) as picture:
            caption, number, _ = picture.getpixel((0, 0))
        assert (record["caption"], record["number"]) == (CAPTIONS[caption], number)
        found.append((CAPTIONS[caption], number))
    return found


def test_every_candidate_is_added_in_order(tmp_path: Path) -> None:
    job = job_of(Painter())
    folder = folder_of(job, tmp_path / "out")
    assert run_job(job, folder, Terminal(quiet=True))
    assert painted(folder) == [(c.caption, c.number) for c in job.candidates]
    assert sorted(path.suffix for path in folder.path.iterdir()) == [".jsonl", *[".png"] * 12]


def test_best_of_each_caption_are_added_first_ones_first(tmp_path: Path) -> None:
    job = job_of(Painter(), BY_NUMBER, best=2)
    folder = folder_of(job, tmp_path / "out")
    run_job(job, folder, Terminal(quiet=True))
    assert painted(folder) == [(caption, number) for caption in CAPTIONS for number in (3, 2)]
    assert [record["rank"] for record in folder.records()] == [1, 2] * 3


@pytest.mark.parametrize("ranking", [None, BY_NUMBER])
@pytest.mark.parametrize("n_lines", [0, 2, 3, 5, 6])
def test_job_goes_on_from_what_an_interruption_left(
    n_lines: int, ranking: Ranking | None, tmp_path: Path
) -> None:
    whole_job = job_of(Painter(), ranking, best=2 if ranking else 0)
    whole = folder_of(whole_job, tmp_path / "whole")
    run_job(whole_job, whole, Terminal(quiet=True))

    resumed_job = job_of(Painter(), ranking, best=2 if ranking else 0)
    cut = folder_of(resumed_job, tmp_path / "cut")
    lines = (whole.path / "manifest.jsonl").read_text().splitlines(keepends=True)[:n_lines]
    for line in lines:
        name = json.loads(line)["file"]
        (cut.path / name).write_bytes((whole.path / name).read_bytes())
    (cut.path / "manifest.jsonl").write_text("".join(lines) + '{"file": "00')

    lacks_any = n_lines < len(whole.records())
    assert run_job(resumed_job, cut, Terminal(quiet=True)) == lacks_any
    assert painted(cut) == painted(whole)
    n_kept_back = n_lines // 2 * N if ranking else n_lines
    assert resumed_job.pipeline.asked_for == list(range(n_kept_back, 12))


def test_what_is_staged_already_is_added_before_anything_is_generated(tmp_path: Path) -> None:
    job = job_of(Painter())
    folder = folder_of(job, tmp_path / "out")
    for position in range(5):
        colour = (position // N, position % N, 0)
        staged = ScoredCandidate(position, job.candidates[position], None)
        folder.stage(staged, Image.new("RGB", (2, 2), colour))

    n_left = []
    generate = Painter.generate

    def watched(self: Painter, *arguments: object) -> Iterator[GeneratedBatch]:
        for batch in generate(self, *arguments):
            n_left.append(sum(folder.is_staged(p) for p in range(5)))
            yield batch

    def at_once(self: BackgroundWriter, write: Callable[..., None], *arguments: object) -> None:
        write(*arguments)

    with (
        mock.patch.object(Painter, "generate", watched),
        mock.patch.object(BackgroundWriter, "submit", at_once),
    ):
        run_job(job, folder, Terminal(quiet=True))
    assert n_left == [0] * 7 and job.pipeline.asked_for == list(range(5, 12))
    assert painted(folder) == [(c.caption, c.number) for c in job.candidates]


def test_finished_job_generates_nothing(tmp_path: Path) -> None:
    job = job_of(Painter())
    folder = folder_of(job, tmp_path / "out")
    run_job(job, folder, Terminal(quiet=True))
    job.pipeline.asked_for.clear()
    assert not run_job(job, folder, Terminal(quiet=True))
    assert job.pipeline.asked_for == []


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
def test_shares_are_whole_batches_and_together_everything(n_ranks: int, tmp_path: Path) -> None:
    missing = [0, 1, 2, 4, 5, 8, 9, 10, 11]
    shares = []
    for rank in range(n_ranks):
        world = World(Ranks(rank, n_ranks), CPU)
        object.__setattr__(world, "barrier", lambda: None)  # no other process is there to wait for
        job = job_of(Painter(), world=world)
        with BackgroundWriter() as writer:
            list(generate_share(job, folder_of(job, tmp_path / "out"), missing, writer))
        shares.append(job.pipeline.asked_for)
    assert sorted(position for share in shares for position in share) == missing
    owners = [{rank for rank, share in enumerate(shares) if p in share} for p in missing]
    by_batch = {p // 3: owner for p, owner in zip(missing, owners, strict=True)}
    assert owners == [by_batch[p // 3] for p in missing]


def test_batch_sizes_and_compilation_are_recalled_and_others_refused(tmp_path: Path) -> None:
    def plan(batch_size: int = 0) -> GenerationJob:
        return plan_job(
            Painter(),
            CAPTIONS,
            first=0,
            n=N,
            selection=RankingOptions(),
            ranking=None,
            batch_size=batch_size,
            folder=JobFolder.open(tmp_path / "out"),
            world=single_process(CPU),
        )

    first = plan(batch_size=5)
    assert first.sizes.sampling == 5 and not first.pipeline.is_compiled
    with JobFolder.open(tmp_path / "out").writing(first.description):
        pass
    assert plan().description == first.description
    with pytest.raises(UsageError, match="with other sampling_batch_size"):
        plan(batch_size=2)
