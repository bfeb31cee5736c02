"""`train-prior` and `train-decoder`: what runs leave behind, and what does not go together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle_cli.data.clip_tokenizer import MERGE_LISTS
from dalle_cli.errors import DalleError
from dalle_cli.loading import (
    load_autoregressive_prior,
    load_clip,
    load_decoder,
    load_embedding_codec,
    load_prior,
)
from dalle_cli.loading.prior_variances import read_variances
from dalle_cli.models.clip import Clip, Tower
from dalle_cli.models.diffusion.noise_schedules import noise_schedule
from dalle_cli.scoring.clip_scorer import load_clip_scorer
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors
from dalle_cli.storage.run_dir import RunDir

ONE_STEP = ["--set", "training.steps=1", "--set", "runtime.workers=0"]
RUNS = {
    "prior": ("prior_run", load_prior),
    "prior-autoregressive": ("autoregressive_prior_run", load_autoregressive_prior),
    "decoder": ("decoder_run", load_decoder),
}
every_kind = pytest.mark.parametrize("kind", RUNS)
PLACES = (5, 25, 50, 75, 95)
OF_EMBEDDINGS = {
    "valid/cosine_to_image",
    "valid/cosine_to_text",
    "valid/cosine_of_pairs",
    "valid/variance_within_captions",
}
FIGURES = {
    "prior": {"valid/loss", *(f"valid/loss_at_{i}" for i in PLACES), *OF_EMBEDDINGS},
    "prior-autoregressive": {"valid/loss", "valid/code_accuracy", "valid/cosine_of_codes"},
    "decoder": {"valid/loss", "valid/mse", "valid/bound", *(f"valid/mse_at_{i}" for i in PLACES)},
}


@pytest.fixture
def run_of(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    return lambda kind: request.getfixturevalue(RUNS[kind][0])


@pytest.fixture
def train(pairs: Path, clip_run: Path, tmp_path: Path, dalle: Callable) -> Callable:
    """Begin a run of one update in a new folder."""

    def begin(kind: str, *more: object, data: Path = pairs, clip: Path = clip_run):
        command = "train-decoder" if kind == "decoder" else "train-prior"
        words = ["--data", data, "--clip", clip, "--run", tmp_path / "run", *ONE_STEP]
        return dalle(command, f"{kind}/tiny", *words, *more)

    return begin


@pytest.fixture
def other_clip(clip_run: Path, tmp_path: Path) -> Path:
    """A CLIP of the same sizes with other weights."""
    other = shutil.copytree(clip_run, tmp_path / "other-clip")
    weights = load_file(other / "model" / "model.safetensors")
    write_checksummed_tensors(
        other / "model" / "model.safetensors", {name: w * 1.01 for name, w in weights.items()}
    )
    return other


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in RunDir(run).metrics.read_text().splitlines()]


@every_kind
def test_run_folder_is_as_designed(kind: str, run_of: Callable) -> None:
    run = run_of(kind)
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    saved = {name for name in files if name.startswith("checkpoints/")}
    assert {name.split("/")[1] for name in saved} == {f"step-{step:08d}" for step in (3, 6, 9, 11)}
    own = {
        "prior": ["variances.json"],
        "prior-autoregressive": ["codec/config.json", "codec/model.safetensors"],
        "decoder": [],
    }
    assert files - saved == {
        "recipe.json", "metrics.jsonl", "model/config.json", "model/model.safetensors",
        "clip/model/config.json", "clip/model/model.safetensors", "clip/tokenizer/merges.json",
        *(f"previews/step-{step:08d}.png" for step in (5, 10, 11)), *own[kind],
    }  # fmt: skip


@every_kind
def test_model_folder_states_the_recipes_sizes_and_scale(kind: str, run_of: Callable) -> None:
    run = run_of(kind)
    config = json.loads((run / "model" / "config.json").read_text())
    recipe = json.loads((run / "recipe.json").read_text())["recipe"]
    assert config["kind"] == recipe["kind"] == kind and config["model"] == recipe["model"]
    assert kind == "prior-autoregressive" or config["model"]["embedding_rms"] in (0.5375, 1.0)


@every_kind
def test_models_load_as_they_were_saved(kind: str, run_of: Callable) -> None:
    run = run_of(kind)
    module = RUNS[kind][1](run)
    saved = load_file(run / "model" / "model.safetensors")
    torch.testing.assert_close(dict(module.state_dict()), saved, rtol=0, atol=0)
    assert not module.training and not any(p.requires_grad for p in module.parameters())


@every_kind
def test_log_holds_every_figure(kind: str, run_of: Callable) -> None:
    lines = lines_of(run_of(kind))
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 12))
    held_out = [line for line in lines if "valid/loss" in line]
    assert [line["step"] for line in held_out] == [2, 4, 6, 8, 10, 11]
    assert all(set(line) - {"step"} == FIGURES[kind] for line in held_out)


@every_kind
def test_run_keeps_its_own_copy_of_clip(kind: str, run_of: Callable, clip_run: Path) -> None:
    run = run_of(kind)
    kept, given = load_clip(run), load_clip(clip_run)  # the run stands for the CLIP inside
    torch.testing.assert_close(kept.state_dict(), given.state_dict(), rtol=0, atol=0)
    scorers = [
        load_clip_scorer(str(path), None, device=torch.device("cpu"), precision="fp32")
        for path in (run, run / "clip", clip_run)
    ]
    assert len({scorer.identity for scorer in scorers}) == 1


def test_codec_is_fitted_to_the_embeddings(autoregressive_prior_run: Path) -> None:
    codec = load_embedding_codec(RunDir(autoregressive_prior_run))
    assert codec.components.shape == (8, 32) and codec.deviations.shape == (8,)
    gram = codec.components @ codec.components.T
    torch.testing.assert_close(gram, torch.eye(8), rtol=0, atol=1e-5)
    assert (codec.deviations[:-1] >= codec.deviations[1:]).all() and (codec.deviations > 0).all()
    assert (codec.cosine_quantiles[1:] >= codec.cosine_quantiles[:-1]).all()


def test_variances_lie_between_their_bounds(prior_run: Path) -> None:
    found = read_variances(RunDir(prior_run))
    assert found is not None and 15 < found.n_samples < 23  # those that are not held out
    assert found.steps == list(range(40)) and len(found.clean_variance) == 40
    assert 0 < found.data_variance <= 0.5375**2

    schedule = noise_schedule("cosine", 40)
    variances = found.log_variances(schedule).exp()
    assert (variances >= schedule.posterior_variance).all()
    most = schedule.posterior_variance + schedule.mean_from_clean**2 * found.data_variance
    assert (variances <= most * (1 + 1e-9)).all()


def test_variances_are_the_errors_of_the_saved_prior(prior_run: Path, pairs: Path) -> None:
    """Measured on samples that train, and compared with those held out."""
    found = read_variances(RunDir(prior_run))
    assert found is not None
    errors = torch.tensor(found.clean_variance)
    assert (errors > 0).all() and errors.isfinite().all()
    held_out = lines_of(prior_run)[-1]
    for place in (50, 95):  # a fresh prior knows next to nothing, of these as of those
        relative = float(errors[40 * place // 100]) / 0.5375**2
        assert relative == pytest.approx(held_out[f"valid/loss_at_{place}"], rel=0.5)


def test_variances_belong_to_the_weights(prior_run: Path, tmp_path: Path, dalle: Callable) -> None:
    run = RunDir(shutil.copytree(prior_run, tmp_path / "run"))
    file = run.model / "model.safetensors"
    write_checksummed_tensors(file, {name: 2 * w for name, w in load_file(file).items()})
    assert read_variances(run) is None

    content = bytearray(run.variances.read_bytes())
    content[-5] ^= 1
    run.variances.write_bytes(content)
    with pytest.raises(DalleError, match=r"variances\.json"):
        read_variances(run)
    assert dalle("doctor", run.root).code == 1


@pytest.mark.parametrize("words", [[], ["--half"]], ids=str)
def test_export_has_the_variances_of_its_weights(
    words: list[str], prior_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    assert dalle("export", prior_run, "--out", tmp_path / "out", *words).code == 0
    found, given = read_variances(RunDir(tmp_path / "out")), read_variances(RunDir(prior_run))
    assert found is not None and given is not None
    assert found.clean_variance == given.clean_variance

    best = tmp_path / "best"
    assert dalle("export", prior_run, "--checkpoint", 3, "--out", best).code == 0
    assert not RunDir(best).variances.exists()


@every_kind
def test_another_clip_is_refused_untouched(
    kind: str, run_of: Callable, other_clip: Path, pairs: Path, tmp_path: Path,
    dalle: Callable, settings: Callable, tree: Callable,
) -> None:  # fmt: skip
    run = shutil.copytree(run_of(kind), tmp_path / "run")
    before = tree(run)
    command = "train-decoder" if kind == "decoder" else "train-prior"
    words = ["--data", pairs, "--clip", other_clip, "--run", run, *settings()]
    ended = dalle(command, f"{kind}/tiny", *words)
    assert ended.code == 1 and f"{other_clip} is not the CLIP this run began with" in ended.err
    assert f"hint: `--clip {run}` uses the run's copy" in ended.err
    assert tree(run) == before


def test_resumed_autoregressive_run_equals_uninterrupted_one(
    autoregressive_prior_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    """Its codec is that of the run, and not fitted again."""
    run = RunDir(shutil.copytree(autoregressive_prior_run, tmp_path / "run"))
    for step in (9, 11):
        shutil.rmtree(run.checkpoint(step))
    ended = dalle("resume", run.root)
    assert ended.code == 0 and "fitted codes" not in ended.err
    assert f"$ dalle train-prior {run.recipe}" in ended.err
    for file in ("model/model.safetensors", "codec/model.safetensors"):
        assert (run.root / file).read_bytes() == (autoregressive_prior_run / file).read_bytes()


@pytest.mark.thorough
@every_kind
def test_resumed_run_needs_its_clip_no_more(
    kind: str, run_of: Callable, tmp_path: Path, dalle: Callable
) -> None:
    run = RunDir(shutil.copytree(run_of(kind), tmp_path / "run"))
    shutil.rmtree(run.checkpoint(11))
    ended = dalle("resume", run.root)
    assert ended.code == 0 and f"--clip {run.root}" in ended.err


@pytest.mark.thorough
@every_kind
def test_micro_batches_have_the_gradient_of_one_batch(
    kind: str, train: Callable, tmp_path: Path
) -> None:
    found = []
    for size in (0, 1):
        ended = train(kind, "--set", f"runtime.micro_batch_size={size}")
        assert ended.code == 0, ended.err
        found.append(lines_of(tmp_path / "run")[0])
        shutil.rmtree(tmp_path / "run")
    for name in ("train/loss", "train/gradient_norm"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["prior", "decoder"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_train_and_keep_fp32_weights(
    kind: str, precision: str, train: Callable, tmp_path: Path
) -> None:
    ended = train(kind, "--precision", precision)
    assert ended.code == 0 and f", {precision}" in ended.err
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors").values()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights)


@pytest.mark.thorough
@every_kind
def test_activations_may_be_recomputed(kind: str, train: Callable, tmp_path: Path) -> None:
    weights = []
    for choice in ("false", "true"):
        ended = train(kind, "--set", f"runtime.activation_checkpointing={choice}")
        assert ended.code == 0, ended.err
        weights.append((tmp_path / "run" / "model" / "model.safetensors").read_bytes())
        shutil.rmtree(tmp_path / "run")
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "changes",
    [
        ["model.text_vocab_size=999"],
        ["model.d_embed=16", "model.text_len=8"],
    ],
)
def test_sizes_that_are_not_clips_are_refused_with_those_that_are(
    changes: list[str], train: Callable, tmp_path: Path
) -> None:
    ended = train("prior", *(word for change in changes for word in ("--set", change)))
    assert ended.code == 1 and "error: " in ended.err
    for change in changes:
        key, _, stated = change.partition("=")
        assert f"`{key}` " in ended.err and f", not {stated}" in ended.err
        assert f"--set {key}=" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_public_clip_is_kept_with_its_vocabulary(
    train: Callable, tmp_path: Path, dalle: Callable
) -> None:
    """So that the run, and what is exported of it, can read captions by themselves."""
    public, run = tmp_path / "public" / "clip.pt", RunDir(tmp_path / "run")
    public.parent.mkdir()
    merges = ["a header", "c a", "ca t</w>", ""]
    public.with_name(MERGE_LISTS[1]).write_text("\n".join(merges))
    torch.manual_seed(0)
    tower = Tower(1, 64, 1, 70)
    clip = Clip(12, 4, 16, 512 + 2 + 2, 9, "quick_gelu", vision=tower, text=tower)
    torch.save(clip.state_dict(), public)

    sizes = ["--set", "model.d_embed=9", "--set", "model.d_text=64"]
    ended = train("prior", *sizes, clip=public)
    assert ended.code == 0, ended.err
    kept = run.clip / MERGE_LISTS[1]
    assert kept.read_bytes() == public.with_name(MERGE_LISTS[1]).read_bytes()
    shutil.rmtree(public.parent)
    assert dalle("resume", run.root, "--extend", 1).code == 0
    assert dalle("doctor", run.root).code == 0

    assert dalle("export", run.root, "--out", tmp_path / "out").code == 0
    scorers = [
        load_clip_scorer(str(path), None, device=torch.device("cpu"), precision="fp32")
        for path in (run.root, tmp_path / "out")
    ]
    assert scorers[0].identity == scorers[1].identity
    assert dalle("doctor", tmp_path / "out").code == 0


def test_prior_reads_tokens_of_its_own(
    train: Callable, clip_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    n_tokens = load_clip(clip_run).text_vocab_size
    ended = train("prior", "--set", f"model.text_vocab_size={n_tokens}")
    assert ended.code == 0, ended.err
    assert "caption_input.weight" in load_file(tmp_path / "run" / "model" / "model.safetensors")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [
        ["model.d_text=NONE"],
        ["model.text={text_vocab_size=VOCAB, n_layers=1, d_model=16, n_heads=2}"],
    ],
)
def test_decoder_reads_captions_in_other_ways(
    changes: list[str], train: Callable, clip_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    """By a transformer of its own, or not at all."""
    n_tokens, text = load_clip(clip_run).text_vocab_size, dalle("recipes", "show", "decoder/tiny")
    lines = [line for line in text.out.splitlines() if not line.startswith("d_text")]
    if changes[0].endswith("NONE"):
        lines = [line for line in lines if not line.startswith("text_len")]
        words = ["--set", "loss.caption_dropout=0.0"]
    else:
        words = ["--set", changes[0].replace("VOCAB", str(n_tokens))]
    recipe = tmp_path / "mine.toml"
    recipe.write_text("\n".join(lines))
    run = tmp_path / "run"
    shared = ["--data", text_data(clip_run), "--clip", clip_run, "--run", run, *ONE_STEP]
    ended = dalle("train-decoder", recipe, *shared, *words)
    assert ended.code == 0, ended.err
    load_decoder(run)


def text_data(clip_run: Path) -> str:
    """Return the data of the shared runs."""
    return json.loads((clip_run / "recipe.json").read_text())["command"]["data"][0]


def test_recipes_go_with_their_commands(pairs: Path, clip_run: Path, dalle: Callable) -> None:
    words = ["--data", pairs, "--clip", clip_run, "--run", "run"]
    for command, recipe, told in [
        ("train-prior", "decoder/tiny", "try `dalle train-decoder decoder/tiny`"),
        ("train-decoder", "prior-autoregressive/tiny", "try `dalle train-prior prior-auto"),
        ("train-prior", "dvae/tiny", "try `dalle train-dvae dvae/tiny`"),
    ]:
        ended = dalle(command, recipe, *words)
        assert ended.code == 2 and told in ended.err


def test_clip_that_is_none_is_told(train: Callable, dvae_run: Path, tmp_path: Path) -> None:
    for clip, told in ((dvae_run, "holds a dvae, not a clip"), (tmp_path / "gone", "no such CLIP")):
        ended = train("prior", clip=clip)
        assert ended.code == 2 and told in ended.err
        assert not (tmp_path / "run").exists()


def test_captions_that_clip_cuts_are_told(train: Callable, pairs: Path, tmp_path: Path) -> None:
    data = shutil.copytree(pairs, tmp_path / "data")
    for caption in sorted(data.glob("*.txt"))[:5]:
        caption.write_text("word " * 40)
    ended = train("prior", data=data)
    assert ended.code == 0 and "are longer than the 14 tokens that this CLIP reads" in ended.err


@pytest.mark.thorough
@every_kind
def test_export_brings_the_clip(
    kind: str, run_of: Callable, tmp_path: Path, dalle: Callable
) -> None:
    out, run = tmp_path / "exported", run_of(kind)
    ended = dalle("export", run, "--half", "--out", out)
    assert (ended.code, ended.out) == (0, f"{out}\n"), ended.err
    RUNS[kind][1](out)
    assert load_clip(out).state_dict().keys() == load_clip(run).state_dict().keys()
    scorers = [
        load_clip_scorer(str(path), None, device=torch.device("cpu"), precision="fp32")
        for path in (out, run)
    ]
    assert scorers[0].identity == scorers[1].identity  # whole, even where the model is halved
    if kind == "prior-autoregressive":
        load_embedding_codec(RunDir(out))
    assert dalle("doctor", out).code == dalle("doctor", run).code == 0


@every_kind
def test_doctor_finds_what_is_damaged_of_the_clip(
    kind: str, run_of: Callable, tmp_path: Path, dalle: Callable
) -> None:
    run = shutil.copytree(run_of(kind), tmp_path / "run")
    content = bytearray((run / "clip" / "model" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "clip" / "model" / "model.safetensors").write_bytes(content)
    ended = dalle("doctor", run)
    assert ended.code == 1 and "clip/model" in ended.out

    shutil.rmtree(run / "clip")
    ended = dalle("doctor", run)
    assert ended.code == 1 and "train again with `--clip" in ended.out


@every_kind
def test_info_tells_the_story_of_a_run(kind: str, run_of: Callable, dalle: Callable) -> None:
    ended = dalle("info", run_of(kind))
    assert ended.code == 0 and "parameters" in ended.out


@pytest.mark.thorough
@every_kind
def test_run_starts_from_another(
    kind: str, run_of: Callable, train: Callable, tmp_path: Path
) -> None:
    still = ["--set", "optimizer.lr.start=0.0", "--set", "optimizer.lr.end=0.0"]
    ended = train(kind, "--init-from", run_of(kind), *still)
    assert ended.code == 0 and "started from" in ended.err and "fresh: " not in ended.err
    weights = [
        load_file(run / "model" / "model.safetensors") for run in (tmp_path / "run", run_of(kind))
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
