"""`rerank`: cosines by hand, every way to name pictures, what is written, and odd CLIPs."""

import csv
import json
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from ranked import CIRCLE, RING, Rerank, check_ranked, files_of, read_table, spoilt_clip

from dalle_cli.loading import load_clip
from dalle_cli.scoring.clip_scorer import clip_checksum
from dalle_cli.storage.integrity.checksums import checksummed_json

CAPTIONS = [CIRCLE, RING, CIRCLE, 'Kreis, "grün" 🦜', RING, RING, CIRCLE]  # of seven pictures
GRID_STEP = 260  # pixels from one tile of the grid to the next


def write_manifest(path: Path, files: list[Path], key: str) -> Path:
    rows = [
        {key: os.path.relpath(file, path.parent), "caption": caption}
        for file, caption in zip(files, CAPTIONS, strict=True)
    ]
    with path.open("w", newline="") as opened:
        if path.suffix == ".csv":
            table = csv.DictWriter(opened, [key, "caption"])
            table.writeheader()
            table.writerows(rows)
        else:
            opened.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def by_caption(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Pictures as a manifest in a folder names them."""
    grouped: dict[str, list[Path]] = {}
    for file, caption in zip(files, CAPTIONS, strict=True):
        grouped.setdefault(caption, []).append(folder / os.path.relpath(file, folder))
    return grouped


def test_folder_is_ranked_by_the_cosine_with_the_caption(
    pairs: Path, clip_run: Path, rerank: Rerank
) -> None:
    check_ranked(
        rerank(pairs, CIRCLE, "--batch-size", 4), clip_run, {CIRCLE: sorted(pairs.glob("*.png"))}
    )


def test_what_a_folder_holds_besides_pictures_is_told(pictures: Path, command: Callable) -> None:
    for name in ("a.bmp", "b.bmp", "c.avif"):
        (pictures / name).touch()
    (pictures / "linked").symlink_to(".")
    ended = command(pictures, CIRCLE)
    assert ended.code == 0 and "scoring 7 pictures" in ended.err
    assert "not read: 2 .bmp, 1 .avif" in ended.err
    assert f"{pictures}/linked: linked folder, not entered" in ended.err


def test_folder_is_ranked_by_the_captions_beside_its_pictures(
    pairs: Path, clip_run: Path, rerank: Rerank
) -> None:
    expected: dict[str, list[Path]] = {}
    for picture in sorted(pairs.glob("*.png")):
        caption = picture.with_suffix(".txt").read_text().strip()
        expected.setdefault(caption, []).append(picture)
    check_ranked(rerank(pairs), clip_run, expected)


def test_first_caption_beside_a_picture_counts_and_that_of_a_manifest_more(
    pictures: Path, clip_run: Path, rerank: Rerank
) -> None:
    for file in files_of(pictures):
        file.with_suffix(".txt").write_text(f"\n{RING}\n{CIRCLE}\n")
    pngs = sorted(pictures.glob("*.png"))
    check_ranked(rerank(pictures), clip_run, {RING: pngs})
    manifest = write_manifest(pictures / "rows.jsonl", pngs, "file")
    check_ranked(rerank(manifest), clip_run, by_caption(pngs, pictures))


@pytest.mark.parametrize(
    ("name", "key"), [("rows.jsonl", "file"), ("rows.jsonl", "image"), ("rows.csv", "file")]
)
def test_manifest_is_ranked_within_each_caption(
    name: str, key: str, pictures: Path, tmp_path: Path, clip_run: Path, rerank: Rerank
) -> None:
    (tmp_path / "lists").mkdir()
    manifest = write_manifest(tmp_path / "lists" / name, files_of(pictures), key)
    check_ranked(rerank(manifest), clip_run, by_caption(files_of(pictures), manifest.parent))


def test_caption_on_the_command_line_counts_before_those_of_a_manifest(
    pictures: Path, clip_run: Path, rerank: Rerank
) -> None:
    files = files_of(pictures)
    manifest = write_manifest(pictures / "manifest.jsonl", files, "file")
    check_ranked(rerank(manifest, f"  {RING}\n"), clip_run, {RING: files})


def test_drawn_folder_is_ranked_by_its_manifest_and_its_grid_is_not(
    transformer_run: Path, clip_run: Path, tmp_path: Path, dalle: Callable, rerank: Rerank
) -> None:
    drawn = tmp_path / "drawn"
    assert dalle("generate", transformer_run, CIRCLE, RING, "-n", 2, "--out", drawn).code == 0
    expected = {
        CIRCLE: [drawn / "0000.png", drawn / "0001.png"],
        RING: [drawn / "0002.png", drawn / "0003.png"],
    }
    check_ranked(rerank(drawn), clip_run, expected)


def test_list_standard_input_and_single_picture(
    pictures: Path, clip_run: Path, rerank: Rerank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in lists are relative to where the command runs, not to the list."""
    files = files_of(pictures)[:3]
    monkeypatch.chdir(pictures.parent)
    names = [os.path.relpath(file) for file in files]
    (pictures / "list.txt").write_text("\n".join(names))
    for scores in (
        rerank("pictures/list.txt", RING),
        rerank("-", RING, stdin="\n".join(names).encode()),
    ):
        check_ranked(scores, clip_run, {RING: [Path(name) for name in names]})
    check_ranked(rerank(files[1], RING), clip_run, {RING: [files[1]]})


def test_exported_clip_ranks_as_its_run(
    pictures: Path, clip_run: Path, tmp_path: Path, dalle: Callable, rerank: Rerank
) -> None:
    assert dalle("export", clip_run, "--out", tmp_path / "exported").code == 0
    assert rerank(pictures, RING) == rerank(pictures, RING, clip=tmp_path / "exported")


def test_checksum_is_that_of_the_clip_wherever_it_lies(
    clip_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    assert dalle("export", clip_run, "--out", tmp_path / "exported").code == 0
    assert clip_checksum(load_clip(clip_run)) == clip_checksum(
        load_clip(tmp_path / "exported" / "model")
    )


def test_checksum_tells_every_weight_and_size(own_clip_run: Path) -> None:
    clip = load_clip(own_clip_run)
    checksums = {clip_checksum(clip)}
    for weight in clip.state_dict().values():
        first = weight.view(-1)[:1]
        before = first.clone()
        first.copy_(torch.nextafter(before, torch.tensor(torch.inf)))
        checksums.add(clip_checksum(clip))
        first.copy_(before)
    config = json.loads((own_clip_run / "model" / "config.json").read_text())
    config["model"]["vision"]["n_heads"] = 4
    (own_clip_run / "model" / "config.json").write_bytes(checksummed_json(config))
    checksums.add(clip_checksum(load_clip(own_clip_run)))
    assert len(checksums) == len(clip.state_dict()) + 2


def test_equal_pictures_keep_the_order_of_their_names(pictures: Path, rerank: Rerank) -> None:
    shutil.copy(pictures / "003.png", pictures / "003b.png")
    names = [Path(score["picture"]).name for score in rerank(pictures, RING)]
    assert names.index("003b.png") == names.index("003.png") + 1


def test_text_names_the_best_of_each_caption_under_it(
    pictures: Path, command: Callable, rerank: Rerank
) -> None:
    manifest = write_manifest(pictures / "rows.csv", files_of(pictures), "file")
    scores = rerank(manifest)
    ended = command(manifest, "--top-k", 2)
    expected: list[str] = []
    for score in scores:
        expected += [score["caption"]] if score["rank"] == 1 else []
        expected += [f"{score['score']:8.4f}  {score['picture']}"] if score["rank"] <= 2 else []
    assert ended.code == 0 and ended.out.splitlines() == expected
    one = command(pictures, RING, "--top-k", 2).out.splitlines()
    assert one == [f"{s['score']:8.4f}  {s['picture']}" for s in rerank(pictures, RING)[:2]]


def test_user_without_a_home_ranks_without_a_cache(
    pictures: Path, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ended = command(pictures, RING)
    assert ended.code == 0 and "embeddings are not cached: there is no home folder" in ended.err
    assert not list((tmp_path / "here").iterdir())


def test_quiet_leaves_the_results_alone(pictures: Path, command: Callable) -> None:
    loud, quiet = command(pictures, RING), command(pictures, RING, "--quiet")
    assert quiet.out == loud.out != "" and quiet.err == "" and "picture 7/7" in loud.err


def test_best_are_copied_in_order_with_grid_and_tables(
    pictures: Path, tmp_path: Path, rerank: Rerank
) -> None:
    Image.open(pictures / "004.png").save(pictures / "004.JPEG")
    (pictures / "004.png").unlink()
    manifest = write_manifest(pictures / "rows.jsonl", files_of(pictures), "file")
    out = tmp_path / "some" / "best"
    scores = rerank(manifest, "--top-k", 2, "--out", out)
    best = [score for score in scores if score["rank"] <= 2]
    assert [
        len([s for s in best if s["caption"] == caption]) for caption in dict.fromkeys(CAPTIONS)
    ] == [2, 2, 1]
    suffixes = [Path(score["picture"]).suffix.lower() for score in best]
    assert [score["file"] for score in best] == [
        f"{i:04d}{suffix}" for i, suffix in enumerate(suffixes)
    ]
    assert all(score["file"] is None for score in scores if score["rank"] > 2)
    for score in best:
        assert (out / score["file"]).read_bytes() == Path(score["picture"]).read_bytes()
    others = {"grid.png", "job.json", "scores.csv", "scores.jsonl"}
    assert {path.name for path in out.iterdir()} == {score["file"] for score in best} | others
    assert read_table(out) == scores
    assert [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()] == scores


def test_every_shape_has_its_place_in_the_grid(tmp_path: Path, rerank: Rerank) -> None:
    """In the order of their ranks, eight in a row, each in the middle of its square."""
    (tmp_path / "in").mkdir()
    sizes = [
        (300, 40),
        (40, 300),
        (600, 600),
        (16, 16),
        (16, 3000),
        (100, 90),
        (256, 256),
        (20, 200),
        (31, 33),
        (640, 480),
    ]
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (25 * i, 255 - 25 * i, 128)).save(tmp_path / "in" / f"{i}.png")
    scores = rerank(tmp_path / "in", RING, "--out", tmp_path / "best")
    with Image.open(tmp_path / "best" / "grid.png") as grid:
        assert grid.width == 8 * GRID_STEP + 4
        top = grid.height - 2 * GRID_STEP - 4  # the caption
        for place, score in enumerate(scores):
            i = int(Path(score["picture"]).stem)
            middle = (place % 8 * GRID_STEP + 131, top + place // 8 * GRID_STEP + 131)
            assert grid.getpixel(middle) == (25 * i, 255 - 25 * i, 128)


def test_copies_of_the_best_among_the_pictures_are_not_ranked(
    rerank: Rerank, pictures: Path
) -> None:
    first, again = (rerank(pictures, RING, "--out", pictures / "best") for _ in range(2))
    assert first == again and len(again) == 7


@pytest.mark.parametrize("weight", ["visual.proj", "text_projection"])
def test_clip_with_a_weight_that_is_no_number_is_told_and_ranks_nothing(
    weight: str, pictures: Path, own_clip_run: Path, tmp_path: Path, command: Callable
) -> None:
    spoilt_clip(own_clip_run, weight)
    ended = command(
        pictures, RING, "--quiet", "--json", "--out", tmp_path / "best", clip=own_clip_run
    )
    assert ended.code == 1 and ended.out == "" and not (tmp_path / "best").exists()
    assert (
        ended.err.startswith("error: ")
        and "not finite" in ended.err
        and ended.err.count("error") == 1
    )


def test_caption_longer_than_clip_reads_is_told(command: Callable, pictures: Path) -> None:
    assert (
        "warning: caption truncated to CLIP's 16 tokens: a ring a ring"
        in command(pictures, "a ring " * 30).err
    )
    assert "truncated" not in command(pictures, "a ring").err
