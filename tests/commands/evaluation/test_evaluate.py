"""`dalle evaluate`: figures that can be computed otherwise, kept, and found again."""

import importlib.util
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from ranked import cosines

from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import decode_image, to_tensor
from dalle_cli.data.preprocessing import pad_tokens
from dalle_cli.loading import load_dvae, load_tokenizer, load_transformer
from dalle_cli.storage.run_dir import RunDir

N_PAIRS, N_CAPTIONS, N_CANDIDATES = 30, 9, 3


@pytest.fixture(scope="module")
def other_pairs(tmp_path_factory: pytest.TempPathFactory, make_pairs: Callable) -> Path:
    """Pairs that no run was trained on."""
    return make_pairs(tmp_path_factory.mktemp("held-out") / "pairs", N_PAIRS)


@pytest.fixture
def evaluate(dalle: Callable) -> Callable[..., dict]:
    """Evaluate one run and return what is in its `evaluation.json`, and where it is."""

    def run(*words: object, code: int = 0) -> dict:
        ended = dalle("evaluate", *words, "--device", "cpu", "--json")
        assert ended.code == code, ended.err
        (found,) = json.loads(ended.out)["evaluations"]
        return found

    return run


@pytest.fixture(scope="module")
def sampled(
    tmp_path_factory: pytest.TempPathFactory,
    transformer_run: Path,
    clip_run: Path,
    other_pairs: Path,
    dalle: Callable,
) -> tuple[list[object], Path]:
    """The words of an evaluation with samples, all but where to, and its folder; to read only."""
    words: list[object] = ["evaluate", transformer_run, "--data", other_pairs]
    words += ["--captions", N_CAPTIONS, "--clip", clip_run, "--candidates", N_CANDIDATES]
    words += ["--device", "cpu"]
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    ended = dalle(*words, "--out", folder)
    assert ended.code == 0, ended.err
    return words, folder


def evaluation_of(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_losses_of_a_transformer_are_those_of_its_logits(
    transformer_run: Path, other_pairs: Path, evaluate: Callable, tmp_path: Path
) -> None:
    found = evaluate(
        *(transformer_run, "--data", other_pairs, "--captions", 0, "--out", tmp_path / "out")
    )
    transformer, dvae = load_transformer(transformer_run), load_dvae(transformer_run)
    tokenizer = load_tokenizer(RunDir(transformer_run))

    nats = {"text": 0.0, "image": 0.0}
    hits, counts = dict.fromkeys(nats, 0), dict.fromkeys(nats, 0)
    for file in sorted(other_pairs.glob("*.png")):
        square = centre_crop(decode_image(file.read_bytes()), dvae.image_size)
        image_tokens = dvae.image_tokens(to_tensor(Image.fromarray(square)).float()[None] / 255)
        caption = file.with_suffix(".txt").read_text().strip()
        text_tokens = pad_tokens(tokenizer.encode(caption), transformer.text_len)
        text_tokens = torch.from_numpy(text_tokens)[None]
        logits = transformer(text_tokens, image_tokens)
        for name, of, tokens in zip(nats, logits, (text_tokens, image_tokens), strict=True):
            for row, token in zip(of[0].double().log_softmax(dim=1), tokens[0], strict=True):
                if token >= 0:
                    nats[name] -= float(row[token])
                    hits[name] += int(row.argmax() == token)
                    counts[name] += 1

    figures = found["figures"]
    assert len(figures) == 6 and found["protocol"]["held_out"]["pairs"] == N_PAIRS
    for name in nats:
        expected = nats[name] / counts[name]
        assert figures[f"nats_per_{name}_token"] == pytest.approx(expected, rel=1e-5)
        assert figures[f"bits_per_{name}_token"] == pytest.approx(expected / math.log(2), rel=1e-5)
        assert figures[f"{name}_token_accuracy"] == hits[name] / counts[name]


def test_figures_of_a_dvae_are_those_of_reconstruct(
    dvae_run: Path, other_pairs: Path, evaluate: Callable, dalle: Callable, tmp_path: Path
) -> None:
    words = ["--device", "cpu", "--precision", "fp32", "--json"]
    ended = dalle("reconstruct", dvae_run, other_pairs, "--out", tmp_path / "compared", *words)
    expected = json.loads(ended.out)
    found = evaluate(dvae_run, "--data", other_pairs, "--out", tmp_path / "out")
    assert found["figures"] == {
        name: pytest.approx(value, abs=0.011)  # they are rounded
        for name, value in expected.items()
        if name not in ("out", "pictures")
    }


def test_score_of_a_clip_is_the_mean_of_cosines(
    clip_run: Path, other_pairs: Path, evaluate: Callable, tmp_path: Path
) -> None:
    found = evaluate(clip_run, "--data", other_pairs, "--out", tmp_path / "out")
    expected = [
        cosines(clip_run, [file], file.with_suffix(".txt").read_text().strip())[0]
        for file in sorted(other_pairs.glob("*.png"))
    ]
    figures = found["figures"]
    assert figures["clip_score"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert {f"{way}_recall_at_{k}" for way in ("text", "image") for k in (1, 5, 10)} < set(figures)
    assert figures["text_recall_at_10"] >= figures["text_recall_at_1"]


def test_pictures_are_those_of_generate(
    sampled: tuple[list[object], Path],
    transformer_run: Path,
    clip_run: Path,
    dalle: Callable,
    tmp_path: Path,
) -> None:
    _, folder = sampled
    lines = (folder / "samples" / "manifest.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    captions = [record["caption"] for record in records]
    assert len(captions) == len(set(captions)) == N_CAPTIONS

    job = json.loads((folder / "samples" / "job.json").read_text())
    words = ["-n", N_CANDIDATES, "--clip", clip_run, "--best", 1, "--precision", "fp32"]
    words += ["--batch-size", job["sampling_batch_size"], "--device", "cpu"]
    ended = dalle("generate", transformer_run, *captions, *words, "--out", tmp_path / "again")
    assert ended.code == 0, ended.err
    for record in records:
        once, again = folder / "samples" / record["file"], tmp_path / "again" / record["file"]
        assert once.read_bytes() == again.read_bytes()


def test_protocol_and_figures_are_whole(
    sampled: tuple[list[object], Path], transformer_run: Path
) -> None:
    _, folder = sampled
    found = evaluation_of(folder)
    assert (found["run"], found["kind"]) == (transformer_run.name, "transformer")
    parts = {name.partition("/")[0] for name in found["figures"] if "/" in name}
    by_inception = {"fid", "inception_score", "inception_score_std"}  # where there is a network
    assert parts - by_inception == {"clip", "diversity", "nearest"}

    protocol = found["protocol"]
    assert protocol["split"] == "all samples" and protocol["pairs"] == N_PAIRS
    assert protocol["clip"]["real"] == N_PAIRS and protocol["clip"]["generated"] == N_CAPTIONS
    assert protocol["clip"]["sampling"]["n"] == N_CANDIDATES
    assert protocol["clip"]["sampling"]["temperature"] == 1
    assert protocol["diversity"]["samples_of_each"] == 8
    assert protocol["nearest"]["pictures"] == 22  # one of the training data was held out
    measured = ("held_out", "clip", "diversity", "nearest")
    assert all("torch" in protocol[part]["versions"] for part in measured)
    few = [warning for warning in found["warnings"] if "means little" in warning]
    assert few and "9 generated and 30 real pictures" in few[0]
    assert {path.name for path in folder.glob("nearest-by-*.png")} == {
        "nearest-by-pixel-distance.png",
        "nearest-by-clip-distance.png",
    }


def test_finished_evaluation_is_printed_again_and_left_as_it_is(
    sampled: tuple[list[object], Path], dalle: Callable, tree: Callable
) -> None:
    words, folder = sampled
    before = tree(folder)
    ended = dalle(*words, "--out", folder)
    assert ended.code == 0 and "measuring" not in ended.err, ended.err
    assert "CLIP score" in ended.out and tree(folder) == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    "lost",
    [
        ["evaluation.json"],
        ["evaluation.json", "parts/clip.json", "parts/diversity.json"],
        ["evaluation.json", "parts", "repeats"],
        ["evaluation.json", "parts", "repeats", "samples"],
    ],
    ids=["last file", "two parts", "all parts", "everything"],
)
def test_interrupted_evaluation_ends_with_the_same_figures(
    lost: list[str],
    sampled: tuple[list[object], Path],
    dalle: Callable,
    tree: Callable,
    tmp_path: Path,
) -> None:
    words, folder = sampled
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in lost:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ended = dalle(*words, "--out", copy)
    assert ended.code == 0, ended.err
    assert tree(copy) == tree(folder)


def test_other_options_are_another_evaluation(
    sampled: tuple[list[object], Path], dalle: Callable, tree: Callable
) -> None:
    words, folder = sampled
    before = tree(folder)
    ended = dalle(*words, "--seed", 1, "--out", folder)
    assert ended.code == 2 and "belongs to another job, with other seed" in ended.err
    assert tree(folder) == before


def test_training_pictures_may_be_named_later_without_sampling_again(
    sampled: tuple[list[object], Path], other_pairs: Path, dalle: Callable, tmp_path: Path
) -> None:
    words, folder = sampled
    copy = shutil.copytree(folder, tmp_path / "copy")
    ended = dalle(*words, "--train", other_pairs, "--out", copy)
    assert ended.code == 0, ended.err
    assert ended.err.count("measuring") == 1 and "measuring nearest" in ended.err
    assert ended.err.count("already holds all pictures") == 2
    # real pictures that are in the training data are at no distance
    assert evaluation_of(copy)["figures"]["nearest/pixel_distance_of_data"] == 0


def test_default_folder_lies_in_the_run_and_is_found_again(
    own_dvae_run: Path, other_pairs: Path, evaluate: Callable
) -> None:
    first = evaluate(own_dvae_run, "--data", other_pairs)
    assert first["out"] == str(own_dvae_run / "evaluations" / "000")
    assert evaluate(own_dvae_run, "--data", other_pairs) == first
    few = evaluate(own_dvae_run, "--data", other_pairs, "--pairs", 7)
    assert few["out"] == str(own_dvae_run / "evaluations" / "001")
    assert few["protocol"]["pairs"] == 7 and few["protocol"]["available"] == N_PAIRS


def test_shipped_model_is_evaluated_below_the_current_folder(
    toy: Path,
    other_pairs: Path,
    evaluate: Callable,
    tree: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(toy)
    found = evaluate("toy", "--data", other_pairs, "--captions", 2, "--clip", "toy")
    assert found["out"] == str(Path("evaluations", "toy", "000")) and tree(toy) == before
    assert found["run"] == "toy" and "nearest/pixel_distance" not in found["figures"]


def test_runs_are_compared_side_by_side(
    transformer_run: Path,
    own_transformer_run: Path,
    other_pairs: Path,
    dalle: Callable,
    tmp_path: Path,
) -> None:
    words = ["--data", other_pairs, "--captions", 0, "--device", "cpu", "--out", tmp_path / "out"]
    ended = dalle("evaluate", transformer_run, own_transformer_run, *words)
    assert ended.code == 0, ended.err
    heading, first, *_ = ended.out.splitlines()
    names = heading.split()
    assert len(names) == 2 and max(map(len, ended.out.splitlines())) <= 80
    assert len(first.split()) == len(["nats", "per", "text", "token"]) + 2
    assert "can't be compared" not in ended.err
    files = list((tmp_path / "out").rglob("evaluation.json"))
    figures = [evaluation_of(file.parent)["figures"] for file in files]
    assert len(files) == 2 and figures[0] == figures[1]


def test_bad_pairs_are_left_out_and_told(
    dvae_run: Path, other_pairs: Path, evaluate: Callable, tmp_path: Path
) -> None:
    data = shutil.copytree(other_pairs, tmp_path / "data")
    (data / "004.png").write_bytes((data / "004.png").read_bytes()[:90])
    found = evaluate(dvae_run, "--data", data, "--out", tmp_path / "out")
    assert found["protocol"]["held_out"]["pairs"] == N_PAIRS - 1
    assert found["protocol"]["held_out"]["bad"] == 1
    assert found["warnings"][0].startswith("1 of 30 pairs could not be read, first 004: damaged")


def test_held_out_share_of_one_pair_is_measured_and_not_compared(
    transformer_run: Path, pairs: Path, evaluate: Callable, tmp_path: Path
) -> None:
    found = evaluate(transformer_run, "--data", pairs, "--out", tmp_path / "out")
    assert found["protocol"]["held_out"]["pairs"] == 1
    assert "too few pairs" in found["warnings"][0]
    assert not [name for name in found["figures"] if "/" in name]


@pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed"
)
def test_without_the_library_fid_is_left_out_with_a_note(
    sampled: tuple[list[object], Path], dalle: Callable, tmp_path: Path
) -> None:
    words, folder = sampled
    ended = dalle(*words, "--out", folder)
    assert "FID and the Inception Score are left out" in ended.err
    assert "pip install" in ended.err
    ended = dalle(*words, "--out", folder, "--inception", tmp_path / "weights.safetensors")
    assert ended.code == 1 and "torch-fidelity, which is not installed" in ended.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--candidates", 4], "nothing says which of 4 pictures is the best"),
        (["--tokenizer", "merges.json"], "it is CLIP's vocabulary, and there is no --clip"),
        (["--precision", "fp8"], "no such precision: fp8"),
        (["--clip", "absent/clip"], "no such CLIP"),
    ],
    ids=["candidates", "vocabulary", "precision", "clip"],
)
def test_wrong_usage_is_told(
    words: list[object],
    told: str,
    own_transformer_run: Path,
    other_pairs: Path,
    dalle: Callable,
    tmp_path: Path,
) -> None:
    (tmp_path / "absent").mkdir()
    words = [tmp_path / word if word == "absent/clip" else word for word in words]
    ended = dalle("evaluate", own_transformer_run, "--data", other_pairs, *words)
    assert ended.code == 2 and told in ended.err and "Traceback" not in ended.err, ended.err
    assert not (own_transformer_run / "evaluations").exists()


def test_what_is_no_run_or_no_data_is_told(
    dvae_run: Path, other_pairs: Path, dalle: Callable, tmp_path: Path
) -> None:
    for run, data in ((tmp_path / "absent", other_pairs), (dvae_run, tmp_path / "absent")):
        ended = dalle("evaluate", run, "--data", data, "--out", tmp_path / "out")
        assert ended.code == 2 and "error:" in ended.err, ended.err
        assert "Traceback" not in ended.err and not (tmp_path / "out").exists()
