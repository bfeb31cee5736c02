"""`dalle generate`: captions to pictures, all of them or the best of many."""

import hashlib
import itertools
import json
import math
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError
from dalle_cli.generation.batch_size import choose_batch_sizes
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.image_prompt import ImagePrompt, keep_tokens
from dalle_cli.generation.job import GenerationJob, run_job, run_worker
from dalle_cli.generation.output_folder import OutputFolder
from dalle_cli.generation.pipeline import BatchSizes, Candidate
from dalle_cli.generation.ranking import Ranking, rank_by_clip, rank_by_perplexity
from dalle_cli.generation.sampling import SamplingSettings
from dalle_cli.loading import load_dvae, load_tokenizer, load_transformer
from dalle_cli.runtime.compilation import MIN_STEPS_TO_COMPILE, has_compiler
from dalle_cli.runtime.devices import explain_out_of_memory, free_memory, open_device
from dalle_cli.runtime.distributed import World, init_process_group
from dalle_cli.runtime.precision import DTYPES, Precision, apply_precision
from dalle_cli.scoring.clip_scorer import load_clip_scorer
from dalle_cli.storage.atomic import exclusive_lock
from dalle_cli.storage.job_folder import begin_job, check_same, recorded_job
from dalle_cli.storage.run_dir import GRID, MANIFEST, WEIGHTS, RunDir, dvae_model_dir, model_dir
from dalle_cli.untrusted import printable
from dalle_cli.viz import half_blocks


@dataclass(frozen=True)
class GenerateOptions:
    """The command line of `generate`."""

    run: Path
    captions: list[str]
    n: int
    sampling: SamplingSettings
    image: ImagePrompt | None
    seed: int
    batch_size: int  # 0: as many as there are, or as memory holds, or as pay
    clip: str | None  # ranks by it, where given
    tokenizer: Path | None
    by_perplexity: bool
    best: int  # of the n, to keep; 0: all
    keep_all: bool
    device: str
    precision: str
    out: Path | None
    show: bool  # the first pictures of each caption, on the terminal

    @property
    def n_kept(self) -> int:
        """How many pictures of each caption are written."""
        return self.n if self.keep_all or not self.best else self.best

    @property
    def n_shown(self) -> int:
        """How many of those may be shown: the best, where there are any."""
        return self.best or self.n


def generate(options: GenerateOptions, terminal: Terminal) -> None:
    """Draw n pictures of each caption into a folder with a grid and a manifest; keep the best, where ranked.

    The same command goes on with a folder it did not finish, in another number of processes if need be.
    """
    recorded = recorded_job(options.out) if options.out is not None else None
    precision = (
        (recorded or {}).get("precision", "auto")
        if options.precision == "auto"
        else options.precision
    )
    device, precision = open_device(options.device, precision)
    with init_process_group(device) as world:
        job = plan(options, recorded or {}, world, world.broadcast(precision), terminal)
        description = describe(options, job)
        if recorded is not None:
            check_same(
                options.out, recorded, dict.fromkeys(recorded) | description
            )  # in all processes, told by one
        if world.is_main:
            out = make_folder(options)
            begin_job(out, description)
            draw(job, OutputFolder(world.broadcast(out), job.settings), options, terminal)
        else:
            out = world.broadcast(None)
            with explain_how_to_resume(out, terminal):
                run_worker(job, OutputFolder(out, job.settings))


def plan(
    options: GenerateOptions,
    recorded: dict[str, Any],
    world: World,
    precision: Precision,
    terminal: Terminal,
) -> GenerationJob:
    """Load and choose all that it takes to draw."""
    pipeline = load_pipeline(options.run, world.device, precision)
    kept = None if options.image is None else keep_tokens(options.image, pipeline.dvae)
    warn_of_captions(pipeline, options.captions, terminal)
    if options.sampling.guidance != 1 and caption_dropout(options.run) == 0:
        terminal.warn(
            "guidance goes by the empty caption, never seen in training: `loss.caption_dropout` was 0"
        )
    ranking = choose_ranking(options, pipeline, precision, terminal)
    widths = choose_again(recorded, options, pipeline, world)
    n_batches = math.ceil(len(options.captions) * options.n / widths.sampling)
    is_long = n_batches * pipeline.transformer.image_len >= MIN_STEPS_TO_COMPILE
    pipeline = replace(pipeline, is_compiled=choose_compiled(recorded, is_long, world))
    settings = {
        "seed": options.seed,
        **asdict(options.sampling),
        "sampling_batch_size": widths.sampling,
        "decoding_batch_size": widths.decoding,
        "compiled": pipeline.is_compiled,
        "device": world.device.type,
        "precision": precision,
        "model": model_checksum(options.run),
        **(kept.record if kept else {}),
    }
    return GenerationJob(
        pipeline=pipeline,
        candidates=[
            Candidate(caption, number)
            for caption in options.captions
            for number in range(options.n)
        ],
        n=options.n,
        n_kept=options.n_kept,
        widths=widths,
        seed=options.seed,
        sampling=options.sampling,
        kept=kept.tokens if kept else None,
        ranking=ranking,
        settings=settings,
        world=world,
    )


def draw(
    job: GenerationJob, folder: OutputFolder, options: GenerateOptions, terminal: Terminal
) -> None:
    """Fill the folder, lay out the grid, and tell where everything is."""
    with exclusive_lock(folder.path):
        with explain_how_to_resume(folder.path, terminal):
            has_new = run_job(job, folder, terminal)
        if has_new or not (folder.path / GRID).is_file():
            folder.save_grid(options.n_kept, options.n_shown)
    if options.show:
        show(folder, options, terminal)
    report(folder, terminal)


@contextmanager
def explain_how_to_resume(out: Path, terminal: Terminal) -> Iterator[None]:
    """Say where a job that is asked to stop goes on from, and what to do where memory is short."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with explain_out_of_memory():
            yield
    except (KeyboardInterrupt, SystemExit):
        terminal.say(f"the same command with `--out {out}` goes on from here")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def load_pipeline(run: Path, device: torch.device, precision: Precision) -> DallePipeline:
    """Load a run's transformer, dVAE and tokenizer; raises DalleError where they don't belong together."""
    transformer, dvae = load_transformer(run).to(device), load_dvae(run).to(device)
    for model in (transformer, dvae):
        apply_precision(model, precision, device)
    dtype = DTYPES.get(precision, torch.float32)
    pipeline = DallePipeline(transformer, dvae, load_tokenizer(RunDir(run)), device, dtype)
    pipeline.check(run)
    return pipeline


def choose_again(
    recorded: dict[str, Any], options: GenerateOptions, pipeline: DallePipeline, world: World
) -> BatchSizes:
    """Take the widths that an unfinished job was begun with, whatever memory is free now, or choose some."""
    free = min(world.all_gather([free_memory(pipeline.device)]))
    own = free / world.size if pipeline.device.type == "cpu" else free
    is_guided = options.sampling.guidance != 1
    chosen = choose_batch_sizes(
        pipeline, len(options.captions), options.n, is_guided, own, world.size
    )
    decode, own_slice = (
        recorded.get(key) for key in ("sampling_batch_size", "decoding_batch_size")
    )
    is_usable = all(isinstance(width, int) and width > 0 for width in (decode, own_slice))
    begun = BatchSizes(decode, own_slice) if is_usable else chosen
    return BatchSizes(
        min(options.batch_size, len(options.captions) * options.n) or begun.sampling, begun.decoding
    )


def choose_compiled(recorded: dict[str, Any], is_long: bool, world: World) -> bool:
    """Compile what draws a token as an unfinished job did, or for a long one; in all processes or in none.

    Raises DalleError where the job needs a compiler, and there is none.
    """
    is_wanted = recorded.get("compiled", is_long)
    is_possible = is_wanted and all(world.all_gather([has_compiler(world.device)]))
    if recorded.get("compiled") and not is_possible:
        raise DalleError(
            "this job was begun with compiled drawing, and here is no compiler",
            "begin another with --out",
        )
    return is_possible


def choose_ranking(
    options: GenerateOptions, pipeline: DallePipeline, precision: Precision, terminal: Terminal
) -> Ranking | None:
    """Make what puts candidates in order, if anything does."""
    if options.by_perplexity:
        return rank_by_perplexity(pipeline.transformer)
    if options.clip is None:
        return None
    clip = load_clip_scorer(options.clip, options.tokenizer, pipeline.device, precision)
    for caption in dict.fromkeys(options.captions):
        if clip.scorer.cuts(caption):
            terminal.warn(
                f"caption cut to CLIP's {clip.scorer.clip.text_len} tokens: {printable(caption)[:60]}…"
            )
    return rank_by_clip(clip.scorer, clip.identity, options.captions)


def describe(options: GenerateOptions, job: GenerationJob) -> dict[str, Any]:
    """Say everything that the files of a folder depend on."""
    return {
        "command": "generate",
        "captions": options.captions,
        "n": options.n,
        "best": options.best,
        "keep_all": options.keep_all,
        "ranked_by": job.ranking and job.ranking.by,
        "clip": job.ranking and job.ranking.checksum,
        **job.settings,
    }


def make_folder(options: GenerateOptions) -> Path:
    """Name the folder of --out, or make the next numbered one of the run's samples, which others may want as well."""
    if options.out is not None:
        return options.out
    samples = RunDir(options.run).samples
    samples.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in samples.iterdir() if path.name.isdecimal()]
    for number in itertools.count(max(taken, default=-1) + 1):
        try:
            (samples / f"{number:03d}").mkdir()
        except FileExistsError:
            continue
        return samples / f"{number:03d}"
    raise AssertionError("unreachable")


def warn_of_captions(pipeline: DallePipeline, captions: list[str], terminal: Terminal) -> None:
    """Say which captions have more tokens than the transformer has room for, and which are asked for twice."""
    for caption, times in Counter(captions).items():
        if times > 1:
            terminal.warn(
                f"caption given {times} times, for the same pictures: {printable(caption)[:60]}"
            )
    room = pipeline.transformer.text_len - 1
    for caption in captions:
        n_tokens = len(pipeline.tokenizer.encode(caption))
        if n_tokens > room:
            terminal.warn(
                f"caption cut from {n_tokens:,} to {room} tokens: {printable(caption)[:60]}…"
            )


def caption_dropout(run: Path) -> float | None:
    """Look up how often a run trained the empty caption; None where it does not say, as an exported one."""
    try:
        return json.loads(RunDir(run).recipe.read_bytes())["recipe"]["loss"]["caption_dropout"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def show(folder: OutputFolder, options: GenerateOptions, terminal: Terminal) -> None:
    """Draw small previews, a row for each caption, where stderr is a terminal that can show them."""
    if terminal.picture_columns == 0:
        return
    for caption, pictures in folder.groups(options.n_kept, options.n_shown):
        terminal.say(printable(caption))
        terminal.show(half_blocks(pictures, terminal.picture_columns))


def report(folder: OutputFolder, terminal: Terminal) -> None:
    """Print where the pictures are; as JSON, with the scores where there are any."""
    out, records = folder.path, folder.records()
    result = {
        "out": str(out),
        "files": [str(out / record["file"]) for record in records],
        "grid": str(out / GRID),
        "manifest": str(out / MANIFEST),
    }
    if "score" in records[0]:
        result["scores"] = [record["score"] for record in records]
    terminal.result(str(out), result)


def model_checksum(run: Path) -> str:
    """SHA-256 over the files of all three parts: the transformer's weights, the dVAE's, and the merges."""
    digest = hashlib.sha256()
    for path in (model_dir(run) / WEIGHTS, dvae_model_dir(run) / WEIGHTS, RunDir(run).tokenizer):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
