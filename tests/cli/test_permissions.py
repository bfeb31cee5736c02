"""Whoever may read a folder may read all that a command wrote there, and is told where not."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dalle_cli.errors import DalleError
from dalle_cli.loading import load_dvae, load_transformer
from dalle_cli.storage.model_folder import read_weights

NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be a user like any other inside a `with`: the superuser may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if before == 0:
            os.seteuid(before)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def assert_all_as(plain: Path, folder: Path) -> None:
    permissions = {path: path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    odd = {
        path: oct(mode)
        for path, mode in permissions.items()
        if path.is_file() and mode != plain.stat().st_mode & 0o777
    }
    assert not odd and any(path.suffix == ".safetensors" for path in permissions)


@pytest.mark.parametrize("kind", ["dvae", "transformer", "clip"])
def test_every_file_of_a_run_has_the_permissions_of_a_new_file(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (tmp_path / "plain").touch()
    assert_all_as(tmp_path / "plain", request.getfixturevalue(f"{kind}_run"))


def test_exports_and_tokens_have_them_too(
    transformer_run: Path, dvae_run: Path, pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    (tmp_path / "plain").touch()
    for words in (
        ["export", transformer_run, "--out", tmp_path / "export"],
        ["data", "encode", pairs, "--dvae", dvae_run, "--out", tmp_path / "tokens"],
    ):
        ended = dalle(*words)
        assert ended.code == 0, ended.err
        assert_all_as(tmp_path / "plain", words[-1])


def test_weights_that_may_not_be_read_are_told_as_that(dvae_run: Path, public: Path) -> None:
    run = shutil.copytree(dvae_run, public / "run")
    weights = run / "model" / "model.safetensors"
    weights.chmod(0o200)
    told = f"cannot read {weights}: Permission denied"
    with without_privileges():
        for read in (load_dvae, lambda path: read_weights(path / "model", "dvae")):
            with pytest.raises(DalleError) as caught:
                read(run)
            assert caught.value.message == told


def test_config_that_may_not_be_read_is_told_as_that(transformer_run: Path, public: Path) -> None:
    run = shutil.copytree(transformer_run, public / "run")
    config = run / "model" / "config.json"
    config.chmod(0o200)
    with without_privileges(), pytest.raises(DalleError) as caught:
        load_transformer(run)
    assert caught.value.message == f"cannot read {config}: Permission denied"
