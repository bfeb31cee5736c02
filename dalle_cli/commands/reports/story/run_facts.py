"""The facts of a run: its model's size, and its story."""

from pathlib import Path
from typing import Any

from dalle_cli.commands.reports.damage.run_check import check_run, problems_of
from dalle_cli.commands.reports.model_facts import model_facts
from dalle_cli.commands.reports.story.run_story import run_story
from dalle_cli.config import ModelTable
from dalle_cli.errors import DalleError
from dalle_cli.loading import largest_table
from dalle_cli.recipe import load_recipe
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import RunDir, model_dir


def run_facts(folder: Path) -> dict[str, Any]:
    """Return the facts of the model of a run or an export, its story, and what is damaged.

    Raises DalleError where there is none.
    """
    run = RunDir(folder)
    facts = {**model_facts(run_table(folder)), "run": run_story(run)}
    return {**facts, "damaged": problems_of(check_run(run, with_checkpoints=False))}


def run_table(folder: Path) -> ModelTable:
    """Read a model's sizes from the model folder of a run or an export.

    A run that has not saved yet has those of its recipe.
    """
    try:
        return read_model_table(model_dir(folder))
    except DalleError:
        if not RunDir(folder).is_run or RunDir(folder).model.is_dir():
            raise
    return largest_table(load_recipe(str(RunDir(folder).recipe), []))
