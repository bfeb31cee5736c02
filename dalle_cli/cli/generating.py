"""`dalle generate`: pictures from captions."""

import math
import re
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.help import MACHINE, USE, add_command
from dalle_cli.cli.options import (
    OUTPUT,
    RANKING,
    Checkpoint,
    ClipVocabulary,
    Device,
    Gpus,
    Json,
    PrecisionToUse,
    Quiet,
    RunToUse,
    Threads,
)
from dalle_cli.cli.processes import launch_workers, refuse_standard_input
from dalle_cli.cli.unclip.options import (
    MAX_GUIDANCE,
    DecoderSteps,
    PriorGuidance,
    PriorName,
    PriorSteps,
    SamplerName,
)
from dalle_cli.console import Terminal
from dalle_cli.runtime.garbage import imports_uncollected
from dalle_cli.storage.run_dir import model_dir, stated_kind
from dalle_cli.storage.shipped import resolve_run

PROMPT, SAMPLING = "Prompt", "Sampling"


@add_command(
    app,
    panel=USE,
    example='dalle generate runs/dalle "a small red circle at the top left" \\\n'
    "  -n 64 --clip runs/clip --best 8",
)
def generate(
    run: RunToUse,
    captions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CAPTION",
            help="What the pictures should show; by default the examples of a shipped model.",
        ),
    ] = None,
    *,
    checkpoint: Checkpoint = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Captions from a text file, one per line (- is standard input), "
            "or from the caption column of a .csv, .tsv, .jsonl or .json.",
            rich_help_panel=PROMPT,
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option(
            "-n", metavar="N", min=1, help="Pictures per caption.", rich_help_panel=SAMPLING
        ),
    ] = 8,
    first: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=0,
            help="Number of each caption's first picture; 8 goes on after the first eight.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Sampling temperature; 0 is greedy; by default 1, or what the model's author "
            "advises.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    top_k: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=0,
            help="Sample from the K likeliest tokens; 0: from all.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="Sample from the likeliest tokens that add up to this probability; 1: from all.",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=MAX_GUIDANCE,
            help="Above 1: closer to the caption; needs `loss.caption_dropout` in training; by "
            "default 1, or what the model's author advises.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    prior: PriorName = None,
    steps: DecoderSteps = None,
    sampler: SamplerName = None,
    prior_steps: PriorSteps = None,
    prior_guidance: PriorGuidance = None,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the top of this picture and generate the rest.",
            rich_help_panel=PROMPT,
        ),
    ] = None,
    keep_rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Rows of its tokens to keep; by default 15 of 32.",
            rich_help_panel=PROMPT,
        ),
    ] = None,
    redraw: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,COL,ROWS,COLS",
            help="Keep all of it except this box of tokens, counted from 0.",
            rich_help_panel=PROMPT,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="The same seed gives the same pictures.", rich_help_panel=SAMPLING
        ),
    ] = 0,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="CLIP",
            parser=resolve_run,
            help="Rank the pictures by this CLIP.",
            rich_help_panel=RANKING,
        ),
    ] = None,
    tokenizer: ClipVocabulary = None,
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="perplexity|caption",
            help="Rank by how likely the transformer finds a picture, or by how much likelier "
            "with its caption than without.",
            rich_help_panel=RANKING,
        ),
    ] = None,
    best: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=0,
            help="How many of the n to keep, best first; 0: all, in order.",
            rich_help_panel=RANKING,
        ),
    ] = 0,
    keep_all: Annotated[
        bool,
        typer.Option(
            "--keep-all", help="Also write the rest, after the best.", rich_help_panel=RANKING
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New folder, or an unfinished one; by default inside the run, "
            "or samples/NAME for a shipped model.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Show the first pictures of each caption on the terminal.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Pictures generated at once; auto: as many as pay off and fit in memory.",
            rich_help_panel=MACHINE,
        ),
    ] = "auto",
    device: Device = "auto",
    threads: Threads = "auto",
    precision: PrecisionToUse = None,
    gpus: Gpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate pictures from captions.

    All of them, or the best of many. RUN is a transformer's or, for DALL-E 2, a decoder's.
    """
    kind = stated_kind(run)
    _check_belonging(
        kind,
        of_transformers={
            "--temperature": temperature is not None,
            "--top-k": top_k != 0,
            "--top-p": top_p != 1,
            "--image": image is not None,
            "--rank": rank is not None,
        },
        of_decoders={
            "--prior": prior is not None,
            "--steps": steps is not None,
            "--sampler": sampler is not None,
            "--prior-steps": prior_steps is not None,
            "--prior-guidance": prior_guidance is not None,
        },
    )
    _check_ranking(n, clip, tokenizer=tokenizer, rank=rank, best=best, keep_all=keep_all)
    box = _check_image(image, keep_rows, redraw)
    _check_sampling(temperature, guidance, top_p)
    n_together = _batch_size(batch_size)

    refuse_standard_input(prompts, gpus, hint="--prompts")
    if gpus is not None:
        model_dir(
            run, "decoder" if kind == "decoder" else "transformer"
        )  # a missing run is reported once, not by every process
    if launch_workers(gpus):
        return

    with imports_uncollected():
        from dalle_cli.commands.generate import GenerateOptions, run_generate
        from dalle_cli.generation.image_prompt import Box, ImagePrompt
        from dalle_cli.generation.prompts import example_captions, read_captions
        from dalle_cli.generation.ranking import RankingOptions
        from dalle_cli.generation.sampling import SamplingSettings, choose_sampling
        from dalle_cli.generation.unclip.settings import UnclipSettings, choose_unclip_sampling
        from dalle_cli.storage.model_about import read_sampling_advice
        from dalle_cli.storage.run_dir import RunDir

    redrawn = None if box is None else Box(*box)
    is_given = bool(captions) or prompts is not None
    advice = read_sampling_advice(RunDir(run))
    sampling: SamplingSettings | UnclipSettings
    if kind == "decoder":
        sampling = choose_unclip_sampling(
            advice,
            steps=steps,
            sampler=sampler,
            guidance=guidance,
            prior_steps=prior_steps,
            prior_guidance=prior_guidance,
        )
    else:
        sampling = choose_sampling(
            advice, temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance
        )
    options = GenerateOptions(
        run=run,
        checkpoint=checkpoint,
        captions=read_captions(captions or [], prompts) if is_given else example_captions(run),
        first=first,
        n=n,
        seed=seed,
        sampling=sampling,
        prior=prior,
        image=None if image is None else ImagePrompt(image, keep_rows, redrawn),
        batch_size=n_together,
        device=device,
        precision=precision or "auto",
        out=out,
        show=show,
    )
    selection = RankingOptions(
        clip=clip,
        vocabulary=tokenizer,
        likelihood=cast(Literal["perplexity", "caption"] | None, rank),
        best=best,
        keep_all=keep_all,
    )
    run_generate(options, selection, Terminal(quiet=quiet, as_json=as_json))


def _check_belonging(
    kind: str, *, of_transformers: dict[str, bool], of_decoders: dict[str, bool]
) -> None:
    """Refuse a prior, and options of another kind of model, each with whether it was typed."""
    if kind.startswith("prior"):
        message = "it holds a prior: name the run of a decoder, and this one with --prior"
        raise typer.BadParameter(message, param_hint="RUN")
    is_decoder = kind == "decoder"
    refused = of_transformers if is_decoder else of_decoders
    if kind:  # where there is no model, its absence is reported
        for option, is_typed in refused.items():
            if is_typed:
                wanted = "transformers" if is_decoder else "decoders"
                raise typer.BadParameter(
                    f"it is for {wanted}, and this run holds a {kind}", param_hint=option
                )


def _check_sampling(temperature: float | None, guidance: float | None, top_p: float) -> None:
    for name, value in (("--temperature", temperature), ("--guidance", guidance)):
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"must be finite: {value}", param_hint=name)
    if not 0 < top_p <= 1:
        raise typer.BadParameter(f"must be above 0 and at most 1: {top_p}", param_hint="--top-p")


def _batch_size(text: str) -> int:
    """Parse `auto`, as 0, or a positive number."""
    if text == "auto":
        return 0
    if not (text.isdecimal() and int(text) > 0):
        message = f"must be auto or a number above 0: {text}"
        raise typer.BadParameter(message, param_hint="--batch-size")
    return int(text)


def _check_ranking(
    n: int,
    clip: str | None,
    *,
    tokenizer: Path | None,
    rank: str | None,
    best: int,
    keep_all: bool,
) -> None:
    if rank not in (None, "perplexity", "caption"):
        message = f"must be perplexity or caption: {rank}; to rank by a CLIP, give --clip"
        raise typer.BadParameter(message, param_hint="--rank")
    if clip is not None and rank is not None:
        message = "pictures are ranked by --clip or by --rank, not by both"
        raise typer.BadParameter(message, param_hint="--rank")
    if tokenizer is not None and clip is None:
        message = "it is CLIP's vocabulary, and there is no --clip"
        raise typer.BadParameter(message, param_hint="--tokenizer")

    if best > n:
        raise typer.BadParameter(f"{best} of {n} pictures can't be kept", param_hint="--best")
    if (best or keep_all) and clip is None and rank is None:
        message = "nothing says which are the best: give --clip or --rank"
        raise typer.BadParameter(message, param_hint="--best / --keep-all")


def _check_image(image: Path | None, keep_rows: int | None, redraw: str | None) -> list[int] | None:
    """Parse the four numbers of a box, if there is one."""
    if image is None and (keep_rows is not None or redraw is not None):
        raise typer.BadParameter("there is no --image", param_hint="--keep-rows / --redraw")
    if keep_rows is not None and redraw is not None:
        message = "either rows are kept or a box is redrawn, not both"
        raise typer.BadParameter(message, param_hint="--redraw")

    if redraw is None:
        return None
    if not re.fullmatch(r"\d{1,4}(,\d{1,4}){3}", redraw, re.ASCII):
        message = f"must be four numbers such as 4,0,4,8: {redraw}"
        raise typer.BadParameter(message, param_hint="--redraw")
    return [int(number) for number in redraw.split(",")]
