"""`generate`: what a picture depends on, what is written beside it, and what captions may do to a terminal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from dalle_cli.commands.generate import Candidate, GenerateOptions, Painter
from dalle_cli.commands.generate import draw as draw_candidates
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.loading import load_dvae, load_tokenizer, load_transformer
from dalle_cli.run_dir import RunDir
from dalle_cli.sampling import SamplingSettings

HOSTILE = [
    "[bold red]a red circle[/bold red]",
    "[/nonsense] [link=https://example.org]x[/link] {task} %s",
    "a \x1b[31mred\x1b[0m circle \x1b]0;owned\x07",
    "a \u202eelcric der\u202c \u2066circle\u2069",
    "a red\x9b31m circle\x00\x7f",
    "🦜 鹦鹉 " + "z\u0335\u0321" * 40,
]
RAW = set("\x1b\x07\x9b\x7f\x00\u202e\u202c\u2066\u2069")


@pytest.fixture
def draw(transformer_run: Path, tmp_path: Path, dalle: Callable) -> Callable[..., dict[str, bytes]]:
    """Draw into a new folder and give its files."""

    def generate(*words: object, name: str = "drawn", run: Path = transformer_run, **options: bytes):
        ended = dalle("generate", run, *words, "--out", tmp_path / name, **options)
        assert ended.code == 0, ended.err
        assert ended.out == f"{tmp_path / name}\n"
        return {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())}

    return generate


def pixels(files: dict[str, bytes], folder: Path) -> list[bytes]:
    """Decode the single pictures of a folder."""
    return [Image.open(folder / name).tobytes() for name in sorted(files) if name[0].isdigit()]


def test_same_seed_draws_the_same_files_and_another_others(draw: Callable, tmp_path: Path) -> None:
    words = ["a red circle", "a blue ring", "-n", 3]
    one, same = draw(*words, name="one"), draw(*words, name="same")
    assert one == same and set(one) == {*(f"{i:04d}.png" for i in range(6)), "grid.png", "manifest.jsonl"}
    other = draw(*words, "--seed", 1, name="other")
    assert pixels(one, tmp_path / "one") != pixels(other, tmp_path / "other")


def test_short_last_batch_gives_the_pictures_of_a_full_one(draw: Callable, tmp_path: Path) -> None:
    short = draw("a red circle", "-n", 5, "--batch-size", 4, name="short")
    full = draw("a red circle", "-n", 8, "--batch-size", 4, name="full")
    assert {name: full[name] for name in short if name[0].isdigit()} == {
        name: content for name, content in short.items() if name[0].isdigit()
    }


def test_every_batch_has_the_decode_width(transformer_run: Path) -> None:
    """Bits depend on the shape of a multiplication, on some processors even where pictures happen to agree."""
    transformer, dvae = load_transformer(transformer_run), load_dvae(transformer_run)
    painter = Painter(transformer, dvae, load_tokenizer(RunDir(transformer_run)), torch.device("cpu"))
    options = GenerateOptions(transformer_run, ["a ring"], 5, SamplingSettings(), 0, 4, "cpu", "fp32", None)
    widths = set()
    transformer.image_head.register_forward_pre_hook(lambda _, given: widths.add(len(given[0])))
    dvae.decoder.register_forward_pre_hook(lambda _, given: widths.add(len(given[0])))
    drawn = list(draw_candidates(painter, [Candidate("a ring", i) for i in range(5)], 4, options))
    assert [candidate.number for candidate, _ in drawn] == [0, 1, 2, 3, 4] and widths == {4}


def test_pictures_do_not_depend_on_what_is_drawn_beside_them(draw: Callable, tmp_path: Path) -> None:
    both = draw("a red circle", "a blue ring", "-n", 4, "--batch-size", 4, name="both")
    alone = draw("a blue ring", "-n", 4, "--batch-size", 4, name="alone")
    assert pixels(both, tmp_path / "both")[4:] == pixels(alone, tmp_path / "alone")


def test_export_draws_the_pictures_of_the_run(
    draw: Callable, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    assert dalle("export", transformer_run, "--out", tmp_path / "exported").code == 0
    assert draw("a red circle", "-n", 3) == draw("a red circle", "-n", 3, name="again", run=tmp_path / "exported")


def test_manifest_and_text_chunks_say_how_a_picture_came_to_be(draw: Callable, tmp_path: Path) -> None:
    words = ["--temperature", 0.5, "--top-k", 7, "--top-p", 0.9, "--seed", 12, "--batch-size", 3]
    files = draw("a red circle", "ein grüner Ring", "-n", 2, *words)
    records = [json.loads(line) for line in files["manifest.jsonl"].decode().splitlines()]
    assert [record["file"] for record in records] == [name for name in files if name[0].isdigit()]
    for record, (caption, number) in zip(
        records, [(c, n) for c in ("a red circle", "ein grüner Ring") for n in (0, 1)], strict=True
    ):
        expected = {
            "caption": caption, "number": number, "seed": 12, "temperature": 0.5, "top_k": 7, "top_p": 0.9,
            "decode_width": 3, "device": "cpu",
        }  # fmt: skip
        assert expected.items() <= record.items() and len(record["model"]) == 64
        with Image.open(tmp_path / "drawn" / record["file"]) as picture:
            assert picture.text == {name: str(value) for name, value in record.items()}


@pytest.mark.parametrize("temperature", [0, 1])
def test_temperature_zero_draws_the_likeliest_picture_whatever_the_seed(
    temperature: int, draw: Callable, tmp_path: Path
) -> None:
    for seed in (0, 1):
        draw("a red circle", "-n", 4, "--temperature", temperature, "--seed", seed, name=f"{seed}")
    tiles = {Image.open(tmp_path / f"{seed}" / f"{i:04d}.png").tobytes() for seed in (0, 1) for i in range(4)}
    assert (len(tiles) == 1) == (temperature == 0)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_captions_come_from_words_file_and_standard_input_alike(start: str, draw: Callable, tmp_path: Path) -> None:
    text = f"{start}  a red circle \r\n\n\ta blue ring\n"
    (tmp_path / "prompts.txt").write_bytes(text.encode())
    words = draw("a red circle", "a blue ring", "-n", 2, name="words")
    assert draw("--prompts", tmp_path / "prompts.txt", "-n", 2, name="file") == words
    assert draw("--prompts", "-", "-n", 2, name="stdin", stdin=text.encode()) == words


def test_words_come_before_the_captions_of_a_file(draw: Callable, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("second")
    files = draw("first", "--prompts", tmp_path / "prompts.txt", "-n", 1)
    records = [json.loads(line) for line in files["manifest.jsonl"].decode().splitlines()]
    assert [record["caption"] for record in records] == ["first", "second"]


def test_default_folders_are_numbered_inside_the_run(own_transformer_run: Path, dalle: Callable) -> None:
    samples = own_transformer_run / "samples"
    folders = [dalle("generate", own_transformer_run, "a ring", "-n", 1).out.strip() for _ in range(2)]
    (samples / "041").mkdir()
    (samples / "notes").mkdir()
    folders.append(dalle("generate", own_transformer_run, "a ring", "-n", 1).out.strip())
    assert folders == [str(samples / name) for name in ("000", "001", "042")]


@pytest.mark.parametrize("caption", HOSTILE, ids=ascii)
def test_captions_never_reach_the_terminal_raw(
    caption: str, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    long = f"{caption} {'x ' * 40}"  # cut, and so told
    ended = dalle("generate", transformer_run, long, caption, "-n", 1, "--out", tmp_path / "drawn")
    assert ended.code == 0 and "caption cut from" in ended.err
    assert not RAW & set(ended.err + ended.out)
    if caption.startswith("["):
        assert caption[:20] in ended.err  # as it is, not taken for markup
    records = [json.loads(line) for line in (tmp_path / "drawn" / "manifest.jsonl").read_text().splitlines()]
    assert records[1]["caption"] == clean_captions([caption])[0]  # as captions are in training


def test_prompt_of_a_hundred_kilobytes_is_cut_and_drawn(
    transformer_run: Path, tmp_path: Path, dalle: Callable, hang_guard: None
) -> None:
    ended = dalle("generate", transformer_run, "x" * 100_000, "-n", 1, "--out", tmp_path / "drawn")
    assert ended.code == 0 and "caption cut from" in ended.err and len(ended.err) < 1000
    assert (tmp_path / "drawn" / "grid.png").is_file()
