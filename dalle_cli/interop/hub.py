"""Public checkpoints by the name they have on the Hugging Face hub, where its library is installed.

HF_HUB_OFFLINE, HF_HOME and the like are the library's own and are honoured.
"""

import re
from pathlib import Path

from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CONFIGS = ("*config.json", "vocab.json", "merges.txt", "tokenizer.json")
WEIGHTS = (("model.safetensors", "model-*-of-*.safetensors"), ("open_clip_model.safetensors",))  # the first there is


def fetch_from_hub(name: str) -> Path:
    """Give the folder of a checkpoint, `owner/name`, from the local cache or, online, from the hub.

    Raises DalleError for what is no such name, is not to be had, or has no library to ask with.
    """
    if not HUB_NAME.fullmatch(name):
        raise DalleError(f"no such CLIP: {printable(name)}", "a `train-clip` run, a checkpoint's file or its folder")
    try:
        import huggingface_hub
    except ImportError as error:
        hint = "`pip install huggingface_hub` fetches public ones by name"
        raise DalleError(f"no such file or folder: {printable(name)}", hint) from error
    try:
        for patterns in WEIGHTS:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*CONFIGS, *patterns]))
            if any(folder.glob("*.safetensors")):
                break
        return folder
    except Exception as error:  # also what the library lets through of those below it, which have no class in common
        cache = huggingface_hub.constants.HF_HUB_CACHE
        reason = printable(str(error).partition("\n")[0] or type(error).__name__)
        hint = f"looked in {cache} (HF_HUB_CACHE); offline is {huggingface_hub.constants.HF_HUB_OFFLINE}"
        raise DalleError(
            f"{printable(name)} is neither a file here nor to be had from the hub: {reason}", hint
        ) from error
