"""Fetching public checkpoints by their names on the Hugging Face hub, if its library is installed.

HF_HUB_OFFLINE, HF_HOME and the like are read by the library and are honoured.
"""

import re
from collections.abc import Callable
from pathlib import Path

from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.storage.run_dir import check_hub_cache
from dalle_cli.storage.shipped import suggest_models

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CONFIGS = ("*config.json", "vocab.json", "merges.txt", "tokenizer.json")
# In order of preference: the first that exists is fetched
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("open_clip_model.safetensors",),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
    ("open_clip_pytorch_model.bin",),
)


def fetch_from_hub(name: str) -> Path:
    """Return the folder of a checkpoint, `owner/name`, from the local cache or online from the hub.

    Raises UsageError if the name is not of this form or the library is not installed, and
    DalleError if the checkpoint cannot be fetched or holds no weights.
    """
    if not HUB_NAME.fullmatch(name):
        hints = ("name a `train-clip` run, a checkpoint file or its folder", suggest_models(name))
        raise UsageError(f"no such CLIP: {printable(name)}", "; ".join(filter(None, hints)))
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise UsageError(
            f"no such file or folder: {printable(name)}",
            "`pip install huggingface_hub` fetches public checkpoints by name",
        ) from error

    check_hub_cache()

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(name, allow_patterns=patterns))

    try:
        folder = _fetch_weights(fetch)
    except Exception as error:  # errors of the libraries below it, too, which share no class
        reason = printable(str(error).partition("\n")[0] or type(error).__name__)
        raise DalleError(
            f"{printable(name)} is neither a file here nor available from the hub: {reason}",
            f"looked in {constants.HF_HUB_CACHE} (HF_HUB_CACHE); "
            f"offline is {constants.HF_HUB_OFFLINE}",
        ) from error

    if folder is None:
        known = ", ".join(pattern for patterns in WEIGHTS for pattern in patterns)
        raise DalleError(
            f"{printable(name)} holds no weights in a known form", f"looked for {known}"
        )
    return folder


def _fetch_weights(fetch: Callable[[list[str]], Path]) -> Path | None:
    """Fetch the configs and the first known form of weights that exists, or return None."""
    for patterns in WEIGHTS:
        folder = fetch([*CONFIGS, *patterns])
        if any(file for pattern in patterns for file in folder.glob(pattern)):
            return folder
    return None
