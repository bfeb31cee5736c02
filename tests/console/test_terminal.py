"""What is printed besides progress."""

import io
import os
import shlex

import pytest

from dalle_cli.console import LossyStream, Terminal

WORDS = ["train-transformer", "transformer/demo", "--data", "my pictures/", "--dvae", "runs/dvae"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_suggested_command_can_be_copied_from_a_terminal_of_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes any stream a terminal
    words = [*WORDS, "--run", "DIR"]
    Terminal().suggest(words)
    text = capsys.readouterr().err
    assert shlex.split(text.replace("\\\n", " ")) == ["next:", "dalle", *words]
    assert max(map(len, text.splitlines())) <= max(
        width, len("next: dalle " + " ".join(WORDS[:2])) + 2
    )
    assert len(text.splitlines()) == {40: 3, 80: 2, 200: 1}[width]


def test_notes_and_warnings_break_between_words_on_a_terminal_and_not_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    text = "the model will know them by heart long before"
    for is_terminal, n_lines in ((True, 2), (False, 1)):
        if is_terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")  # which makes any stream a terminal
        else:
            monkeypatch.delenv("FORCE_COLOR")
        Terminal().warn(text)
        warning = capsys.readouterr().err
        assert warning.split() == ["warning:", *text.split()]
        Terminal().say(text)
        assert len(capsys.readouterr().err.splitlines()) == n_lines


def test_command_to_copy_is_never_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    command = "$ dalle train-dvae dvae/demo --data pictures/ --run runs/dvae"
    Terminal().say(f"\n{command}")
    assert capsys.readouterr().err == f"\n{command}\n"


@pytest.mark.parametrize("call", ["write", "flush"])
def test_stream_that_nobody_reads_loses_what_is_written(call: str) -> None:
    """Not only the first time: afterwards, writing to its descriptor works again."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as broken:
        stream = LossyStream(broken)
        for _ in range(3):
            assert stream.write("lost\n" if call == "write" else "lost") in (4, 5)
            stream.flush()
        os.write(writer, b"lost, too")


def test_stream_that_is_closed_loses_what_is_written() -> None:
    closed = io.StringIO()
    closed.close()
    LossyStream(closed).write("lost")
