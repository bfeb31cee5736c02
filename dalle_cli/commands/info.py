"""`dalle info`: what a recipe will cost, or what has become of a run."""

from pathlib import Path
from typing import Any

from dalle_cli.commands.reports.damage.run_check import raise_if_damaged
from dalle_cli.commands.reports.model_facts import training_facts
from dalle_cli.commands.reports.model_text import aligned_rows, model_text
from dalle_cli.commands.reports.planning.recipe_forecast import forecast_rows, recipe_forecast
from dalle_cli.commands.reports.story.run_facts import run_facts, run_table
from dalle_cli.commands.reports.story.run_story import runs_inside
from dalle_cli.commands.reports.story.story_text import story_line, story_text
from dalle_cli.config import ModelTable, TrainedTransformerTable, kind_of
from dalle_cli.console import Terminal
from dalle_cli.data.images import to_png
from dalle_cli.errors import UsageError
from dalle_cli.loading import largest_table
from dalle_cli.recipe import load_recipe
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.viz import enlarge, mask_pictures

MASK_SIZE = 512  # pixels, at least


def run_info(
    name: str, overrides: list[str], masks: Path | None, data: list[str], terminal: Terminal
) -> None:
    """Print the size and cost of a recipe's model, or the story of a run or of several.

    masks  a folder, if given, into which the image mask of each kind of attention is drawn
    data   what the recipe's run would train on, to forecast what it would take; may be empty
    """
    folder = Path(name)
    if not folder.is_dir():
        _recipe_info(name, overrides, masks, data, terminal)
        return

    if overrides or data:
        raise UsageError("a run's sizes and data are fixed: `--set` and `--data` go with a recipe")
    runs = [] if _is_model(folder) else runs_inside(folder)
    if runs and masks is None:
        stories = {run.name: run_facts(run) for run in runs}
        lines = [story_line(run, facts) for run, facts in stories.items()]
        terminal.result("\n".join(lines), {"runs": stories})
        for run in runs:
            raise_if_damaged(run, stories[run.name]["damaged"])
        return

    facts = {**run_facts(folder), **_masks_of(run_table(folder), name, masks)}
    terminal.result(story_text(facts), facts)
    raise_if_damaged(folder, facts["damaged"])


def _recipe_info(
    name: str, overrides: list[str], masks: Path | None, data: list[str], terminal: Terminal
) -> None:
    recipe = load_recipe(name, overrides)
    table = largest_table(recipe)
    facts = {**training_facts(recipe), **_masks_of(table, name, masks)}
    text = model_text(facts)
    if data:
        facts["run"] = recipe_forecast(recipe, data)
        text += "\n" + aligned_rows(forecast_rows(facts["run"]))
        for found in facts["run"]["doubts"]:
            terminal.warn(f"{found['doubt']}\nhint: {found['hint']}")
    terminal.result(text, facts)


def _is_model(folder: Path) -> bool:
    return RunDir(folder).is_run or RunDir(folder).model.is_dir()


def _masks_of(table: ModelTable, name: str, folder: Path | None) -> dict[str, Any]:
    """Draw a transformer's masks if there is a folder for them; return their files as a fact."""
    if folder is None:
        return {}
    if not isinstance(table, TrainedTransformerTable):
        raise UsageError(f"{name} is a {kind_of(table)}, which has no attention masks to draw")
    return {"masks": _draw_masks(table, folder)}


def _draw_masks(table: TrainedTransformerTable, folder: Path) -> dict[str, str]:
    """Draw image-to-image masks into a folder; return their files by kind."""
    make_folder(folder)
    files = {}
    for kind, picture in mask_pictures(table.grid_size, table.kernel_size).items():
        files[kind] = str(folder / f"{kind}.png")
        write_file(Path(files[kind]), to_png(enlarge(picture, at_least=MASK_SIZE)))
    return files
