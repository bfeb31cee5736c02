"""Train and sample the original DALL-E (Ramesh et al. 2021), from the shell and from Python.

`dalle_cli.load_pipeline` generates pictures in memory; `load_dvae`, `load_transformer` and
`load_clip` return modules. Importing the package imports no torch: these names do, when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalle_cli.generation.text_to_image import load_pipeline
    from dalle_cli.loading import load_clip, load_dvae, load_transformer

__version__ = "0.2.0.dev0"

__all__ = ["load_clip", "load_dvae", "load_pipeline", "load_transformer"]

HOMES = {
    "load_clip": "dalle_cli.loading",
    "load_dvae": "dalle_cli.loading",
    "load_pipeline": "dalle_cli.generation.text_to_image",
    "load_transformer": "dalle_cli.loading",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
