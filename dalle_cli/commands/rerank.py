"""`dalle rerank`: pictures in the order in which a CLIP finds that they fit a caption."""

import csv
import hashlib
import itertools
import json
import os
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.console import Terminal
from dalle_cli.data.augment import CLIP_SQUARE_VERSION
from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.picture_lists import ListedPicture, list_pictures
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer
from dalle_cli.scoring.embedding_cache import EmbeddingCache
from dalle_cli.scoring.embeddings import Embedded, embed_files
from dalle_cli.storage.atomic import atomic_write, exclusive_lock
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import GRID, SCORES, SCORES_TABLE, cache_file
from dalle_cli.untrusted import SURROGATE, printable
from dalle_cli.viz import GRID_PICTURES, captioned_rows, labelled_grid

BATCH_SIZE = {"cpu": 32, "cuda": 512}  # unless told otherwise
GRID_TILE = 256  # pixels; larger pictures are shown smaller


@dataclass(frozen=True)
class RerankOptions:
    """The command line of `rerank`."""

    pictures: str
    caption: str | None  # for all pictures; none: each has its own
    clip: str
    tokenizer: Path | None
    top_k: int
    batch_size: int  # 0: by the device
    device: str
    precision: str
    out: Path | None


@dataclass(frozen=True)
class Score:
    """How a picture came out: its cosine and its rank among those of its caption, or why it could not be read."""

    caption: str
    rank: int | None
    score: float | None
    picture: str
    file: str | None = None  # its copy in the folder of the best
    problem: str | None = None


def rerank(options: RerankOptions, terminal: Terminal) -> None:
    """Score pictures and order them, the best first; copy the best into a folder with a grid and tables.

    CLIP sees a picture turned upright as its EXIF says, with transparency on white, and of a long one the middle. An
    unreadable picture is marked in the tables, and in the end raises DalleError, when all else is written.
    """
    folder = JobFolder.open(options.out)
    pictures = with_captions(list_others(options.pictures, options.out), options.caption)
    choice = folder.recall_choice("precision", options.precision)
    device, precision = open_device(options.device, choice)
    scorer = load_clip_scorer(options.clip, options.tokenizer, device=device, precision=precision)
    job = {
        "command": "rerank",
        "captions": list(dict.fromkeys(picture.caption for picture in pictures)),
        "clip": scorer.identity,
        "precision": precision,
        "top_k": options.top_k,
    }
    folder.check(job)
    warn_of_cut_captions(pictures, scorer, terminal)
    terminal.say(
        f"comparing {len(pictures):,} pictures"
        + (f", writing {options.out}" if options.out else "")
    )
    with explain_out_of_memory():
        found = embed(
            pictures, scorer, precision, options.batch_size or BATCH_SIZE[device.type], terminal
        )
        scores = rank(pictures, found, scorer)
    if options.out is not None:
        folder.begin({**job, "pictures": fingerprint(pictures, found)})
        with exclusive_lock(options.out):
            scores = write(scores, options.out, options.top_k)
    report(scores, options, terminal)
    check_all_read(scores)


def list_others(spec: str, out: Path | None) -> list[ListedPicture]:
    """List the pictures to compare, but for copies of the best that an earlier time has put among them."""
    pictures = list_pictures(spec)
    if out is not None:
        folder = os.path.realpath(out)
        pictures = [picture for picture in pictures if not lies_in(picture.path, folder)]
    if not pictures:
        raise DalleError(f"no pictures in {printable(spec)} but those of {out} itself")
    return pictures


def lies_in(file: Path, folder: str) -> bool:
    """Whether a file lies in a folder or below it, links followed; a path that leads nowhere does not."""
    try:
        return Path(folder) in Path(os.path.realpath(file)).parents
    except ValueError:  # a NUL byte
        return False


def embed(
    pictures: list[ListedPicture],
    scorer: ClipScorer,
    precision: str,
    batch_size: int,
    terminal: Terminal,
) -> list[Embedded]:
    """Embed the pictures with the help of the user's cache; say so where it is of none."""
    model = f"{scorer.checksum} {precision} {CLIP_SQUARE_VERSION}"
    width = scorer.clip.text_projection.shape[1]
    with (
        closing(EmbeddingCache(cache_file(), model, width)) as cache,
        terminal.progress(len(pictures), 0, "picture") as line,
    ):
        found = embed_files(
            [picture.path for picture in pictures], scorer, cache, batch_size, line.advance
        )
    if cache.problem is not None:
        terminal.warn(f"embeddings are not kept: {printable(cache.problem)}")
    return found


def warn_of_cut_captions(
    pictures: list[ListedPicture], scorer: ClipScorer, terminal: Terminal
) -> None:
    """Say which captions are longer than CLIP can read."""
    for caption in dict.fromkeys(picture.caption for picture in pictures):
        if scorer.is_truncated(caption):
            terminal.warn(
                f"caption cut to {scorer.clip.text_len} tokens: {printable(caption)[:60]}…"
            )


def with_captions(pictures: list[ListedPicture], caption: str | None) -> list[ListedPicture]:
    """Give every picture the caption, or leave each its own; raises UsageError where there is none."""
    if caption is not None:
        if SURROGATE.search(caption):
            raise UsageError("a caption that is not UTF-8")
        cleaned = clean_captions([caption])
        if not cleaned:
            raise UsageError(
                "an empty caption",
                "give it in quotes, or leave it out where a manifest has captions",
            )
        return [ListedPicture(picture.path, cleaned[0]) for picture in pictures]
    for picture in pictures:
        if picture.caption is None:
            message = f"no caption for {printable(str(picture.path))}"
            raise UsageError(
                message, 'give one for all, as in: dalle rerank PICTURES "a caption", or a manifest'
            )
    return pictures


def rank(pictures: list[ListedPicture], found: list[Embedded], scorer: ClipScorer) -> list[Score]:
    """Order the pictures of each caption by their cosines, captions in the order they came, the unreadable last."""
    captions = list(dict.fromkeys(picture.caption for picture in pictures))
    texts = dict(zip(captions, scorer.embed_captions(captions).numpy(), strict=True))
    scores: dict[str, list[tuple[float, str]]] = {caption: [] for caption in captions}
    problems: dict[str, list[Score]] = {caption: [] for caption in captions}
    for picture, one in zip(pictures, found, strict=True):
        if one.embedding is None:
            problems[picture.caption].append(
                Score(picture.caption, None, None, str(picture.path), None, one.problem)
            )
        else:
            cosine = float(one.embedding @ texts[picture.caption])
            scores[picture.caption].append((cosine, str(picture.path)))
    ordered: list[Score] = []
    for caption in captions:
        best_first = sorted(scores[caption], key=lambda one: -one[0])
        ordered += [
            Score(caption, i, round(c, 6), path) for i, (c, path) in enumerate(best_first, start=1)
        ]
        ordered += problems[caption]
    return ordered


def fingerprint(pictures: list[ListedPicture], found: list[Embedded]) -> str:
    """Hash which pictures were compared with which captions."""
    pairs = [
        [picture.caption, str(picture.path), one.checksum]
        for picture, one in zip(pictures, found, strict=True)
    ]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def write(scores: list[Score], out: Path, top_k: int) -> list[Score]:
    """Copy the best of each caption, in order, with a grid and the tables; give the scores with the copies' names."""
    written: list[Score] = []
    places = itertools.count()
    for score in scores:
        if score.rank is not None and score.rank <= top_k:
            name = f"{next(places):04d}{Path(score.picture).suffix.lower()}"
            with atomic_write(out / name) as beside:
                shutil.copyfile(score.picture, beside)
            score = replace(score, file=name)
        written.append(score)
    save_grid(written, out)
    rows = [asdict(score) for score in written]
    with atomic_write(out / SCORES) as beside:
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (
        atomic_write(out / SCORES_TABLE) as beside,
        beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.DictWriter(file, [field.name for field in fields(Score)])
        table.writeheader()
        table.writerows(rows)
    return written


def save_grid(scores: list[Score], out: Path) -> None:
    """Lay the best out under their captions, each caption's own in rows."""
    best: dict[str, list[Image.Image]] = {}
    for score in [score for score in scores if score.file is not None][:GRID_PICTURES]:
        best.setdefault(score.caption, []).append(tile(out / score.file))
    if best:
        with atomic_write(out / GRID) as beside:
            labelled_grid(captioned_rows(best.items())).save(beside, format="PNG")


def tile(file: Path) -> Image.Image:
    """Fit a picture into a square of the grid, small ones enlarged pixel by pixel."""
    try:
        picture = decode_image(file.read_bytes())
    except BadSample:  # it has changed since it was scored
        return Image.new("RGB", (GRID_TILE, GRID_TILE), "white")
    picture.thumbnail((GRID_TILE, GRID_TILE))
    factor = GRID_TILE // max(picture.size)
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    square = Image.new("RGB", (GRID_TILE, GRID_TILE), "white")
    square.paste(picture, ((GRID_TILE - picture.width) // 2, (GRID_TILE - picture.height) // 2))
    return square


def check_all_read(scores: list[Score]) -> None:
    """Raise DalleError where a picture could not be read."""
    n, n_bad = len(scores), sum(score.problem is not None for score in scores)
    if n_bad == n:
        raise DalleError(
            "the picture could not be read" if n == 1 else f"none of {n} pictures could be read"
        )
    if n_bad:
        others = "the other is ranked" if n_bad == n - 1 else "the others are ranked"
        raise DalleError(f"{n_bad} of {n} pictures could not be read; {others}")


def report(scores: list[Score], options: RerankOptions, terminal: Terminal) -> None:
    """Print the best of each caption, or all scores as JSON."""
    result: dict[str, Any] = {"out": None if options.out is None else str(options.out)}
    result["scores"] = [asdict(score) for score in scores]
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
    terminal.result("\n".join(lines), result)
