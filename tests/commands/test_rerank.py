"""`rerank`: cosines by hand, every way to name pictures, what is written, what is kept, and what can be wrong."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from dalle_cli.data.augment import clip_square
from dalle_cli.data.images import decode_image
from dalle_cli.loading import load_clip, load_clip_tokenizer
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip
from dalle_cli.reranking import clip_checksum

RING, CIRCLE = "a blue ring", "a small red circle at the top left"
CAPTIONS = [CIRCLE, RING, CIRCLE, 'Kreis, "grün" 🦜', RING, RING, CIRCLE]  # of seven pictures
COLUMNS = ["caption", "rank", "score", "picture", "file", "problem"]
RAW = set("\x1b\x07\x9b\x7f\x00\u202e\u202c\u2066\u2069\udcff")
GRID_STEP = 260  # pixels from one tile of the grid to the next

Rerank = Callable[..., list[dict]]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test knows what another has embedded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dalle" / "embeddings.sqlite"


@pytest.fixture
def pictures(pairs: Path, tmp_path: Path) -> Path:
    """A folder of seven pictures."""
    (tmp_path / "pictures").mkdir()
    for picture in sorted(pairs.glob("*.png"))[:7]:
        shutil.copy(picture, tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture
def command(clip_run: Path, dalle: Callable) -> Callable:
    def run(*words: object, clip: object = clip_run, precision: str = "fp32", **options: bytes):
        return dalle("rerank", *words, "--clip", clip, "--device", "cpu", "--precision", precision, **options)

    return run


@pytest.fixture
def rerank(command: Callable) -> Rerank:
    """Rank pictures and give the scores."""

    def run(*words: object, code: int = 0, **options: object) -> list[dict]:
        ended = command(*words, "--json", "--quiet", **options)
        assert ended.code == code, ended.err
        return json.loads(ended.out)["scores"]

    return run


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through a CLIP, batch by batch."""
    batches: list[int] = []
    encode_image = Clip.encode_image

    def count(self: Clip, pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        return encode_image(self, pixels)

    monkeypatch.setattr(Clip, "encode_image", count)
    return batches


def cosines(run: Path, files: Iterable[Path], caption: str) -> list[float]:
    """What CLIP says, one picture at a time."""
    clip = load_clip(run)
    tokenizer = load_clip_tokenizer(run, clip)
    text = clip.encode_text(tokenizer([caption], clip.text_len))[0].double()
    found = []
    for file in files:
        square = torch.tensor(clip_square(decode_image(file.read_bytes()), clip.image_size)).permute(2, 0, 1) / 255
        pixels = (square - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
        found.append(float(F.cosine_similarity(clip.encode_image(pixels[None])[0].double(), text, dim=0)))
    return found


def check_ranked(scores: list[dict], run: Path, expected: dict[str, list[Path]]) -> None:
    """Compare with the cosines of each caption's pictures, captions in order, the best picture first."""
    assert list(dict.fromkeys(score["caption"] for score in scores)) == list(expected)
    assert all(list(score) == COLUMNS for score in scores)
    for caption, files in expected.items():
        own = [score for score in scores if score["caption"] == caption]
        by_hand = dict(zip(map(str, files), cosines(run, files, caption), strict=True))
        assert sorted(score["picture"] for score in own) == sorted(by_hand)
        assert [score["rank"] for score in own] == list(range(1, len(files) + 1))
        found = [score["score"] for score in own]
        assert found == sorted(found, reverse=True)
        assert found == pytest.approx([by_hand[score["picture"]] for score in own], rel=0, abs=1e-6)


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


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
        "folder.png": "Is a directory",
        "absent.png": "No such file or directory",
    }


def test_folder_is_ranked_by_the_cosine_with_the_caption(pairs: Path, clip_run: Path, rerank: Rerank) -> None:
    check_ranked(rerank(pairs, CIRCLE, "--batch-size", 4), clip_run, {CIRCLE: sorted(pairs.glob("*.png"))})


@pytest.mark.parametrize(("name", "key"), [("rows.jsonl", "file"), ("rows.jsonl", "image"), ("rows.csv", "file")])
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
    expected = {CIRCLE: [drawn / "0000.png", drawn / "0001.png"], RING: [drawn / "0002.png", drawn / "0003.png"]}
    check_ranked(rerank(drawn), clip_run, expected)


def test_list_standard_input_and_single_picture(
    pictures: Path, clip_run: Path, rerank: Rerank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in lists are relative to where the command runs, not to the list."""
    files = files_of(pictures)[:3]
    monkeypatch.chdir(pictures.parent)
    names = [os.path.relpath(file) for file in files]
    (pictures / "list.txt").write_text("\n".join(names))
    for scores in (rerank("pictures/list.txt", RING), rerank("-", RING, stdin="\n".join(names).encode())):
        check_ranked(scores, clip_run, {RING: [Path(name) for name in names]})
    check_ranked(rerank(files[1], RING), clip_run, {RING: [files[1]]})


def test_exported_clip_ranks_as_its_run(
    pictures: Path, clip_run: Path, tmp_path: Path, dalle: Callable, rerank: Rerank
) -> None:
    assert dalle("export", clip_run, "--out", tmp_path / "exported").code == 0
    assert rerank(pictures, RING) == rerank(pictures, RING, clip=tmp_path / "exported")


def test_checksum_is_that_of_the_clip_wherever_it_lies(clip_run: Path, tmp_path: Path, dalle: Callable) -> None:
    assert dalle("export", clip_run, "--out", tmp_path / "exported").code == 0
    assert clip_checksum(load_clip(clip_run)) == clip_checksum(load_clip(tmp_path / "exported" / "model"))


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
    (own_clip_run / "model" / "config.json").write_text(json.dumps(config))
    checksums.add(clip_checksum(load_clip(own_clip_run)))
    assert len(checksums) == len(clip.state_dict()) + 2


def test_equal_pictures_keep_the_order_of_their_names(pictures: Path, rerank: Rerank) -> None:
    shutil.copy(pictures / "003.png", pictures / "003b.png")
    names = [Path(score["picture"]).name for score in rerank(pictures, RING)]
    assert names.index("003b.png") == names.index("003.png") + 1


def test_text_names_the_best_of_each_caption_under_it(pictures: Path, command: Callable, rerank: Rerank) -> None:
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


def test_quiet_leaves_the_results_alone(pictures: Path, command: Callable) -> None:
    loud, quiet = command(pictures, RING), command(pictures, RING, "--quiet")
    assert quiet.out == loud.out != "" and quiet.err == "" and "picture 7/7" in loud.err


def read_table(out: Path) -> list[dict]:
    """Read scores.csv back, numbers as numbers and nothing as None."""
    with (out / "scores.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {"rank": int, "score": float}
    return [{key: numbers.get(key, str)(text) if text else None for key, text in row.items()} for row in rows]


def test_best_are_copied_in_order_with_grid_and_tables(pictures: Path, tmp_path: Path, rerank: Rerank) -> None:
    Image.open(pictures / "004.png").save(pictures / "004.JPEG")
    (pictures / "004.png").unlink()
    manifest = write_manifest(pictures / "rows.jsonl", files_of(pictures), "file")
    out = tmp_path / "some" / "best"
    scores = rerank(manifest, "--top-k", 2, "--out", out)
    best = [score for score in scores if score["rank"] <= 2]
    assert [len([s for s in best if s["caption"] == caption]) for caption in dict.fromkeys(CAPTIONS)] == [2, 2, 1]
    suffixes = [Path(score["picture"]).suffix.lower() for score in best]
    assert [score["file"] for score in best] == [f"{i:04d}{suffix}" for i, suffix in enumerate(suffixes)]
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


def test_unreadable_pictures_are_told_and_the_rest_is_ranked(
    pictures: Path, tmp_path: Path, clip_run: Path, rerank: Rerank, command: Callable
) -> None:
    good = files_of(pictures)
    bad = write_bad(pictures)
    listed = [pictures / "cut.png", *good[:4], *(pictures / name for name in list(bad)[1:]), *good[4:]]
    (tmp_path / "list.txt").write_text("\n".join(map(str, listed)))
    scores = rerank(tmp_path / "list.txt", RING, "--out", tmp_path / "best", code=1)
    check_ranked(scores[:7], clip_run, {RING: good})
    assert [score["rank"] for score in scores] == [*range(1, 8), *[None] * 5]
    assert {Path(score["picture"]).name: score["problem"] for score in scores[7:]} == bad
    assert all(score["score"] is None and score["file"] is None for score in scores[7:])
    assert len(list((tmp_path / "best").glob("0*.png"))) == 7 and (tmp_path / "best" / "grid.png").is_file()
    assert read_table(tmp_path / "best") == scores
    ended = command(tmp_path / "list.txt", RING)
    assert ended.code == 1 and "error: 5 of 12 pictures could not be read" in ended.err
    for name, problem in bad.items():
        assert f"       -  {pictures / name}: {problem}\n" in ended.out


def test_unreadable_pictures_alone_are_told(tmp_path: Path, pictures: Path, rerank: Rerank, command: Callable) -> None:
    bad = write_bad(pictures)
    (tmp_path / "list.txt").write_text("\n".join(str(pictures / name) for name in bad))
    scores = rerank(tmp_path / "list.txt", RING, "--out", tmp_path / "best", code=1)
    assert [score["problem"] for score in scores] == list(bad.values())
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"job.json", "scores.csv", "scores.jsonl"}
    assert read_table(tmp_path / "best") == scores
    ended = command(tmp_path / "list.txt", RING, "--quiet")
    assert ended.code == 1 and ended.err == "error: 5 of 5 pictures could not be read; the others are ranked\n"


def test_caption_whose_pictures_are_all_unreadable_still_stands_above_them(pictures: Path, command: Callable) -> None:
    rows = [{"file": "000.png", "caption": RING}, {"file": "absent.png", "caption": CIRCLE}]
    (pictures / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = command(pictures / "rows.jsonl").out.splitlines()
    assert lines[0] == RING and lines[2:] == [
        CIRCLE, f"       -  {pictures / 'absent.png'}: No such file or directory",
    ]  # fmt: skip


HOSTILE = [
    "[bold red]x[/bold red]", "[/nonsense] {task} %s", "\x1b[31mred\x1b[0m \x1b]0;owned\x07", "\u202eder\u202c \u2066",
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
    assert {Path(score["picture"]).name for score in scores} == {path.name for path in files_of(pictures)}
    assert read_table(tmp_path / "best") == scores
    ended = command(pictures, RING)
    assert ended.code == 1 and len(ended.out.splitlines()) == len(scores)
    assert not RAW & set(ended.out + ended.err)
    assert "[bold red]x[|bold red] bad.png: not a" in ended.out and "\ufffd bad.png" in ended.out
    ended = command(f"absent {''.join(HOSTILE)}", RING)
    assert ended.code == 1 and "absent [bold red]x[/bold red]" in ended.err and not RAW & set(ended.err)


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


def changed_clip(run: Path) -> Path:
    """Turn a run's CLIP into another one."""
    weights = load_file(run / "model" / "model.safetensors")
    save_file({**weights, "visual.proj": weights["visual.proj"].flip(1)}, run / "model" / "model.safetensors")
    return run


def change_picture(pictures: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(pictures / "003.png")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda pictures, run: {"words": [pictures, CIRCLE]}, "pictures"),
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
    assert ended.code == 2 and ended.out == "" and f"belongs to a job with another {named}" in ended.err
    assert tree(tmp_path / "best") == before


@pytest.mark.parametrize("is_folder", [True, False])
def test_folder_of_someone_else_is_refused_before_any_picture_is_embedded(
    is_folder: bool, pictures: Path, tmp_path: Path, tree: Callable, command: Callable, embedded: list[int]
) -> None:
    theirs = tmp_path / "best" / "thesis.tex" if is_folder else tmp_path / "best"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("years")
    before = tree(tmp_path)
    ended = command(pictures, RING, "--out", tmp_path / "best")
    assert ended.code == 2 and "already holds something" in ended.err
    assert embedded == [] and tree(tmp_path) == before


def test_second_caption_embeds_no_picture_again(
    pictures: Path, clip_run: Path, rerank: Rerank, embedded: list[int]
) -> None:
    rerank(pictures, RING)
    assert sum(embedded) == 7
    embedded.clear()
    scores = rerank(pictures, CIRCLE)
    assert embedded == []
    check_ranked(scores, clip_run, {CIRCLE: files_of(pictures)})


def test_picture_is_known_by_its_content(
    pictures: Path, tmp_path: Path, rerank: Rerank, embedded: list[int], clip_run: Path
) -> None:
    before = rerank(pictures, RING)
    embedded.clear()
    moved = tmp_path / "moved"
    pictures.rename(moved)
    (moved / "000.png").rename(moved / "zero.PNG")
    after = rerank(moved, RING)
    assert embedded == [] and [s["score"] for s in after] == [s["score"] for s in before]
    change_picture(moved)
    check_ranked(rerank(moved, RING), clip_run, {RING: files_of(moved)})
    assert embedded[0] == 1


def test_embeddings_of_another_clip_or_precision_are_not_taken(
    pictures: Path, own_clip_run: Path, rerank: Rerank, embedded: list[int]
) -> None:
    rerank(pictures, RING)
    embedded.clear()
    rerank(pictures, RING, clip=own_clip_run)  # the same CLIP elsewhere
    assert embedded == []
    rerank(pictures, RING, precision="bf16")
    assert sum(embedded) == 7
    embedded.clear()
    scores = rerank(pictures, RING, clip=changed_clip(own_clip_run))
    assert sum(embedded) == 7
    check_ranked(scores, own_clip_run, {RING: files_of(pictures)})


BROKEN_CACHES: dict[str, Callable[[Path], object]] = {
    "not a database": lambda file: (file.parent.mkdir(parents=True), file.write_text("not a database" * 100)),
    "a folder in its place": lambda file: file.mkdir(parents=True),
    "a file in place of its folder": lambda file: (file.parents[1].mkdir(), file.parent.touch()),
}


@pytest.mark.parametrize("name", BROKEN_CACHES)
def test_broken_cache_is_told_and_changes_no_score(
    name: str, pictures: Path, fresh_cache: Path, clip_run: Path, command: Callable
) -> None:
    BROKEN_CACHES[name](fresh_cache)
    ended = command(pictures, RING, "--json", "--quiet")
    assert ended.code == 0 and ended.err.startswith("warning: embeddings are not kept: ")
    assert str(fresh_cache.parent) in ended.err and len(ended.err.splitlines()) == 1
    check_ranked(json.loads(ended.out)["scores"], clip_run, {RING: files_of(pictures)})


def test_interrupted_command_keeps_what_it_had_embedded(
    pictures: Path, tmp_path: Path, clip_run: Path, command: Callable, rerank: Rerank, embedded: list[int]
) -> None:
    counting = Clip.encode_image

    def stop(self: Clip, pixels: torch.Tensor) -> torch.Tensor:
        if embedded:
            raise KeyboardInterrupt
        return counting(self, pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clip, "encode_image", stop)
        ended = command(pictures, RING, "--batch-size", 3, "--out", tmp_path / "best")
    assert ended.code == 130 and ended.out == "" and not (tmp_path / "best").exists()
    embedded.clear()
    scores = rerank(pictures, RING)
    assert sum(embedded) == 4
    check_ranked(scores, clip_run, {RING: files_of(pictures)})


def test_copies_of_the_best_among_the_pictures_are_not_ranked(rerank: Rerank, pictures: Path) -> None:
    first, again = (rerank(pictures, RING, "--out", pictures / "best") for _ in range(2))
    assert first == again and len(again) == 7


def test_caption_longer_than_clip_reads_is_told(command: Callable, pictures: Path) -> None:
    assert "warning: caption cut to 16 tokens: a ring a ring" in command(pictures, "a ring " * 30).err
    assert "cut" not in command(pictures, "a ring").err
