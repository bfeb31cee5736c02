"""Help, version and start-up: every command says how it is used, at once, without torch."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from dalle_cli import __version__

PANELS = {
    "train": ["Arguments", "Run", "Recipe", "Input", "Machine", "Options"],
    "train-dvae": ["Recipe", "Input", "Run", "Machine", "Options"],
    "train-transformer": ["Recipe", "Input", "Run", "Machine", "Options"],
    "train-clip": ["Recipe", "Input", "Run", "Machine", "Options"],
    "train-prior": ["Recipe", "Input", "Run", "Machine", "Options"],
    "train-decoder": ["Recipe", "Input", "Run", "Machine", "Options"],
    "resume": ["Run", "Input", "Machine", "Options"],
    "demo": ["Run", "Input", "Recipe", "Options"],
    "demo-unclip": ["Run", "Input", "Recipe", "Options"],
    "recipes list": ["Options"],
    "recipes show": ["Recipe", "Options"],
    "recipes check": ["Recipe", "Options"],
    "recipes keys": ["Arguments", "Options"],
    "generate": [
        "Arguments",
        "Run",
        "Prompt",
        "Sampling",
        "DALL-E 2",
        "Ranking",
        "Output",
        "Machine",
        "Options",
    ],
    "models": ["Options"],
    "evaluate": ["Arguments", "Input", "Protocol", "Judges", "Output", "Machine", "Options"],
    "rerank": ["Arguments", "Ranking", "Output", "Machine", "Options"],
    "reconstruct": ["Arguments", "Output", "Machine", "Options"],
    "export": ["Arguments", "Output", "Run", "Ranking", "Input", "Options"],
    "serve": ["Arguments", "Run", "Ranking", "Server", "Machine", "Options"],
    "vary": ["Arguments", "Run", "Variation", "DALL-E 2", "Output", "Machine", "Options"],
    "blend": ["Arguments", "Run", "Path", "DALL-E 2", "Output", "Machine", "Options"],
    "project": ["Arguments", "Run", "Input", "Path", "DALL-E 2", "Output", "Machine", "Options"],
    "data shapes": ["Arguments", "Scenes", "Options"],
    "data emoji": ["Arguments", "Input", "Pictures", "Options"],
    "data check": ["Arguments", "Input", "Options"],
    "data overlap": ["Arguments", "Comparison", "Input", "Output", "Machine", "Options"],
    "data pack": ["Arguments", "Input", "Output", "Options"],
    "data encode": ["Arguments", "Input", "Output", "Machine", "Options"],
    "import dvae": ["Arguments", "Run", "Options"],
    "info": ["Arguments", "Output", "Input", "Recipe", "Options"],
    "report": ["Arguments", "Output", "Options"],
    "doctor": ["Arguments", "Options"],
}
COMMANDS = list(PANELS)
COMMAND_PANELS = {
    "": {
        "Train": [
            "train",
            "train-dvae",
            "train-transformer",
            "train-clip",
            "train-prior",
            "train-decoder",
            "resume",
            "demo",
            "demo-unclip",
            "recipes",
        ],
        "Use": [
            "generate",
            "models",
            "evaluate",
            "rerank",
            "reconstruct",
            "export",
            "serve",
            "vary",
            "blend",
            "project",
        ],
        "Data": ["data", "import"],
        "Machine": ["info", "report", "doctor"],
    },
    "data": {"Commands": ["shapes", "emoji", "check", "overlap", "pack", "encode"]},
    "recipes": {"Commands": ["list", "show", "check", "keys"]},
    "import": {"Commands": ["dvae"]},
}
SUMMARIES = [
    (group, name)
    for group, panels in COMMAND_PANELS.items()
    for names in panels.values()
    for name in names
]


@pytest.fixture
def help_of(dalle: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Print the help of a command for a terminal of some columns."""

    def show(command: str, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        ended = dalle(*command.split(), "--help")
        assert ended.code == 0 and ended.err == ""
        return ended.out

    return show


def panels_of(shown: str) -> dict[str, list[str]]:
    """Map the heading of every panel to the first words of its entries."""
    panels: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if line.endswith(":") and line[0].isalpha():
            entries = panels.setdefault(line.removesuffix(":"), [])
        elif panels and line.startswith("  ") and line[2] != " " and "Example: " not in line:
            entries.append(line.split()[0])
    return panels


@pytest.mark.parametrize("group", COMMAND_PANELS)
def test_commands_are_listed_in_panels(group: str, help_of: Callable) -> None:
    panels = panels_of(help_of(group))
    assert panels.pop("Options")
    assert list(panels.items()) == list(COMMAND_PANELS[group].items())


def test_every_command_is_listed_somewhere() -> None:
    listed = {f"{group} {name}".strip() for group, name in SUMMARIES}
    assert listed - set(COMMAND_PANELS) == set(COMMANDS)


@pytest.mark.parametrize(("group", "name"), SUMMARIES)
def test_summary_is_whole_on_one_line_of_80_columns(
    group: str, name: str, help_of: Callable
) -> None:
    summary = help_of(f"{group} {name}").split("\n\n")[1].strip()
    lines = [line for line in help_of(group).splitlines() if line.startswith(f"  {name} ")]
    assert summary.endswith(".") and len(lines) == 1
    assert lines[0].removeprefix(f"  {name} ").strip() == summary


def test_summaries_are_wrapped_rather_than_cut_where_columns_are_few(help_of: Callable) -> None:
    wide, narrow = help_of("", 80).split(), help_of("", 50).split()
    assert wide == narrow


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_in_panels(command: str, help_of: Callable) -> None:
    panels = panels_of(help_of(command))
    assert list(panels) == PANELS[command] and all(panels.values())


@pytest.mark.parametrize("command", [*COMMANDS, *COMMAND_PANELS])
def test_help_of_every_command_ends_with_an_example(command: str, help_of: Callable) -> None:
    shown = help_of(command)
    example = shown.rpartition("\n\n")[2]
    assert example.startswith(f"  Example: dalle {command}".rstrip())
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_example_has_no_option_that_the_command_lacks(command: str, help_of: Callable) -> None:
    options, _, example = help_of(command).rpartition("\n\n")
    words = {word for word in example.partition("&&")[0].split() if word.startswith("-")}
    assert not [word for word in words if f" {word} " not in options]


@pytest.mark.parametrize(
    "setting", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}], ids=str
)
def test_help_is_the_same_plain_text_everywhere(
    setting: dict[str, str], help_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = help_of("generate")
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert (
        help_of("generate") == plain and plain.isascii() and plain.replace("\n", "").isprintable()
    )


def test_brackets_in_help_are_no_markup(help_of: Callable) -> None:
    assert "[default: 8; at least 1]" in help_of("generate") and "[required]" in help_of("rerank")


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("generate", "generate RUN [CAPTION]... [OPTIONS]"),
        ("rerank", "rerank PICTURES [CAPTION] --clip CLIP [OPTIONS]"),
        ("reconstruct", "reconstruct RUN PICTURES... --out DIR [OPTIONS]"),
        ("import dvae", "import dvae ENCODER [DECODER] --run DIR [OPTIONS]"),
        ("evaluate", "evaluate RUN... --data SRC [OPTIONS]"),
        ("blend", "blend RUN A [B] [OPTIONS]"),
        ("project", "project RUN PICTURES... --data SRC [OPTIONS]"),
    ],
)
def test_usage_names_arguments_and_required_options(
    command: str, usage: str, help_of: Callable
) -> None:
    wrapped = help_of(command).partition("\n\n")[0]
    assert " ".join(wrapped.split()).endswith(f" {usage}")


def test_bounds_of_numbers_are_words_on_one_line(help_of: Callable) -> None:
    shown = help_of("generate")
    assert "[default: 8; at least 1]\n" in shown and "[0 to 100]\n" in shown and "x>=" not in shown


@pytest.mark.parametrize("command", ["generate", "rerank", "reconstruct", "data encode"])
def test_precision_is_explained_for_a_trained_model(command: str, help_of: Callable) -> None:
    assert "--precision" in help_of(command) and "train in fp16" not in help_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_quiet_and_print_json(command: str, dalle: Callable) -> None:
    shown = dalle(*command.split(), "--help").out
    assert "--json" in shown and "--quiet" in shown


def test_version(dalle: Callable) -> None:
    ended = dalle("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"dalle {__version__}\n", "")


@pytest.mark.thorough
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
