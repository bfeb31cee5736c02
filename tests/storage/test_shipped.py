"""Names of shipped models: which folder they lead to, and that a path comes first."""

from pathlib import Path

import pytest

from dalle_cli.storage.shipped import (
    resolve_run,
    shipped_folder,
    shipped_models,
    shipped_name,
    suggest_models,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of two models, and of things that are none."""
    for name in ("shapes", "emoji"):
        (tmp_path / "pretrained" / name / "model").mkdir(parents=True)
    (tmp_path / "pretrained" / "notes").mkdir()
    (tmp_path / "pretrained" / "README.md").touch()
    return tmp_path / "pretrained"


def test_folders_of_a_checkout_are_found_at_its_top() -> None:
    assert [shipped_folder(name) for name in ("recipes", "pretrained")] == [
        ROOT / "recipes",
        ROOT / "pretrained",
    ]


def test_every_folder_with_a_model_is_listed_by_its_name(models: Path, tmp_path: Path) -> None:
    assert shipped_models(models) == {"emoji": models / "emoji", "shapes": models / "shapes"}
    assert shipped_models(tmp_path / "absent") == {}


@pytest.mark.parametrize("name", ["emojis", "./emoji", "emoji/", "runs/emoji", "", "x" * 5000])
def test_what_is_no_name_stays_as_it_is(name: str, models: Path) -> None:
    assert resolve_run(name, models) == name


def test_a_path_comes_before_a_name(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_run("emoji", models) == str(models / "emoji")
    (tmp_path / "emoji").touch()
    assert resolve_run("emoji", models) == "emoji"


def test_folder_of_a_shipped_model_is_known_however_it_is_spelt(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(models / "emoji")
    for path in (models / "emoji", Path("pretrained/../pretrained/emoji"), tmp_path / "link"):
        assert shipped_name(path, models) == "emoji"
    for path in (models, models / "notes", models / "emoji" / "model", tmp_path):
        assert shipped_name(path, models) is None


def test_a_mistyped_name_is_answered_with_the_right_one_or_with_all(models: Path) -> None:
    assert suggest_models("emojy", models) == "did you mean the shipped model `emoji`?"
    assert suggest_models("birds", models) == "shipped models: `emoji`, `shapes`"
    assert suggest_models("runs/emojy", models) == suggest_models("emojy", models / "notes") == ""
