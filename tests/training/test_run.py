"""Runs begun, resumed and refused through the command line, and what their folders hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import checkpoints

BATCH_SIZES = {"dvae": 4, "transformer": 4, "clip": 8, "prior": 4, "decoder": 4}
KINDS = list(BATCH_SIZES)


@pytest.fixture
def train(pairs: Path, inputs_of: Callable, dalle: Callable, settings: Callable) -> Callable:
    """Train a model in a folder, with changes to the shared settings."""

    def train_kind(kind: str, run: Path, *words: object, data: Path = pairs, **changes: object):
        return dalle(
            f"train-{kind}",
            f"{kind}/tiny",
            "--data",
            data,
            "--run",
            run,
            *inputs_of(kind),
            *settings(**changes),
            *words,
        )

    return train_kind


@pytest.fixture
def copy_run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], RunDir]:
    """Copy the finished run of a kind, to be written into."""

    def copy(kind: str) -> RunDir:
        return RunDir(shutil.copytree(request.getfixturevalue(f"{kind}_run"), tmp_path / kind))

    return copy


def cut_power_after(run: RunDir, step: int) -> None:
    """Leave what a run has when the power fails after the checkpoint of a step, some updates on."""
    for later, path in checkpoints(run):
        if later > step:
            shutil.rmtree(path)
    shutil.rmtree(run.model)
    for preview in run.preview(0).parent.iterdir():
        preview.unlink()
    lines = run.metrics.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= step + 1]
    run.metrics.write_text("".join(kept) + lines[-1][:20])


def figures_of(run: RunDir) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not is_of_the_machine(name)}
        for line in lines
    ]


def is_of_the_machine(name: str) -> bool:
    return name.endswith(("_per_second", "mfu", "peak_memory_gib", "train/seconds"))


def science_of(run: RunDir, tree: Callable) -> dict[str, str]:
    """Hash everything that two equal runs share: all but previews and the log, with throughput."""
    return {
        name: digest
        for name, digest in tree(run.root).items()
        if not name.startswith(("metrics", "previews"))
    }


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [3, 9])
def test_resumed_run_equals_uninterrupted_run(
    kind: str,
    step: int,
    request: pytest.FixtureRequest,
    copy_run: Callable,
    train: Callable,
    tree: Callable,
) -> None:
    whole, resumed = RunDir(request.getfixturevalue(f"{kind}_run")), copy_run(kind)
    cut_power_after(resumed, step)
    ended = train(kind, resumed.root)
    assert ended.code == 0 and f"resumed after step {step}" in ended.err
    assert science_of(resumed, tree) == science_of(whole, tree)
    assert figures_of(resumed) == figures_of(whole)
    assert resumed.preview(11).read_bytes() == whole.preview(11).read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1])
def test_workers_change_nothing(
    kind: str,
    workers: int,
    request: pytest.FixtureRequest,
    copy_run: Callable,
    train: Callable,
    tree: Callable,
) -> None:
    whole, resumed = RunDir(request.getfixturevalue(f"{kind}_run")), copy_run(kind)
    cut_power_after(resumed, 6)
    assert train(kind, resumed.root, runtime__workers=workers).code == 0
    both = science_of(resumed, tree), science_of(whole, tree)
    for hashes in both:
        del hashes["recipe.json"]  # it says how many workers there are
    assert both[0] == both[1] and figures_of(resumed) == figures_of(whole)


@pytest.mark.thorough
def test_pictures_that_had_to_be_enlarged_are_counted_once_at_the_end(
    tmp_path: Path, make_pairs: Callable, train: Callable
) -> None:
    data = make_pairs(tmp_path / "data", 12)
    assert "enlarged" not in train("dvae", tmp_path / "large", data=data).err
    for picture in data.glob("*.png"):
        with Image.open(picture) as whole:
            whole.resize((20, 40)).save(picture)
    assert train("dvae", tmp_path / "small", data=data).err.count("enlarged 44 of 44 pictures") == 1


def test_run_goes_on_from_the_checkpoint_that_is_named(
    copy_run: Callable, dvae_run: Path, train: Callable, tree: Callable
) -> None:
    resumed = copy_run("dvae")
    cut_power_after(resumed, 6)
    ended = train("dvae", resumed.root, "--resume", resumed.checkpoint(6))
    assert ended.code == 0 and "resumed after step 6" in ended.err
    assert science_of(resumed, tree) == science_of(RunDir(dvae_run), tree)


@pytest.mark.parametrize("name", ["step-00000099", "step-00000006", "../recipe.json"])
def test_named_checkpoint_that_cannot_be_right_is_refused_untouched(
    name: str, copy_run: Callable, train: Callable, tree: Callable
) -> None:
    run = copy_run("dvae")
    before = tree(run.root)
    ended = train("dvae", run.root, "--resume", run.checkpoints / name)
    assert ended.code == 2 and ended.err.startswith("error: ")
    assert tree(run.root) == before


@pytest.mark.parametrize("named", [".", "checkpoints/step-00000011"])
def test_checkpoint_of_another_run_is_answered_with_how_to_begin_from_it(
    named: str, dvae_run: Path, tmp_path: Path, train: Callable
) -> None:
    ended = train("dvae", tmp_path / "new", "--resume", dvae_run / named)
    assert ended.code == 2 and "no such checkpoint of" in ended.err
    assert f"hint: `--init-from {dvae_run}` begins a new run with the weights" in ended.err
    assert not (tmp_path / "new").exists()
    again = train("dvae", tmp_path / "new", "--init-from", dvae_run, training__steps=1)
    assert again.code == 0, again.err


@pytest.mark.parametrize("kind", ["file", "link"])
def test_place_of_a_checkpoint_that_is_taken_is_told_before_the_first_step(
    kind: str, copy_run: Callable, train: Callable, tree: Callable, tmp_path: Path
) -> None:
    run = copy_run("dvae")
    cut_power_after(run, 6)
    if kind == "file":
        run.checkpoint(9).touch()
    else:
        run.checkpoint(9).symlink_to(tmp_path)
    before = run.metrics.read_bytes()
    ended = train("dvae", run.root)
    assert ended.code == 1 and f"{run.checkpoint(9).name} is a {kind}, where" in ended.err
    assert "free" not in ended.err and run.metrics.read_bytes() == before


@pytest.mark.thorough
def test_longer_recipe_resumes_where_the_shorter_ended(
    tmp_path: Path, train: Callable, fixed_schedules: Callable
) -> None:
    """Schedules in updates stay as they are, so that the length of the run is free to change."""
    run = RunDir(tmp_path / "run")
    for steps, told in ((4, "4 steps of 4"), (6, "resumed after step 4")):
        ended = train("dvae", run.root, *fixed_schedules("dvae", 3), training__steps=steps)
        assert ended.code == 0 and told in ended.err
    assert [line["step"] for line in figures_of(run) if "train/loss" in line] == list(range(1, 7))
    assert checkpoints(run)[-1][0] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_another_length_is_refused_where_schedules_would_change(
    kind: str, copy_run: Callable, train: Callable, tree: Callable
) -> None:
    run = copy_run(kind)
    before = tree(run.root)
    ended = train(kind, run.root, training__steps=13)
    assert ended.code == 2
    assert "is a run of 11 steps: with another `training.steps`, 13, its schedules" in ended.err
    assert f"`dalle resume {run.root}` resumes it; with `--extend N`" in ended.err
    assert tree(run.root) == before


@pytest.mark.parametrize("kind", KINDS)
def test_finished_run_is_left_as_it_is(
    kind: str, copy_run: Callable, train: Callable, tree: Callable
) -> None:
    run = copy_run(kind)
    before = tree(run.root)
    ended = train(kind, run.root)
    assert ended.code == 0 and "nothing to do" in ended.err
    assert tree(run.root) == before


def test_finished_run_that_lost_its_model_to_a_crash_gets_it_back(
    copy_run: Callable, dvae_run: Path, train: Callable
) -> None:
    """The disk may fill up, or the power fail, between the last checkpoint and the model folder."""
    run = copy_run("dvae")
    shutil.rmtree(run.model)
    assert train("dvae", run.root).code == 0
    assert (run.model / "model.safetensors").read_bytes() == (
        RunDir(dvae_run).model / "model.safetensors"
    ).read_bytes()


def leave_partial(run: RunDir) -> str:
    run.checkpoint(11).rename(run.checkpoints / "step-00000011.partial")
    return "step-00000011.partial"


def lose_manifest(run: RunDir) -> str:
    (run.checkpoint(11) / "manifest.json").unlink()
    return "step-00000011"


def truncate(run: RunDir) -> str:
    path = run.checkpoint(11) / "parameters.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "step-00000011: parameters.safetensors"


def flip(run: RunDir) -> str:
    path = run.checkpoint(11) / "exp_avg_sq.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return "step-00000011: exp_avg_sq.safetensors"


@pytest.mark.thorough
@pytest.mark.parametrize("damage", [leave_partial, lose_manifest, truncate, flip])
def test_damaged_checkpoint_is_told_and_the_one_before_is_used(
    damage: Callable, copy_run: Callable, dvae_run: Path, train: Callable, tree: Callable
) -> None:
    run = copy_run("dvae")
    named = damage(run)
    ended = train("dvae", run.root)
    assert (
        ended.code == 0
        and "warning: " in ended.err
        and named in ended.err
        and "resumed after step 9" in ended.err
    )
    again, whole = science_of(run, tree), science_of(RunDir(dvae_run), tree)
    assert {name: again[name] for name in whole} == whole
    assert figures_of(run) == figures_of(RunDir(dvae_run))


def test_run_whose_checkpoints_are_all_corrupt_is_an_error(
    copy_run: Callable, train: Callable, tree: Callable
) -> None:
    run = copy_run("dvae")
    for _, path in checkpoints(run):
        (path / "ema.safetensors").write_bytes(b"")
    before = tree(run.root)
    ended = train("dvae", run.root)
    assert (
        ended.code == 1
        and "corrupt" in ended.err.splitlines()[-2]
        and ended.err.splitlines()[-1].startswith("hint")
    )
    assert tree(run.root) == before


def test_every_changed_science_key_is_listed_and_refused(
    copy_run: Callable, train: Callable, tree: Callable
) -> None:
    run = copy_run("transformer")
    before = tree(run.root)
    changed = {
        "model.d_model": 64,
        "optimizer.lr.start": 0.5,
        "loss.caption_dropout": 0.25,
        "training.seed": 1,
        "training.global_batch_size": 8,
        "tokenizer.dropout": 0.0,
        "data.validation_share": 0.2,
        "ema.decay": 0.5,
    }
    free = {
        "runtime.workers": 0,
        "runtime.save_every": 7,
        "runtime.precision": '"bf16"',
    }
    words = {key.replace(".", "__"): value for key, value in (changed | free).items()}
    ended = train("transformer", run.root, **words)
    assert ended.code == 2
    assert [
        line.split("`")[1] for line in ended.err.splitlines() if line.startswith("  `")
    ] == sorted(changed)
    assert not any(key in ended.err for key in free)
    assert f"`--init-from {run.root}` with a new --run begins another" in ended.err
    assert tree(run.root) == before


def test_recipe_without_the_average_it_was_begun_with_is_refused(
    own_dvae_run: Path,
    tmp_path: Path,
    pairs: Path,
    dalle: Callable,
    settings: Callable,
    tree: Callable,
) -> None:
    text = dalle("recipes", "show", "dvae/tiny").out
    (tmp_path / "mine.toml").write_text(text.replace("[ema]\ndecay = 0.999\nevery = 1\n", ""))
    before = tree(own_dvae_run)
    ended = dalle(
        "train-dvae", tmp_path / "mine.toml", "--data", pairs, "--run", own_dvae_run, *settings()
    )
    assert ended.code == 2 and "`ema.decay`" in ended.err
    assert tree(own_dvae_run) == before


def test_resume_never_touches_no_run(copy_run: Callable, train: Callable, tree: Callable) -> None:
    run = copy_run("dvae")
    before = tree(run.root)
    ended = train("dvae", run.root, "--resume", "never", training__steps=50)
    assert ended.code == 2 and "already holds a run" in ended.err
    assert tree(run.root) == before


def test_folder_of_other_files_is_refused_untouched(
    tmp_path: Path, train: Callable, tree: Callable
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    before = tree(tmp_path)
    ended = train("dvae", tmp_path / "thesis")
    assert ended.code == 2 and "holds files but no run" in ended.err
    assert tree(tmp_path) == before


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_dry_run_writes_nothing(kind: str, tmp_path: Path, train: Callable) -> None:
    ended = train(kind, tmp_path / "run", "--dry-run")
    assert ended.code == 0 and f"11 steps of {BATCH_SIZES[kind]}" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_single_step_has_a_forecast(tmp_path: Path, train: Callable) -> None:
    ended = train("dvae", tmp_path / "run", "--dry-run", "--set", "training.steps=1")
    assert ended.code == 0 and "time      about" in ended.out


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"recipe": 1}', '{"recipe": {"kind": "dvae"}}', "\0", "[" * 100_000],
    ids=lambda text: text[:40],
)
def test_run_with_a_damaged_record_is_a_known_failure(
    text: str, own_dvae_run: Path, train: Callable, tree: Callable
) -> None:
    (own_dvae_run / "recipe.json").write_text(text)
    before = tree(own_dvae_run)
    ended = train("dvae", own_dvae_run)
    assert ended.code == 1 and "recipe.json is damaged" in ended.err
    assert tree(own_dvae_run) == before


def test_run_of_an_earlier_format_is_refused_with_a_way_out(
    own_dvae_run: Path, train: Callable, tree: Callable
) -> None:
    record = json.loads((own_dvae_run / "recipe.json").read_text())
    assert record["schema"] == 4
    (own_dvae_run / "recipe.json").write_bytes(checksummed_json(record | {"schema": 2}))
    before = tree(own_dvae_run)
    ended = train("dvae", own_dvae_run)
    assert ended.code == 1
    assert "recipe.json is of format 2, but this version of dalle reads format 4" in ended.err
    assert "finish the run with the version that began it" in ended.err
    assert "name a new folder with --run" in ended.err
    assert tree(own_dvae_run) == before


def test_changed_data_are_told(
    own_dvae_run: Path, tmp_path: Path, make_pairs: Callable, train: Callable
) -> None:
    ended = train("dvae", own_dvae_run, data=make_pairs(tmp_path / "other", 22))
    assert ended.code == 0 and "is not what this run began with" in ended.err


def test_another_dvae_is_refused_untouched(
    own_transformer_run: Path,
    own_dvae_run: Path,
    pairs: Path,
    dalle: Callable,
    settings: Callable,
    tree: Callable,
) -> None:
    earlier = load_file(own_dvae_run / "checkpoints/step-00000003/ema.safetensors")
    write_checksummed_tensors(own_dvae_run / "model/model.safetensors", earlier)
    before = tree(own_transformer_run)
    words = ["--data", pairs, "--dvae", own_dvae_run, "--run", own_transformer_run, *settings()]
    ended = dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 1 and "is not the dVAE this run began with" in ended.err
    assert tree(own_transformer_run) == before


def test_transformer_run_can_lend_its_dvae(
    transformer_run: Path, tmp_path: Path, pairs: Path, dalle: Callable, settings: Callable
) -> None:
    words = [
        "--data",
        pairs,
        "--dvae",
        transformer_run,
        "--run",
        tmp_path / "run",
        *settings(training__steps=1),
    ]
    ended = dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 0, ended.err
    own = tmp_path / "run" / "dvae" / "model.safetensors"
    assert own.read_bytes() == (transformer_run / "dvae" / "model.safetensors").read_bytes()
    assert dalle("generate", tmp_path / "run", "a red circle", "-n", 1).code == 0


def test_tokenizer_of_a_run_stays_its_own(own_transformer_run: Path, train: Callable) -> None:
    """A merge less, as if learnt otherwise: whatever is learnt today, the run keeps its own."""
    run = RunDir(own_transformer_run)
    before = run.tokenizer.read_bytes()
    cut_power_after(run, 3)
    assert "learnt a vocabulary" not in train("transformer", run.root).err
    assert run.tokenizer.read_bytes() == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "hint"), [("transformer", "dalle generate"), ("dvae", "dalle export")]
)
@pytest.mark.parametrize("is_better", [True, False])
def test_checkpoint_better_than_the_last_is_named_at_the_end(
    kind: str, hint: str, is_better: bool, copy_run: Callable, train: Callable
) -> None:
    run = copy_run(kind)
    numbers = run.checkpoint(6) / "state.json"
    loss = -100.0 if is_better else 100.0
    numbers.write_text(json.dumps({**json.loads(numbers.read_text()), "valid_loss": loss}))

    shutil.rmtree(run.checkpoint(11))
    ended = train(kind, run.root)
    assert ended.code == 0, ended.err
    named = f"held-out loss was lowest at step 6 (-100.000; now {last_loss(run):.3f}): `{hint}"
    assert (named in ended.err) == is_better


def last_loss(run: RunDir) -> float:
    return [line["valid/loss"] for line in figures_of(run) if "valid/loss" in line][-1]


def test_run_that_diverges_ends_with_an_error_and_no_next_command(
    tmp_path: Path, train: Callable
) -> None:
    """The first update ruins the weights; the second finds it."""
    changes = {"training__steps": 30, "optimizer__lr__start": 1e6, "optimizer__warmup_share": 0.0}
    ended = train("dvae", tmp_path / "run", "--set", "runtime.save_every=1", **changes)
    assert ended.code == 1 and "next:" not in ended.err and ended.out == ""
    [error, hint] = ended.err.splitlines()[-2:]
    assert error.startswith("error: the ") and "not finite" in error
    assert "begin a new run with a lower `optimizer.lr`" in hint
    for file in tmp_path.rglob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert tensor.isfinite().all(), f"{file} {name}"
