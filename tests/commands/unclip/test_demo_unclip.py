"""`dalle demo-unclip`: it writes to folders that are its own; and the whole of it, when asked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_demo_of_other_pictures_is_left_alone(
    tmp_path: Path, tree: Callable, dalle: Callable
) -> None:
    job = {"schema": 2, "command": "demo-unclip", "pictures": 6000}
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "data").mkdir()
    before = tree(tmp_path)
    ended = dalle("demo-unclip", "--run", tmp_path, "--pictures", 100)
    assert ended.code == 2 and "belongs to another job, with other pictures" in ended.err
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_demo_leaves_a_grid_and_figures_of_everything(tmp_path: Path, dalle: Callable) -> None:
    """With a few updates only, so that the figures mean nothing."""
    short = ["training.steps=2", "training.global_batch_size=8"]
    sets = [
        word
        for kind in ("clip", "prior", "decoder")
        for value in short
        for word in (f"--{kind}-set", value)
    ]
    ended = dalle("demo-unclip", "--run", tmp_path / "demo", "--pictures", 100, *sets, "--json")
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary == json.loads((tmp_path / "demo" / "summary.json").read_text())
    accuracy = summary["caption_accuracy"]
    assert set(accuracy) == {"seen", "unseen", "unseen_from_text", "unseen_from_caption"}
    assert all(0 <= share <= 1 for share in accuracy.values())
    assert 0 <= summary["variation_accuracy"] <= 1 and summary["blend_ends_right"] in (0, 1, 2)
    assert (tmp_path / "demo" / "grid.png").is_file()
    again = dalle("demo-unclip", "--run", tmp_path / "demo", "--pictures", 100, *sets, "--json")
    assert again.code == 0
    assert json.loads(again.out)["caption_accuracy"] == accuracy
