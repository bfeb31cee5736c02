"""`dalle rerank`: pictures in the order in which a CLIP finds that they fit a caption."""

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from dalle_cli.commands.reports.passed_over import tell_passed_over
from dalle_cli.console import Terminal
from dalle_cli.data.picture_lists import list_pictures
from dalle_cli.errors import printable
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.scoring.captioned_pictures import with_captions
from dalle_cli.scoring.clip_scorer import load_clip_scorer
from dalle_cli.scoring.embedding_cache import EmbeddingCache, embedding_cache_file
from dalle_cli.scoring.embeddings import embed_files
from dalle_cli.scoring.picture_ranking import (
    PictureScore,
    check_all_read,
    rank_pictures,
    ranking_fingerprint,
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
    everything else is written.
    """
    folder = JobFolder.open(options.out)
    listed = list_pictures(options.pictures)
    pictures = with_captions(listed.pictures, options.caption, out=options.out)
    captions = list(dict.fromkeys(picture.caption for picture in pictures))

    choice = folder.recall_choice("precision", options.precision)
    device, precision = open_device(options.device, choice, say=terminal.say)
    scorer = load_clip_scorer(options.clip, options.tokenizer, device=device, precision=precision)
    job = {
        "command": "rerank",
        "captions": captions,
        "clip": scorer.identity,
        "precision": precision,
        "top_k": options.top_k,
    }
    folder.check(job)

    for warning in scorer.warnings(captions):
        terminal.warn(warning)
    where = f", writing {options.out}" if options.out else ""
    terminal.say(f"scoring {len(pictures):,} pictures{where}")
    tell_passed_over(listed, terminal)

    cache = EmbeddingCache(embedding_cache_file(), scorer.embedding_key, scorer.width)
    with explain_out_of_memory(), closing(cache):
        with terminal.progress(len(pictures), 0, "picture") as line:
            embedded = embed_files(
                [picture.path for picture in pictures],
                scorer,
                cache=cache,
                batch_size=options.batch_size or BATCH_SIZE[device.type],
                advance=line.advance,
            )
        if cache.problem is not None:
            terminal.warn(f"embeddings are not cached: {printable(cache.problem)}")
        scores = rank_pictures(pictures, embedded, scorer=scorer)

    if options.out is not None:
        whole = {**job, "pictures": ranking_fingerprint(pictures, embedded)}
        with folder.writing(whole):
            scores = write_ranked_folder(options.out, scores, top_k=options.top_k)

    facts = {
        "out": None if options.out is None else str(options.out),
        "scores": [asdict(score) for score in scores],
    }
    terminal.result(_text(scores, options), facts)
    check_all_read(scores)


def _text(scores: list[PictureScore], options: RerankOptions) -> str:
    """List the best and the unreadable pictures, under their captions if they have their own."""
    lines = []
    heading = options.caption
    for score in scores:
        if options.caption is None and score.caption != heading:
            heading = score.caption
            lines.append(printable(heading))
        if score.rank is not None and score.rank <= options.top_k:
            lines.append(f"{score.score:8.4f}  {printable(score.picture)}")
        if score.problem is not None:
            lines.append(f"       -  {printable(score.picture)}: {score.problem}")
    return "\n".join(lines)
