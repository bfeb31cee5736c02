"""What is printed besides progress."""

import shlex

import pytest

from dalle_cli.console import Terminal

WORDS = ["train-transformer", "transformer/demo", "--data", "my pictures/", "--dvae", "runs/dvae"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_suggested_command_can_be_copied_from_a_terminal_of_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = [*WORDS, "--run", "DIR"]
    Terminal().suggest(words)
    text = capsys.readouterr().err
    assert shlex.split(text.replace("\\\n", " ")) == ["next:", "dalle", *words]
    assert max(map(len, text.splitlines())) <= max(
        width, len("next: dalle " + " ".join(WORDS[:2])) + 2
    )
    assert len(text.splitlines()) == {40: 3, 80: 2, 200: 1}[width]
