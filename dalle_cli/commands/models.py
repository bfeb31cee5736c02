"""`dalle models`: the models that come with the package, and what may be expected of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dalle_cli.commands.reports.model_facts import model_facts
from dalle_cli.commands.reports.wrapped_rows import wrapped_rows
from dalle_cli.console import Terminal, count_text, size_text
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.shipped import shipped_models


def run_list_models(terminal: Terminal) -> None:
    """List the shipped models: what each draws, its size, data, licence and figures."""
    models = {name: _facts(name, folder) for name, folder in shipped_models().items()}
    if not models:
        terminal.say("no model comes with this installation")
    terminal.result("\n\n".join(_text(name, facts) for name, facts in models.items()), models)


def _facts(name: str, folder: Path) -> dict[str, Any]:
    run = RunDir(folder)
    parts = {"transformer": run.model, "dvae": run.dvae, "clip": RunDir(run.clip).model}
    sizes = {
        part: model_facts(read_model_table(path)) for part, path in parts.items() if path.is_dir()
    }
    return {
        "folder": str(folder),
        **read_about(run).model_dump(),
        "image_size": sizes["dvae"]["image_size"],
        "parameters": {part: facts["parameters"]["all"] for part, facts in sizes.items()},
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "held_out": json.loads(run.export.read_bytes())["held_out"],
        "command": f"dalle generate {name} --show",
    }


def _text(name: str, facts: Mapping[str, Any]) -> str:
    """Write what is known of a model, in lines of the terminal's width."""
    parts = (f"{part} {count_text(n)}" for part, n in facts["parameters"].items())
    rows = {
        "draws": facts["draws"],
        "pictures": f"{facts['image_size']} pixels on a side",
        "parameters": ", ".join(parts),
        "size": size_text(facts["bytes"]),
        "data": f"{facts['data']} ({facts['data_licence']})",
        "training": facts["training"],
        "licence": facts["licence"],
        "figures": "; ".join(f"{figure}: {value}" for figure, value in facts["figures"].items()),
        "limits": " ".join(facts["limits"]),
        "sampling": ", ".join(f"{name} {value:g}" for name, value in facts["sampling"].items()),
        "try": facts["command"],
    }
    indented = {f"  {label}": text for label, text in rows.items() if text}
    return f"{name}: {facts['title']}\n{wrapped_rows(indented)}"
