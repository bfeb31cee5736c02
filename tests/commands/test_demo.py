"""`dalle demo`: it writes to folders that are its own, and to no others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["data/thesis.txt", "001.png"])
def test_folder_of_other_files_is_left_alone(
    name: str, tmp_path: Path, tree: Callable, dalle: Callable
) -> None:
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    before = tree(tmp_path)
    ended = dalle("demo", "--run", tmp_path / "mine", "--pictures", 100)
    assert ended.code == 2 and "mine already holds something" in ended.err
    assert tree(tmp_path) == before


def test_demo_of_other_pictures_is_left_alone(
    tmp_path: Path, tree: Callable, dalle: Callable
) -> None:
    job = {"schema": 2, "command": "demo", "pictures": 6000}
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "data").mkdir()
    before = tree(tmp_path)
    ended = dalle("demo", "--run", tmp_path, "--pictures", 100)
    assert ended.code == 2 and "belongs to another job, with other pictures" in ended.err
    assert tree(tmp_path) == before
