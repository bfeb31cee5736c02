"""Pictures ranked by the cosines of their embeddings with those of their captions.

Ramesh et al. 2021, section 2.6. Knows nothing of where pictures come from and where scores go.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from dalle_cli.errors import DalleError, printable
from dalle_cli.scoring.captioned_pictures import CaptionedPicture
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.scoring.embeddings import Embedded


@dataclass(frozen=True)
class PictureScore:
    """A picture's cosine and its rank among those of its caption, or why it could not be read."""

    caption: str
    rank: int | None
    score: float | None
    picture: str
    file: str | None = None  # name of its copy in the output folder
    problem: str | None = None


def rank_pictures(
    pictures: Sequence[CaptionedPicture], embedded: Sequence[Embedded], *, scorer: ClipScorer
) -> list[PictureScore]:
    """Rank the pictures of each caption, best first and unreadable ones last.

    Captions keep the order in which they first appear, and equal scores that of their pictures.
    """
    captions = list(dict.fromkeys(picture.caption for picture in pictures))
    texts = dict(zip(captions, scorer.embed_captions(captions).numpy(), strict=True))

    cosines: dict[str, list[tuple[float, str]]] = {caption: [] for caption in captions}
    unreadable: dict[str, list[PictureScore]] = {caption: [] for caption in captions}
    for (path, caption), result in zip(pictures, embedded, strict=True):
        if result.embedding is None:
            problem = PictureScore(caption, None, None, str(path), problem=result.problem)
            unreadable[caption].append(problem)
        else:
            cosines[caption].append((float(result.embedding @ texts[caption]), str(path)))

    ranked: list[PictureScore] = []
    for caption in captions:
        best_first = sorted(cosines[caption], key=lambda pair: -pair[0])
        ranked += [
            PictureScore(caption, rank, round(cosine, 6), path)
            for rank, (cosine, path) in enumerate(best_first, start=1)
        ]
        ranked += unreadable[caption]
    return ranked


def ranking_fingerprint(pictures: Sequence[CaptionedPicture], embedded: Sequence[Embedded]) -> str:
    """Hash which pictures, by path and checksum, are compared with which captions."""
    pairs = [
        [picture.caption, str(picture.path), result.checksum]
        for picture, result in zip(pictures, embedded, strict=True)
    ]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def ranking_text(scores: Sequence[PictureScore], caption: str | None, *, top_k: int) -> str:
    """Return lines of the best and the unreadable pictures.

    caption  of all pictures; None if they have their own, under which they are listed then
    """
    lines = []
    heading = caption
    for score in scores:
        if caption is None and score.caption != heading:
            heading = score.caption
            lines.append(printable(heading))
        if score.rank is not None and score.rank <= top_k:
            lines.append(f"{score.score:8.4f}  {printable(score.picture)}")
        if score.problem is not None:
            lines.append(f"       -  {printable(score.picture)}: {score.problem}")
    return "\n".join(lines)


def check_all_read(scores: Sequence[PictureScore]) -> None:
    """Raise DalleError if a picture could not be read."""
    n, n_bad = len(scores), sum(score.problem is not None for score in scores)
    if n_bad == n == 1:
        raise DalleError("the picture could not be read")
    if n_bad == n:
        raise DalleError(f"none of {n} pictures could be read")
    if n_bad:
        others = "the other is ranked" if n_bad == n - 1 else "the others are ranked"
        raise DalleError(f"{n_bad} of {n} pictures could not be read; {others}")
