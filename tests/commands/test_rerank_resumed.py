"""`rerank` into an existing folder: resumed if the job is the same, refused if it is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ranked import CIRCLE, RING, Rerank, change_picture, changed_clip


def test_same_command_goes_on_with_its_folder(
    pictures: Path, tmp_path: Path, tree: Callable, rerank: Rerank, embedded: list[int]
) -> None:
    words = [pictures, RING, "--top-k", 3, "--out", tmp_path / "best"]
    scores, whole = rerank(*words), tree(tmp_path / "best")
    for name in ("scores.csv", "0001.png", "grid.png"):
        (tmp_path / "best" / name).unlink()
    embedded.clear()
    assert rerank(*words) == scores and tree(tmp_path / "best") == whole
    assert embedded == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_folder_is_gone_on_with_in_the_precision_it_was_begun_in(
    precision: str, pictures: Path, tmp_path: Path, rerank: Rerank
) -> None:
    words = [pictures, RING, "--out", tmp_path / "best"]
    assert rerank(*words, precision=precision) == rerank(*words, precision="auto")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda pictures, run: {"words": [pictures, CIRCLE]}, "captions"),
        (lambda pictures, run: {"words": [pictures / "000.png", RING]}, "pictures"),
        (lambda pictures, run: change_picture(pictures), "pictures"),
        (lambda pictures, run: {"words": [pictures, RING, "--top-k", 3]}, "top_k"),
        (lambda pictures, run: {"precision": "bf16"}, "precision"),
        (lambda pictures, run: {"clip": changed_clip(run)}, "clip"),
    ],
    ids=["caption", "fewer pictures", "changed picture", "top k", "precision", "CLIP"],
)
def test_folder_of_another_job_is_refused(
    change: Callable,
    named: str,
    pictures: Path,
    own_clip_run: Path,
    tmp_path: Path,
    tree: Callable,
    rerank: Rerank,
    command: Callable,
) -> None:
    rerank(pictures, RING, "--out", tmp_path / "best")
    before = tree(tmp_path / "best")
    options = {"words": [pictures, RING], **(change(pictures, own_clip_run) or {})}
    ended = command(*options.pop("words"), "--out", tmp_path / "best", **options)
    assert (
        ended.code == 2
        and ended.out == ""
        and f"belongs to another job, with other {named}" in ended.err
    )
    assert tree(tmp_path / "best") == before


@pytest.mark.parametrize(
    ("words", "options", "named"),
    [
        (["--top-k", 3], lambda run: {}, "top_k"),
        ([], lambda run: {"precision": "bf16"}, "precision"),
        ([], lambda run: {"clip": changed_clip(run)}, "clip"),
    ],
    ids=["top k", "precision", "CLIP"],
)
def test_folder_of_another_job_is_refused_before_any_picture_is_embedded_if_that_can_be_known(
    words: list[object],
    options: Callable,
    named: str,
    pictures: Path,
    own_clip_run: Path,
    tmp_path: Path,
    fresh_cache: Path,
    rerank: Rerank,
    command: Callable,
    embedded: list[int],
) -> None:
    rerank(pictures, RING, "--out", tmp_path / "best")
    fresh_cache.unlink()
    embedded.clear()
    ended = command(pictures, RING, "--out", tmp_path / "best", *words, **options(own_clip_run))
    assert ended.code == 2 and f"belongs to another job, with other {named}" in ended.err
    assert embedded == []


@pytest.mark.parametrize("is_folder", [True, False])
def test_folder_of_someone_else_is_refused_before_any_picture_is_embedded(
    is_folder: bool,
    pictures: Path,
    tmp_path: Path,
    tree: Callable,
    command: Callable,
    embedded: list[int],
) -> None:
    theirs = tmp_path / "best" / "thesis.tex" if is_folder else tmp_path / "best"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("years")
    before = tree(tmp_path)
    ended = command(pictures, RING, "--out", tmp_path / "best")
    assert ended.code == 2 and "already holds something" in ended.err
    assert embedded == [] and tree(tmp_path) == before


def test_folder_of_another_caption_is_refused_before_any_picture_is_embedded(
    pictures: Path,
    tmp_path: Path,
    fresh_cache: Path,
    rerank: Rerank,
    command: Callable,
    embedded: list[int],
) -> None:
    rerank(pictures, RING, "--out", tmp_path / "best")
    fresh_cache.unlink()
    embedded.clear()
    ended = command(pictures, CIRCLE, "--out", tmp_path / "best")
    assert ended.code == 2 and "with other captions" in ended.err and embedded == []
