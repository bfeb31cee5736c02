"""Help in panels: commands and options grouped by purpose, as plain text of at most 80 columns.

Rich's panels are not used: they read help texts as markup, and their columns leave too little room
for summaries. Plain text is the same in a pipe, without colour and on a dumb terminal. Knows
nothing of any particular command.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

TRAIN, USE, DATA, MACHINE = COMMAND_PANELS = ("Train", "Use", "Data", "Machine")
ARGUMENTS, OPTIONS, COMMANDS = "Arguments", "Options", "Commands"  # of all that name no panel
MAX_TERM_WIDTH = 26  # leaves more than half of 80 columns to the text

HARD_SPACE = "\xa0"  # does not break a line
# as Typer writes the bounds of a number, and as people read them
BOUNDS = (
    (r"(\S+)<=x<=([^\s;\]]+)", r"\1 to \2"),
    (r"x>=([^\s;\]]+)", r"at least \1"),
    (r"x<=([^\s;\]]+)", r"at most \1"),
)

Panels = dict[str, list[tuple[str, str]]]
Command = TypeVar("Command", bound=Callable[..., None])


class HelpCommand(TyperCommand):
    """Command whose help shows its options in panels."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of a command line: arguments, required options, and the others."""
        parameters = self.get_params(ctx)
        arguments = [one for one in parameters if isinstance(one, TyperArgument)]
        required = [one for one in parameters if one.required and one not in arguments]
        return [
            *map(_argument, arguments),
            *(f"{option.opts[0]} {option.metavar}" for option in required),
            "[OPTIONS]",
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, after the usage and the summary."""
        _write_panels(_parameter_panels(self, ctx), formatter)


class HelpGroup(TyperGroup):
    """Group whose help shows its commands in panels, each with its whole summary."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write commands, then options, after the usage and the summary."""
        _write_panels(_command_panels(self, ctx) | _parameter_panels(self, ctx), formatter)


def add_command(
    group: typer.Typer, name: str | None = None, *, panel: str | None = None, example: str
) -> Callable[[Command], Command]:
    """Register a command in a panel of its group's help; its own help ends with the example."""
    return group.command(name, cls=HelpCommand, rich_help_panel=panel, epilog=example_text(example))


def example_text(example: str) -> str:
    """Return the last paragraph of a help text, marked so that its lines are not wrapped."""
    return f"\b\nExample: {example}"


def _command_panels(group: TyperGroup, ctx: Any) -> Panels:
    """Return name and summary of every command by panel, in the order of COMMAND_PANELS."""
    panels: Panels = {panel: [] for panel in COMMAND_PANELS}
    for name in group.list_commands(ctx):
        listed: Any = group.get_command(ctx, name)
        summary = (listed.help or "").partition("\n\n")[0].replace("\n", " ")
        panels.setdefault(listed.rich_help_panel or COMMANDS, []).append((name, summary))

    return {panel: rows for panel, rows in panels.items() if rows}


def _parameter_panels(described: TyperCommand | TyperGroup, ctx: Any) -> Panels:
    """Return spelling and help of every parameter by panel, in order of declaration.

    Options without a panel, such as --help, come last.
    """
    panels: Panels = {}
    for parameter in described.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            panels.setdefault(_panel_of(parameter), []).append(
                (_term(parameter, record[0]), _readable(record[1]))
            )

    if OPTIONS in panels:
        panels[OPTIONS] = panels.pop(OPTIONS)
    return panels


def _panel_of(parameter: Any) -> str:
    default = ARGUMENTS if isinstance(parameter, TyperArgument) else OPTIONS
    return getattr(parameter, "rich_help_panel", None) or default


def _term(parameter: Any, spelling: str) -> str:
    """Return an argument's metavar alone: some versions of Typer add its Python type."""
    is_named = isinstance(parameter, TyperArgument) and parameter.metavar is not None
    return parameter.metavar if is_named else spelling


def _argument(argument: Any) -> str:
    """Return an argument as usage shows it: in brackets if it may be left out."""
    name = argument.metavar or argument.name.upper()
    shown = name if argument.required else f"[{name}]"
    return shown if argument.nargs == 1 else f"{shown}..."


def _readable(text: str) -> str:
    """Return a help text with the bounds of numbers in words, which stay on one line."""
    summary, bracket, facts = text.rpartition("  [")
    if not bracket:
        return text
    for pattern, words in BOUNDS:
        facts = re.sub(pattern, words, facts)
    return f"{summary}{bracket}{facts.replace(' ', HARD_SPACE)}"


def _write_panels(panels: Panels, formatter: Any) -> None:
    """Write one section per panel; texts begin in the same column throughout."""
    longest = max((len(term) for rows in panels.values() for term, _ in rows), default=0)
    width = min(longest, MAX_TERM_WIDTH)

    for panel, rows in panels.items():
        with formatter.section(panel):
            formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)
    formatter.buffer = [text.replace(HARD_SPACE, " ") for text in formatter.buffer]
