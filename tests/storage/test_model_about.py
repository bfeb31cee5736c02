"""What an author says of a model: a valid file, and every mistake in another."""

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_about import ABOUT

from dalle_cli.errors import DalleError
from dalle_cli.storage.model_about import SamplingAdvice, read_about, read_sampling_advice
from dalle_cli.storage.run_dir import RunDir


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], RunDir]:
    def about(text: str) -> RunDir:
        (tmp_path / "about.toml").write_text(text)
        return RunDir(tmp_path)

    return about


def test_file_is_read_as_it_was_written(write: Callable) -> None:
    about = read_about(write(ABOUT))
    assert (about.title, about.licence) == ("Toy scenes", "MIT")
    assert about.captions == ["a blue ring", "a small red circle at the top left"]
    assert about.figures == {"pictures that show their caption": "0 of 23"}


def test_every_problem_is_told(write: Callable) -> None:
    text = ABOUT.replace('title = "Toy scenes"\n', "mood = 3\n").replace("MIT", "MI\\u001bT")
    text = text.replace('["It has hardly been trained."]', "[]")
    with pytest.raises(DalleError, match=r"about\.toml is damaged") as caught:
        read_about(write(text))
    _, *problems = caught.value.message.splitlines()
    named = {problem.split("`")[1] for problem in problems}
    assert named == {"title", "mood", "licence", "limits"}
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "not valid TOML"),
        (f"title = {'[' * 2000}", "not valid TOML"),
        ("title = 'a'\ntitle = 'b'", "not valid TOML"),
    ],
)
def test_what_is_no_toml_is_refused(text: str, message: str, write: Callable) -> None:
    with pytest.raises(DalleError, match=message):
        read_about(write(text))


def test_missing_and_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DalleError, match=r"cannot read .*about\.toml"):
        read_about(RunDir(tmp_path))
    (tmp_path / "about.toml").write_bytes(b"\xff")
    with pytest.raises(DalleError, match=r"about\.toml"):
        read_about(RunDir(tmp_path))


def test_sampling_is_that_of_the_paper_where_nobody_advises_another(write: Callable) -> None:
    assert read_sampling_advice(RunDir(Path("nowhere"))) == SamplingAdvice(
        temperature=1, guidance=1
    )
    assert read_sampling_advice(write(ABOUT)) == SamplingAdvice()
    advised = ABOUT + "[sampling]\ntemperature = 0.7\nguidance = 3.0\n"
    assert read_sampling_advice(write(advised)) == SamplingAdvice(temperature=0.7, guidance=3.0)


@pytest.mark.parametrize("value", ["-1.0", "nan", '"hot"'])
def test_sampling_that_cannot_be_right_is_refused(value: str, write: Callable) -> None:
    with pytest.raises(DalleError, match=r"`sampling\.temperature`"):
        read_about(write(f"{ABOUT}[sampling]\ntemperature = {value}\n"))
