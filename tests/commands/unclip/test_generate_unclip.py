"""`generate` with a decoder: jobs as for a transformer, and what does not go together."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors

FP32 = ["--precision", "fp32"]
FEW = ["--steps", 3]
CAPTIONS = ["a red circle", "a blue ring"]


@pytest.fixture
def generate(decoder_run: Path, prior_run: Path, tmp_path: Path, dalle: Callable) -> Callable:
    """Generate into a new folder with the shared prior, unless another choice is given."""

    def run(
        *words: object, name: str = "out", decoder: Path = decoder_run, prior: object = prior_run
    ):
        chosen = [] if prior is None else ["--prior", prior]
        return dalle("generate", decoder, *chosen, "--out", tmp_path / name, *FP32, *FEW, *words)

    return run


@pytest.fixture
def records(generate: Callable, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Generate, and return the manifest with each picture's pixels."""

    def run(*words: object, name: str = "out", **options: object) -> list[dict[str, Any]]:
        ended = generate(*words, name=name, **options)
        assert ended.code == 0, ended.err
        lines = (tmp_path / name / "manifest.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [{**one, "png": (tmp_path / name / one["file"]).read_bytes()} for one in found]

    return run


@pytest.fixture
def other_clip_prior(prior_run: Path, tmp_path: Path) -> Path:
    """A prior whose copy of the CLIP has other weights."""
    other = shutil.copytree(prior_run, tmp_path / "other-prior")
    file = other / "clip" / "model" / "model.safetensors"
    write_checksummed_tensors(file, {name: w * 1.01 for name, w in load_file(file).items()})
    return other


def test_pictures_manifest_grid_and_page_are_written(records: Callable, tmp_path: Path) -> None:
    found = records(*CAPTIONS, "-n", 2, "--seed", 3)
    assert [(one["caption"], one["number"]) for one in found] == [
        (caption, number) for caption in CAPTIONS for number in range(2)
    ]
    assert len({one["png"] for one in found}) == 4
    first = found[0]
    assert (first["steps"], first["sampler"], first["guidance"]) == (3, "ancestral", 1.0)
    assert (first["prior_steps"], first["prior_variances"]) == (40, "measured")
    assert {"grid.png", "index.html", "job.json"} <= {f.name for f in (tmp_path / "out").iterdir()}


def test_same_command_resumes_and_another_seed_differs(
    records: Callable, generate: Callable, tmp_path: Path, tree: Callable
) -> None:
    one = records(*CAPTIONS, "-n", 2)
    again = generate(*CAPTIONS, "-n", 2)
    assert again.code == 0 and "nothing to do" in again.err
    assert {o["png"] for o in records(*CAPTIONS, "-n", 2, "--seed", 1, name="other")}.isdisjoint(
        o["png"] for o in one
    )

    cut = shutil.copytree(tmp_path / "out", tmp_path / "cut")
    lines = (cut / "manifest.jsonl").read_text().splitlines(keepends=True)
    (cut / "manifest.jsonl").write_text("".join(lines[:1]))
    for one_file in ("0001.png", "0002.png", "0003.png", "grid.png", "index.html"):
        (cut / one_file).unlink()
    assert generate(*CAPTIONS, "-n", 2, name="cut").code == 0
    assert tree(cut) == tree(tmp_path / "out")


def test_page_names_the_command_that_generates_each_picture_again(
    records: Callable, dalle: Callable, tmp_path: Path, prior_run: Path, decoder_run: Path
) -> None:
    found = records("a red circle", "-n", 2, "--guidance", 2, "--prior-guidance", 1.5)
    page = (tmp_path / "out" / "index.html").read_text()
    command = page.split("<code>")[2].split("</code>")[0]
    words = shlex.split(command.replace("&#x27;", "'"))
    assert words[:2] == ["dalle", "generate"] and "--prior" in words and "--guidance" in words
    ended = dalle(*words[1:], "--out", tmp_path / "again", *FP32)
    assert ended.code == 0, ended.err
    again = json.loads((tmp_path / "again" / "manifest.jsonl").read_text())
    same = ("caption", "number", "steps", "guidance", "prior_guidance", "prior", "model")
    assert {name: again[name] for name in same} == {name: found[1][name] for name in same}


def test_either_kind_of_prior_text_and_nothing_guess_other_embeddings(
    records: Callable, prior_run: Path, autoregressive_prior_run: Path
) -> None:
    pictures = {
        str(prior): records("a red circle", "-n", 1, name=f"by-{number}", prior=prior)[0]["png"]
        for number, prior in enumerate((prior_run, autoregressive_prior_run, "text", "none"))
    }
    assert len(set(pictures.values())) == 4


@pytest.mark.thorough
def test_export_brings_its_prior_and_generates_the_same(
    records: Callable, decoder_run: Path, prior_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    ended = dalle("export", decoder_run, "--prior", prior_run, "--out", tmp_path / "joined")
    assert ended.code == 0, ended.err
    assert not (tmp_path / "joined" / "prior" / "clip").exists()
    card = (tmp_path / "joined" / "README.md").read_text()
    assert 'dalle generate joined "a caption" -n 8' in card

    whole = records("a red circle", "-n", 2)
    joined = records(
        "a red circle", "-n", 2, name="by-joined", decoder=tmp_path / "joined", prior=None
    )
    assert [one["png"] for one in joined] == [one["png"] for one in whole]
    checked = dalle("doctor", tmp_path / "joined")
    assert checked.code == 0 and "prior/variances.json" in checked.out + checked.err
    again = dalle("export", tmp_path / "joined", "--out", tmp_path / "again")
    assert again.code == 0 and (tmp_path / "again" / "prior" / "variances.json").is_file()


def test_decoder_in_half_precision_keeps_the_clip_by_which_priors_fit(
    generate: Callable, decoder_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    ended = dalle("export", decoder_run, "--half", "--out", tmp_path / "half")
    assert ended.code == 0, ended.err
    ended = generate("a red circle", decoder=tmp_path / "half")
    assert ended.code == 0, ended.err


def test_pictures_are_ranked_by_a_clip(records: Callable, clip_run: Path) -> None:
    found = records("a red circle", "-n", 3, "--clip", clip_run, "--best", 1, "--keep-all")
    assert [one["rank"] for one in found] == [1, 2, 3]
    assert [one["score"] for one in found] == sorted((o["score"] for o in found), reverse=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "0.5"], "it is for transformers"),
        (["--rank", "perplexity"], "it is for transformers"),
        (["--steps", "41"], "more than the 40 steps"),
        (["--prior-steps", "41"], "more than the 40 steps"),
        (["--sampler", "euler"], "must be ancestral or ddim"),
    ],
)
def test_what_does_not_belong_is_one_message(
    words: list[str], message: str, generate: Callable, tmp_path: Path
) -> None:
    ended = generate("a red circle", *words)
    assert ended.code == 2 and message in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_options_of_decoders_are_refused_for_transformers(
    transformer_run: Path, dalle: Callable, prior_run: Path
) -> None:
    ended = dalle("generate", transformer_run, "a red circle", "--prior", prior_run)
    assert ended.code == 2 and "it is for decoders, and this run holds a transformer" in ended.err
    ended = dalle("generate", prior_run, "a red circle")
    assert ended.code == 2 and "it holds a prior" in ended.err


def test_a_decoder_without_a_prior_says_what_to_name(generate: Callable) -> None:
    ended = generate("a red circle", prior=None)
    assert ended.code == 2 and "no prior comes with it" in ended.err and "--prior text" in ended.err


def test_a_prior_of_another_clip_is_refused(
    generate: Callable, other_clip_prior: Path, decoder_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    ended = generate("a red circle", prior=other_clip_prior)
    assert ended.code == 1 and "was trained with another CLIP" in ended.err
    words = ["--prior", other_clip_prior, "--out", tmp_path / "joined"]
    ended = dalle("export", decoder_run, *words)
    assert ended.code == 1 and "was trained with another CLIP" in ended.err
    assert not (tmp_path / "joined").exists()


def test_guidance_needs_conditions_left_out_in_training(
    generate: Callable, decoder_run: Path, pairs: Path, clip_run: Path, dalle: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    words = ["--data", pairs, "--clip", clip_run, "--run", tmp_path / "decoder"]
    never = ["loss.caption_dropout=0.0", "training.steps=1", "runtime.workers=0"]
    sets = [word for value in never for word in ("--set", value)]
    assert dalle("train-decoder", "decoder/tiny", *words, *sets).code == 0
    ended = generate("a red circle", "--guidance", 2, decoder=tmp_path / "decoder")
    assert ended.code == 2 and "`loss.caption_dropout` was 0" in ended.err
    assert generate("a red circle", "-n", 1, decoder=tmp_path / "decoder", name="plain").code == 0


def test_export_refuses_what_does_not_go_together(
    transformer_run: Path, decoder_run: Path, prior_run: Path, clip_run: Path, dalle: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = ["--out", tmp_path / "out"]
    ended = dalle("export", transformer_run, "--prior", prior_run, *out)
    assert ended.code == 2 and "`--prior` goes with a decoder" in ended.err
    ended = dalle("export", decoder_run, "--clip", clip_run, *out)
    assert ended.code == 2 and "leave out `--clip`" in ended.err
    assert not (tmp_path / "out").exists()
