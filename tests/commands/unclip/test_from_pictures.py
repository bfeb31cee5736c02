"""`vary`, `blend` and `project`: what they write, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

FP32 = ["--precision", "fp32"]
FEW = ["--steps", 4]
OF_PAIRS = ["RUN", "PICTURE", "--data", "PAIRS"]


@pytest.fixture
def pictures(pairs: Path) -> list[Path]:
    return sorted(pairs.glob("*.png"))[:3]


@pytest.fixture
def painted(decoder_run: Path, tmp_path: Path, dalle: Callable) -> Callable[..., Any]:
    """Run a command into a new folder; return its records with each picture's pixels."""

    def run(command: str, *words: object, name: str = "out") -> list[dict[str, Any]]:
        out = tmp_path / name
        ended = dalle(command, decoder_run, *words, "--out", out, *FP32, *FEW, "--json")
        assert ended.code == 0, ended.err
        result = json.loads(ended.out)
        lines = (out / "manifest.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        assert result["files"] == [str(out / one["file"]) for one in found]
        assert Path(result["grid"]).is_file() and Path(result["manifest"]).is_file()
        return [{**one, "pixels": Image.open(out / one["file"]).tobytes()} for one in found]

    return run


def test_variations_of_each_picture_differ_and_depend_on_the_seed(
    painted: Callable, pictures: list[Path]
) -> None:
    found = painted("vary", *pictures, "-n", 2)
    assert [(one["picture"], one["number"]) for one in found] == [
        (str(picture), number) for picture in pictures for number in range(2)
    ]
    assert len({one["pixels"] for one in found}) == 6
    same = painted("vary", *pictures, "-n", 2, name="same")
    other = painted("vary", *pictures, "-n", 2, "--seed", 1, name="other")
    assert [one["pixels"] for one in same] == [one["pixels"] for one in found]
    assert not {one["pixels"] for one in other} & {one["pixels"] for one in found}


def test_inverted_variations_are_alike_without_noise_on_the_way(
    painted: Callable, pictures: list[Path]
) -> None:
    still = painted("vary", pictures[0], "-n", 3, "--invert", "--eta", 0)
    assert len({one["pixels"] for one in still}) == 1 and still[0]["is_inverted"] is True
    moved = painted("vary", pictures[0], "-n", 3, "--invert", "--eta", 1, name="moved")
    assert len({one["pixels"] for one in moved}) == 3 and moved[0]["eta"] == 1
    assert painted("vary", pictures[0], "--invert", "-n", 1, name="usual")[0]["eta"] == 0.5


def test_blend_goes_from_one_picture_to_another_and_back(
    painted: Callable, pictures: list[Path]
) -> None:
    there = painted("blend", *pictures[:2], "-n", 5)
    assert [one["share"] for one in there] == [0, 0.25, 0.5, 0.75, 1]
    back = painted("blend", pictures[1], pictures[0], "-n", 5, name="back")
    for one, other in zip(there, reversed(back), strict=True):
        pixels = zip(one["pixels"], other["pixels"], strict=True)
        assert max(abs(a - b) for a, b in pixels) <= 2


def test_blend_towards_a_text_begins_with_the_picture(
    painted: Callable, pictures: list[Path]
) -> None:
    words = ["--from", "a red circle", "--to", "a blue ring"]
    found = painted("blend", pictures[0], *words, "--strength", 0.3, "-n", 4)
    assert [one["share"] for one in found] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-5)
    assert (found[0]["from"], found[0]["to"]) == ("a red circle", "a blue ring")
    whole = painted("blend", *pictures[:2], "-n", 2, name="between")
    pixels = zip(found[0]["pixels"], whole[0]["pixels"], strict=True)
    assert max(abs(a - b) for a, b in pixels) <= 1
    alone = painted("blend", pictures[0], "--to", "a blue ring", name="alone")
    assert alone[0]["from"] is None and alone[-1]["share"] == 0.5


def test_projections_keep_more_and_more_components(
    painted: Callable, pictures: list[Path], pairs: Path, clip_run: Path, dalle: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    words = ["--components", "1,4,32", "--data"]
    found = painted("project", *pictures[:2], *words, pairs)
    assert [(one["picture"], one["components"]) for one in found] == [
        (str(picture), count) for picture in pictures[:2] for count in (1, 4, 32)
    ]
    of_each = [{one["pixels"] for one in found[start : start + 3]} for start in (0, 3)]
    assert of_each[0].isdisjoint(of_each[1])

    encode = ["--clip", clip_run, "--out", tmp_path / "embeddings", *FP32]
    assert dalle("data", "encode", pairs, *encode, "--copies", 1).code == 0
    beforehand = painted("project", *pictures[:2], *words, tmp_path / "embeddings", name="again")
    for one, other in zip(found, beforehand, strict=True):
        pixels = zip(one["pixels"], other["pixels"], strict=True)
        assert max(abs(a - b) for a, b in pixels) <= 4


def test_default_folder_is_the_next_of_the_runs_samples(
    own_decoder_run: Path, pictures: list[Path], dalle: Callable
) -> None:
    for number in range(2):
        ended = dalle("vary", own_decoder_run, pictures[0], "-n", 1, *FP32, *FEW)
        assert ended.code == 0 and ended.out == f"{own_decoder_run / 'samples' / f'{number:03d}'}\n"
        assert (own_decoder_run / "samples" / f"{number:03d}" / "grid.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vary", "RUN", "missing.png"], "no such picture"),
        (["vary", "RUN", "PICTURE", "--eta", "0.5"], "it needs --invert"),
        (["vary", "RUN", "PICTURE", "--steps", "41"], "more than the 40 steps"),
        (["blend", "RUN", "PICTURE"], "either a picture B or --to"),
        (["blend", "RUN", "PICTURE", "PICTURE", "--to", "a cat"], "either a picture B or --to"),
        (["blend", "RUN", "PICTURE", "PICTURE", "--from", "a cat"], "it goes with --to"),
        (["blend", "RUN", "PICTURE", "--to", "a", "--from", "a"], "mean the same"),
        (["blend", "RUN", "PICTURE", "--to", " "], "an empty caption"),
        (["blend", "RUN", "TEXT", "PICTURE"], "cannot use the picture"),
        (["project", *OF_PAIRS, "--components", "0,1"], "must be numbers"),
        (["project", *OF_PAIRS, "--components", "33"], "32 entries"),
        (["vary", "PRIOR", "PICTURE"], "decoder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_message_and_leaves_nothing(
    words: list[str], message: str, decoder_run: Path, prior_run: Path, pictures: list[Path],
    pairs: Path, tmp_path: Path, dalle: Callable,
) -> None:  # fmt: skip
    meant = {
        "RUN": decoder_run, "PRIOR": prior_run, "PICTURE": pictures[0], "PAIRS": pairs,
        "TEXT": pictures[0].with_suffix(".txt"), "missing.png": tmp_path / "missing.png",
    }  # fmt: skip
    ended = dalle(*(meant.get(word, word) for word in words), "--out", tmp_path / "out", *FP32)
    assert ended.code in (1, 2) and message in ended.err and "Traceback" not in ended.err
    assert ended.out == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["vary", "blend"])
def test_folder_that_holds_something_is_left_alone(
    command: str, decoder_run: Path, pictures: list[Path], tmp_path: Path, tree: Callable,
    dalle: Callable,
) -> None:  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    before = tree(tmp_path)
    ended = dalle(command, decoder_run, *pictures[:2], "--out", tmp_path / "mine", *FP32)
    assert ended.code == 2 and "already holds something" in ended.err and tree(tmp_path) == before
