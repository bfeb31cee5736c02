"""Where a run's files lie, and which folders count as one."""

import re
from pathlib import Path

import pytest

from dalle_cli.errors import DalleError
from dalle_cli.storage.run_dir import RunDir, model_dir


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
