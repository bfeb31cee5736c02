"""Where a run's files lie, and which folders count as one."""

import pwd
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.peak_rates import (
    PeakRates,
    peak_rates_file,
    store_peak_rates,
    stored_matmul_rate,
)
from dalle_cli.scoring.embedding_cache import EmbeddingCache, embedding_cache_file
from dalle_cli.storage.run_dir import (
    NO_CACHE,
    RunDir,
    cache_folder,
    check_hub_cache,
    check_new_folder,
    model_dir,
    suggest_runs,
)


def test_everything_lies_inside_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    names = ("recipe", "model", "dvae", "tokenizer", "checkpoints", "metrics", "samples")
    paths = [getattr(run, name) for name in names] + [run.checkpoint(3), run.preview(3)]
    assert len(set(paths)) == len(paths) and all(path.is_relative_to(tmp_path) for path in paths)
    assert (
        run.checkpoint(2000).name == "step-00002000"
        and run.checkpoint(10**9).name == "step-1000000000"
    )


def test_empty_and_absent_folders_are_empty_and_no_runs(tmp_path: Path) -> None:
    for run in (RunDir(tmp_path), RunDir(tmp_path / "absent")):
        assert run.is_empty and not run.is_run
    (tmp_path / ".hidden").touch()
    assert not RunDir(tmp_path).is_empty


def test_folder_with_a_record_cut_short_by_a_crash_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".recipe.json").write_text('{"schema"')
    assert RunDir(tmp_path).is_empty
    (tmp_path / ".recipe.json.bak").touch()
    assert not RunDir(tmp_path).is_empty


def test_model_folder_is_found_in_a_run_and_by_itself(dvae_run: Path) -> None:
    assert RunDir(dvae_run).is_run
    assert model_dir(dvae_run) == model_dir(dvae_run / "model") == dvae_run / "model"


def test_run_that_has_not_saved_yet_is_told_apart_from_no_run(
    own_dvae_run: Path, tmp_path: Path
) -> None:
    (own_dvae_run / "model" / "model.safetensors").unlink()
    for folder, message in [
        (own_dvae_run, "has no model yet"),
        (tmp_path / "absent", "no such run"),
        (tmp_path, "is not a run"),
    ]:
        with pytest.raises(DalleError, match=re.escape(message)):
            model_dir(folder)


def make_run(folder: Path, kind: str) -> None:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(f'{{"kind": "{kind}"}}')
    (folder / "model" / "model.safetensors").touch()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, kind in [("b/clip", "clip"), ("b/dalle", "transformer"), ("a-dvae", "dvae")]:
        make_run(tmp_path / "runs" / name, kind)
    return tmp_path / "runs"


def test_folder_that_holds_runs_names_them_those_wanted_first(runs: Path) -> None:
    with pytest.raises(UsageError, match="runs is not a run") as caught:
        model_dir(runs, "transformer")
    names = f"{runs}/b/dalle (transformer), {runs}/a-dvae (dvae), {runs}/b/clip (clip)"
    assert caught.value.hint == f"{runs} holds these runs: {names}"


def test_mistyped_run_is_answered_with_similar_names_first(runs: Path) -> None:
    make_run(runs / "b/other", "transformer")
    with pytest.raises(UsageError, match="no such run") as caught:
        model_dir(runs / "b/dale", "transformer")
    shown = caught.value.hint
    assert shown.index("b/dalle") < shown.index("b/other") < shown.index("b/clip")


def test_many_runs_are_counted_and_hostile_ones_are_printable(tmp_path: Path) -> None:
    for i in range(12):
        make_run(tmp_path / f"run{i:02d}", "clip\x1b")
    (tmp_path / "run00" / "model" / "config.json").write_text("[")
    shown = suggest_runs(tmp_path, "dvae")
    assert shown.endswith("and 4 more") and "run00 (damaged)" in shown and "\x1b" not in shown


def test_nothing_is_suggested_where_there_is_nothing(tmp_path: Path) -> None:
    assert suggest_runs(tmp_path, "dvae") == suggest_runs(tmp_path / "absent", "dvae") == ""


def test_new_folder_is_absent_or_empty(tmp_path: Path) -> None:
    check_new_folder(tmp_path)
    check_new_folder(tmp_path / "absent")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    for path, told in ((tmp_path, "holds something"), (tmp_path / "link", "a link to nothing")):
        with pytest.raises(UsageError, match=told):
            check_new_folder(path)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a home, in an empty folder: nothing may make one called `~` there."""

    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_home_there_is_no_cache_folder(homeless: Path) -> None:
    assert cache_folder() is None
    assert embedding_cache_file() is None and peak_rates_file() is None


def test_without_a_home_nothing_is_cached_or_stored_and_the_reason_is_told(homeless: Path) -> None:
    cache = EmbeddingCache(embedding_cache_file(), "model", 1)
    cache.add({"picture": np.zeros(1, np.float32)})
    assert cache.find(["picture"]) == {} and cache.problem == NO_CACHE
    cache.close()

    cpu = torch.device("cpu")
    with pytest.raises(OSError, match="no home folder"):
        store_peak_rates(cpu, PeakRates({"fp32": 1.0}, 1.0, 1.0))
    assert stored_matmul_rate(cpu, "fp32") is None
    assert not list(homeless.iterdir())


def test_without_a_home_the_hub_is_asked_only_with_a_cache_of_its_own(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DalleError, match="no home folder") as caught:
        check_hub_cache()
    assert "HF_HOME" in caught.value.hint
    monkeypatch.setenv("HF_HOME", "/some/where")
    check_hub_cache()


def test_files_of_a_run_have_the_names_that_older_folders_have(transformer_run: Path) -> None:
    """Spelt out, since a run of an earlier version must stay readable."""
    names = {str(path.relative_to(transformer_run)) for path in transformer_run.rglob("*.*")}
    assert names >= {
        "recipe.json", "metrics.jsonl", "model/config.json", "model/model.safetensors",
        "dvae/config.json", "dvae/model.safetensors", "tokenizer/merges.json",
        "tokenizer/words.json", "previews/step-00000011.png",
        "checkpoints/step-00000011/manifest.json",
    }  # fmt: skip
