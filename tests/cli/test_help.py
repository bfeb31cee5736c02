"""Help, version and start-up: every command says how it is used, at once, without torch."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from dalle_cli import __version__

COMMANDS = [
    "train-dvae", "train-transformer", "train-clip", "generate", "rerank", "reconstruct", "export", "demo", "info",
    "doctor", "data shapes", "data check", "data encode", "recipes list", "recipes show", "recipes check",
    "recipes keys", "import dvae",
]  # fmt: skip


def test_list_of_commands_is_complete(dalle: Callable) -> None:
    shown = dalle("--help").out
    for command in COMMANDS:
        assert f"\n  {command.split()[0]} " in shown
    for group in ("data", "recipes", "import"):
        listed = dalle(group, "--help").out.partition("Commands")[2]
        names = {
            line.split()[0]
            for line in listed.splitlines()
            if line.startswith("  ") and line[2:3].isalpha()
        }
        assert names == {
            command.split()[1] for command in COMMANDS if command.startswith(f"{group} ")
        }


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command: str, dalle: Callable) -> None:
    ended = dalle(*command.split(), "--help")
    assert ended.code == 0 and ended.err == ""
    assert f"Example: dalle {command}" in " ".join(ended.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_quiet_and_print_json(command: str, dalle: Callable) -> None:
    shown = dalle(*command.split(), "--help").out
    assert "--json" in shown and "--quiet" in shown


def test_version(dalle: Callable) -> None:
    ended = dalle("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"dalle {__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["generate", "--help"],
        ["train-dvae", "--help"],
        ["recipes", "check", "dvae/tiny"],
    ],
    ids=str,
)
def test_help_and_recipes_are_answered_without_torch(words: list[str]) -> None:
    script = (
        "import sys\nimport dalle_cli.cli\nassert 'torch' not in sys.modules\n"
        f"from dalle_cli.cli.main import main\nsys.argv = ['dalle', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "words", [["--nonsense"], ["paint"], ["generate"], ["train-dvae", "dvae/tiny"]], ids=str
)
def test_wrong_usage_exits_with_2_and_says_why(words: list[str], dalle: Callable) -> None:
    ended = dalle(*words)
    assert ended.code == 2 and ended.out == "" and "error: " in ended.err.lower()


def test_module_can_be_run() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "dalle_cli", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, f"dalle {__version__}\n")
