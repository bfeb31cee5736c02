"""The command that generates a picture again, from its record in a manifest."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dalle_cli.generation.image_prompt import ImagePrompt
from dalle_cli.generation.sampling import choose_sampling
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.storage.model_about import read_sampling_advice
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.shipped import shipped_name


def generation_command(
    record: Mapping[str, Any], *, run: Path, image: ImagePrompt | None, prior: str | None = None
) -> list[str]:
    """Return the words of a command that generates a record's picture, alone and unranked.

    prior  what guessed the embedding of a decoder's picture, as it was named

    Apart from the last bits of its arithmetic, which depend on the batch, it is the same picture.
    """
    words = ["dalle", "generate", shipped_name(run) or str(run), "-n", "1"]
    words += ["--first", str(record["number"]), "--seed", str(record["seed"])]
    if prior is not None:
        words += ["--prior", prior]

    for name, usual in _usual_settings(record, run).items():
        if name in record and record[name] != usual:
            words += [f"--{name.replace('_', '-')}", str(record[name])]
    if "checkpoint" in record:
        words += ["--checkpoint", str(record["checkpoint"])]
    if image is not None:
        words += _image_words(image)
    # after `--`, a caption that begins with a dash is no option
    return [*words, *(["--"] if record["caption"].startswith("-") else []), record["caption"]]


def _usual_settings(record: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Return the settings that hold where no option says otherwise."""
    advice = read_sampling_advice(RunDir(run))
    if "sampler" in record:  # of a decoder
        return asdict(UnclipSettings(guidance=advice.guidance))
    return asdict(choose_sampling(advice))


def _image_words(image: ImagePrompt) -> list[str]:
    words = ["--image", str(image.file)]
    if image.keep_rows is not None:
        words += ["--keep-rows", str(image.keep_rows)]
    if image.redraw is not None:
        words += ["--redraw", ",".join(map(str, image.redraw))]
    return words
