"""What comes with the package: recipes, and models that are trained already.

A shipped model is an export in `pretrained/NAME`, which commands find by its name wherever they
take a run. Its folder is data of the package: nothing is written into it. Knows nothing of what
recipes and models hold.
"""

import difflib
from importlib import resources
from pathlib import Path

MODELS = "pretrained"


def shipped_folder(name: str) -> Path:
    """Return a folder of what is shipped: in the installed package, or else in the checkout."""
    installed = Path(str(resources.files("dalle_cli"))) / name
    return installed if installed.is_dir() else Path(__file__).parents[2] / name


def shipped_models(root: Path | None = None) -> dict[str, Path]:
    """Map the name of every shipped model to its folder.

    root  the folder that holds them; None: that of the package
    """
    found = (root or shipped_folder(MODELS)).glob("*/model")
    return {path.parent.name: path.parent for path in sorted(found)}


def resolve_run(name: str, root: Path | None = None) -> str:
    """Return the folder of the shipped model of a name, or the name itself if there is none.

    Whatever exists under a path of that name comes first.
    """
    models = shipped_models(root)
    return str(models[name]) if name in models and not Path(name).exists() else name


def shipped_name(folder: Path, root: Path | None = None) -> str | None:
    """Return the name of the shipped model in a folder, None for any other folder."""
    models = shipped_models(root)
    return next((name for name, path in models.items() if path.samefile(folder)), None)


def suggest_models(name: str, root: Path | None = None) -> str:
    """Name the shipped model that was probably meant, or all of them, as a hint.

    Returns "" where none is shipped, and for a path of several parts, which is no model's name.
    """
    models = list(shipped_models(root))
    if not models or Path(name).name != name:
        return ""
    close = difflib.get_close_matches(name, models, n=1)
    if close:
        return f"did you mean the shipped model `{close[0]}`?"
    return f"shipped models: {', '.join(f'`{model}`' for model in models)}"
