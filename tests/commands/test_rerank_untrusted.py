"""`rerank` and untrusted input: unreadable pictures, hostile names and captions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ranked import CIRCLE, RING, Rerank, check_ranked, files_of, read_table

RAW = set("\x1b\x07\x9b\x7f\x00\u202e\u202c\u2066\u2069\udcff")


def write_bad(folder: Path) -> dict[str, str]:
    """Put what is no picture among pictures; give the reason for each."""
    whole = files_of(folder)[0].read_bytes()
    (folder / "cut.png").write_bytes(whole[:-40])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "folder.png").mkdir()
    return {
        "cut.png": "damaged or incomplete picture",
        "empty.png": "empty picture file",
        "text.png": "not a JPEG, PNG, WebP or GIF picture",
        "folder.png": "not a file, but a folder, a pipe or a device",
        "absent.png": "No such file or directory",
    }


def test_unreadable_pictures_are_told_and_the_rest_is_ranked(
    pictures: Path, tmp_path: Path, clip_run: Path, rerank: Rerank, command: Callable
) -> None:
    good = files_of(pictures)
    bad = write_bad(pictures)
    listed = [
        pictures / "cut.png",
        *good[:4],
        *(pictures / name for name in list(bad)[1:]),
        *good[4:],
    ]
    (tmp_path / "list.txt").write_text("\n".join(map(str, listed)))
    scores = rerank(tmp_path / "list.txt", RING, "--out", tmp_path / "best", code=1)
    check_ranked(scores[:7], clip_run, {RING: good})
    assert [score["rank"] for score in scores] == [*range(1, 8), *[None] * 5]
    assert {Path(score["picture"]).name: score["problem"] for score in scores[7:]} == bad
    assert all(score["score"] is None and score["file"] is None for score in scores[7:])
    assert (
        len(list((tmp_path / "best").glob("0*.png"))) == 7
        and (tmp_path / "best" / "grid.png").is_file()
    )
    assert read_table(tmp_path / "best") == scores
    ended = command(tmp_path / "list.txt", RING)
    assert ended.code == 1 and "error: 5 of 12 pictures could not be read" in ended.err
    for name, problem in bad.items():
        assert f"       -  {pictures / name}: {problem}\n" in ended.out


def test_unreadable_pictures_alone_are_told(
    tmp_path: Path, pictures: Path, rerank: Rerank, command: Callable
) -> None:
    bad = write_bad(pictures)
    (tmp_path / "list.txt").write_text("\n".join(str(pictures / name) for name in bad))
    scores = rerank(tmp_path / "list.txt", RING, "--out", tmp_path / "best", code=1)
    assert [score["problem"] for score in scores] == list(bad.values())
    assert {path.name for path in (tmp_path / "best").iterdir()} == {
        "job.json",
        "scores.csv",
        "scores.jsonl",
    }
    assert read_table(tmp_path / "best") == scores
    ended = command(tmp_path / "list.txt", RING, "--quiet")
    assert ended.code == 1 and ended.err == "error: none of 5 pictures could be read\n"


@pytest.mark.parametrize(
    ("n_bad", "n_good", "told"),
    [
        (1, 0, "the picture could not be read"),
        (2, 0, "none of 2 pictures could be read"),
        (1, 1, "1 of 2 pictures could not be read; the other is ranked"),
        (2, 3, "2 of 5 pictures could not be read; the others are ranked"),
    ],
)
def test_error_says_how_many_could_not_be_read(
    n_bad: int, n_good: int, told: str, pictures: Path, command: Callable
) -> None:
    for file in files_of(pictures)[n_good:]:
        file.unlink()
    for number in range(n_bad):
        (pictures / f"bad {number}.png").touch()
    ended = command(pictures, RING, "--quiet")
    assert ended.code == 1 and ended.err == f"error: {told}\n"


def test_paths_that_lead_to_no_file_are_told(
    pictures: Path, tmp_path: Path, clip_run: Path, rerank: Rerank
) -> None:
    (pictures / "loop.png").symlink_to("loop.png")
    unreadable = {
        "a\0b.png": "embedded null byte",
        "loop.png": "Too many levels of symbolic links",
        "/dev/null": "not a file, but a folder, a pipe or a device",
        "x" * 300: "File name too long",
    }
    rows = [{"file": name, "caption": RING} for name in ("000.png", *unreadable)]
    (pictures / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scores = rerank(pictures / "rows.jsonl", "--out", tmp_path / "best", code=1)
    check_ranked(scores[:1], clip_run, {RING: [pictures / "000.png"]})
    assert {score["picture"]: score["problem"] for score in scores[1:]} == {
        str(pictures / name): problem for name, problem in unreadable.items()
    }
    assert read_table(tmp_path / "best") == scores


def test_caption_whose_pictures_are_all_unreadable_still_stands_above_them(
    pictures: Path, command: Callable
) -> None:
    rows = [{"file": "000.png", "caption": RING}, {"file": "absent.png", "caption": CIRCLE}]
    (pictures / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = command(pictures / "rows.jsonl").out.splitlines()
    assert lines[0] == RING and lines[2:] == [
        CIRCLE, f"       -  {pictures / 'absent.png'}: No such file or directory",
    ]  # fmt: skip


HOSTILE = [
    "[bold red]x[/bold red]", "[/nonsense] {task} %s",
    "\x1b[31mred\x1b[0m \x1b]0;owned\x07", "\u202eder\u202c \u2066",
    "red\x9b31m\x7f", "\n\r\t", "\udcff", "🦜 鹦鹉", "=1+1", ' "quoted", ',
]  # fmt: skip


def test_hostile_names_never_reach_the_terminal_raw(
    pictures: Path, tmp_path: Path, rerank: Rerank, command: Callable
) -> None:
    for i, name in enumerate(name.replace("/", "|") for name in HOSTILE):
        if i % 2:
            shutil.copy(pictures / "000.png", pictures / f"{name}.png")
        (pictures / f"{name} bad.png").write_text("no picture")
    scores = rerank(pictures, RING, "--out", tmp_path / "best", code=1)
    assert {Path(score["picture"]).name for score in scores} == {
        path.name for path in files_of(pictures)
    }
    assert read_table(tmp_path / "best") == scores
    ended = command(pictures, RING)
    assert ended.code == 1 and len(ended.out.splitlines()) == len(scores)
    assert not RAW & set(ended.out + ended.err)
    assert "[bold red]x[|bold red] bad.png: not a" in ended.out and "\ufffd bad.png" in ended.out
    ended = command(f"absent {''.join(HOSTILE)}", RING)
    assert (
        ended.code == 2
        and "absent [bold red]x[/bold red]" in ended.err
        and not RAW & set(ended.err)
    )


def test_hostile_captions_never_reach_the_terminal_raw(
    pictures: Path, tmp_path: Path, rerank: Rerank, command: Callable
) -> None:
    captions = [f"a {caption}" for caption in HOSTILE if caption != "\udcff"]
    rows = [{"file": "000.png", "caption": caption} for caption in captions]
    (pictures / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scores = rerank(pictures / "rows.jsonl", "--out", tmp_path / "best")
    assert len(scores) == len(captions) and read_table(tmp_path / "best") == scores
    ended = command(pictures / "rows.jsonl")
    assert ended.code == 0 and not RAW & set(ended.out + ended.err)
    assert "a [bold red]x[/bold red]\n" in ended.out
