"""`dalle generate`: captions to pictures, all of them or the best of many."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dalle_cli.commands.reports.generation_command import generation_command
from dalle_cli.commands.unclip.pipeline_choice import open_pipeline
from dalle_cli.console import Terminal
from dalle_cli.errors import printable
from dalle_cli.generation.image_prompt import ImagePrompt
from dalle_cli.generation.job import explain_how_to_resume, plan_job, run_job, run_worker
from dalle_cli.generation.output_folder import OutputFolder, create_samples_folder
from dalle_cli.generation.ranking import RankingOptions, load_ranking
from dalle_cli.generation.sampling import SamplingSettings
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import GRID
from dalle_cli.viz import half_blocks


@dataclass(frozen=True)
class GenerateOptions:
    """The command line of `generate`.

    checkpoint  whose weights are used: "best", "last" or a step; None: the run's model
    sampling    how tokens are sampled or, from a decoder, embeddings and pictures
    prior       what guesses embeddings for a decoder, see `open_prior`
    first       number of the first candidate of each caption
    n           candidates of each caption
    batch_size  candidates sampled together; 0: automatic
    show        whether the terminal shows the first pictures of each caption
    """

    run: Path
    checkpoint: str | None
    captions: list[str]
    first: int
    n: int
    seed: int
    sampling: SamplingSettings | UnclipSettings
    prior: str | None
    image: ImagePrompt | None
    batch_size: int
    device: str
    precision: str
    out: Path | None
    show: bool


def run_generate(options: GenerateOptions, selection: RankingOptions, terminal: Terminal) -> None:
    """Write n pictures of each caption, or the best of them, into a folder with a grid and a
    manifest.

    selection  what ranks the pictures of a caption, and how many of them are written

    The same command resumes a folder that it did not finish, with another number of processes if
    need be.
    """
    folder = JobFolder.open(options.out)
    choice = folder.recall_choice("precision", options.precision)
    device, precision = open_device(options.device, choice, say=terminal.say)

    with init_process_group(device) as world:
        precision = world.broadcast(precision)  # `auto` is a race, which may end differently
        pipeline = open_pipeline(
            options.run,
            options.sampling,
            seed=options.seed,
            image=options.image,
            prior=options.prior,
            checkpoint=options.checkpoint,
            device=world.device,
            precision=precision,
        )
        ranking = load_ranking(selection, pipeline, options.captions)
        job = plan_job(
            pipeline,
            options.captions,
            first=options.first,
            n=options.n,
            selection=selection,
            ranking=ranking,
            batch_size=options.batch_size,
            folder=folder,
            world=world,
        )
        if "checkpoint" in pipeline.settings:
            terminal.say(f"using the checkpoint of step {pipeline.settings['checkpoint']:,}")
        for warning in (
            *pipeline.warnings(options.captions),
            *(ranking.warnings if ranking else ()),
        ):
            terminal.warn(warning)

        if not world.is_main:
            path = world.broadcast(None)
            with explain_how_to_resume(path, terminal):
                run_worker(job, OutputFolder(path, job.settings))
            return

        path = options.out or create_samples_folder(options.run)
        with JobFolder.open(path).writing(job.description), explain_how_to_resume(path, terminal):
            output = OutputFolder(world.broadcast(path), job.settings)
            has_new = run_job(job, output, terminal)
            if has_new or not (path / GRID).is_file():
                again = partial(
                    generation_command, run=options.run, image=options.image, prior=options.prior
                )
                output.save_gallery(again)
                output.save_grid(n_kept=job.n_kept, n_shown=job.n_shown)
    summary = output.summary()

    if options.show and terminal.picture_columns:
        for caption, pictures in output.groups(n_kept=job.n_kept, n_shown=job.n_shown):
            terminal.say(printable(caption))
            terminal.show(half_blocks(pictures, terminal.picture_columns))
    terminal.result(str(path), summary)
