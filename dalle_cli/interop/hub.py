"""Public checkpoints by the name they have on the Hugging Face hub, where its library is installed.

HF_HUB_OFFLINE, HF_HOME and the like are the library's own and are honoured.
"""

import re
from collections.abc import Callable
from pathlib import Path

from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CONFIGS = ("*config.json", "vocab.json", "merges.txt", "tokenizer.json")
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("open_clip_model.safetensors",),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
    ("open_clip_pytorch_model.bin",),
)  # the first that there are


def fetch_from_hub(name: str) -> Path:
    """Give the folder of a checkpoint, `owner/name`, from the local cache or, online, from the hub.

    Raises DalleError for what is no such name, is not to be had, holds no weights, or has no library to ask with.
    """
    if not HUB_NAME.fullmatch(name):
        raise DalleError(
            f"no such CLIP: {printable(name)}",
            "a `train-clip` run, a checkpoint's file or its folder",
        )
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        hint = "`pip install huggingface_hub` fetches public ones by name"
        raise DalleError(f"no such file or folder: {printable(name)}", hint) from error
    try:
        folder = _fetch_weights(
            lambda patterns: Path(snapshot_download(name, allow_patterns=patterns))
        )
    except Exception as error:  # also what the library lets through of those below it, which have no class in common
        reason = printable(str(error).partition("\n")[0] or type(error).__name__)
        hint = f"looked in {constants.HF_HUB_CACHE} (HF_HUB_CACHE); offline is {constants.HF_HUB_OFFLINE}"
        raise DalleError(
            f"{printable(name)} is neither a file here nor to be had from the hub: {reason}", hint
        ) from error
    if folder is None:
        known = ", ".join(pattern for patterns in WEIGHTS for pattern in patterns)
        raise DalleError(
            f"{printable(name)} holds no weights in a known form", f"looked for {known}"
        )
    return folder


def _fetch_weights(fetch: Callable[[list[str]], Path]) -> Path | None:
    """Fetch the configs and the first known form of weights that there is; None where there is none."""
    for patterns in WEIGHTS:
        folder = fetch([*CONFIGS, *patterns])
        if any(file for pattern in patterns for file in folder.glob(pattern)):
            return folder
    return None
