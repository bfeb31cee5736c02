"""Stands in for trackio, which prints to stdout what it does."""

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image as Pictures


class Image:
    """A picture as it is sent."""

    def __init__(self, picture: Pictures.Image) -> None:
        self.size = list(picture.size)


class Run:
    """A run, known by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def log(self, figures: dict[str, Any], step: int) -> None:
        values = {
            name: value.size if isinstance(value, Image) else value
            for name, value in figures.items()
        }
        _keep({"run": self.name, "step": step, "figures": values})

    def finish(self) -> None:
        print("* Run finished.")


def init(project: str, name: str, config: dict[str, Any], resume: str, embed: bool) -> Run:
    assert resume == "allow" and config["kind"] and not embed
    print(f"* Trackio project initialized: {project}")
    return Run(name)


def _keep(line: dict[str, Any]) -> None:
    with Path(os.environ["STAND_IN_FILE"]).open("a") as file:
        file.write(json.dumps(line) + "\n")
