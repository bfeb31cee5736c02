"""`dalle rerank`: pictures in the order in which a CLIP finds that they fit a caption."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from dalle_cli.commands.reports.passed_over import tell_passed_over
from dalle_cli.console import Terminal
from dalle_cli.data.picture_lists import list_pictures
from dalle_cli.errors import printable
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.scoring.captioned_pictures import CaptionedPicture, with_captions
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer
from dalle_cli.scoring.embedding_cache import EmbeddingCache, embedding_cache_file
from dalle_cli.scoring.embeddings import Embedded, embed_files
from dalle_cli.scoring.picture_ranking import (
    check_all_read,
    rank_pictures,
    ranking_fingerprint,
    ranking_text,
)
from dalle_cli.scoring.ranked_folder import write_ranked_folder
from dalle_cli.storage.job_folder import JobFolder

BATCH_SIZE = {"cpu": 32, "cuda": 512}  # by default


@dataclass(frozen=True)
class RerankOptions:
    """The command line of `rerank`."""

    pictures: str
    caption: str | None  # for all pictures; None if each has its own
    clip: str
    tokenizer: Path | None
    top_k: int
    batch_size: int  # 0 chooses by the device
    device: str
    precision: str
    out: Path | None


def run_rerank(options: RerankOptions, terminal: Terminal) -> None:
    """Score pictures and rank them, best first; copy the best into a folder with a grid and tables.

    CLIP sees a picture turned upright as its EXIF data state, with transparency on white, and the
    middle of a long one. An unreadable picture is marked in the tables, and raises DalleError once
    everything else is written. Several processes each score some of the pictures.
    """
    folder = JobFolder.open(options.out)
    listed = list_pictures(options.pictures)
    pictures = with_captions(listed.pictures, options.caption, out=options.out)

    choice = folder.recall_choice("precision", options.precision)
    device, precision = open_device(options.device, choice, say=terminal.say)
    with init_process_group(device) as world:
        precision = world.broadcast(precision)
        scorer = load_clip_scorer(
            options.clip, options.tokenizer, device=world.device, precision=precision
        )
        job = {
            "command": "rerank",
            "captions": list(dict.fromkeys(picture.caption for picture in pictures)),
            "clip": scorer.identity,
            "precision": precision,
            "top_k": options.top_k,
        }
        folder.check(job)  # on every rank, told once

        for warning in scorer.warnings(job["captions"]):
            terminal.warn(warning)
        where = f", writing {options.out}" if options.out else ""
        terminal.say(f"scoring {len(pictures):,} pictures{where}")
        tell_passed_over(listed, terminal)

        with explain_out_of_memory():
            embedded = _embed(pictures, scorer, options=options, terminal=terminal, world=world)
            if not world.is_main:
                return
            scores = rank_pictures(pictures, embedded, scorer=scorer)

    if options.out is not None:
        whole = {**job, "pictures": ranking_fingerprint(pictures, embedded)}
        with folder.writing(whole):
            scores = write_ranked_folder(options.out, scores, top_k=options.top_k)

    facts = {
        "out": None if options.out is None else str(options.out),
        "scores": [asdict(score) for score in scores],
    }
    terminal.result(ranking_text(scores, options.caption, top_k=options.top_k), facts)
    check_all_read(scores)


def _embed(
    pictures: Sequence[CaptionedPicture],
    scorer: ClipScorer,
    *,
    options: RerankOptions,
    terminal: Terminal,
    world: World,
) -> list[Embedded]:
    """Embed pictures with the help of the cache; every rank takes part."""
    cache = EmbeddingCache(embedding_cache_file(), scorer.embedding_key, scorer.width)
    with closing(cache):
        with terminal.progress(len(pictures), 0, "picture") as line:
            embedded = embed_files(
                [picture.path for picture in pictures],
                scorer,
                cache=cache,
                batch_size=options.batch_size or BATCH_SIZE[world.device.type],
                advance=line.advance,
                world=world,
            )
        if cache.problem is not None:
            terminal.warn(f"embeddings are not cached: {printable(cache.problem)}")
    return embedded
