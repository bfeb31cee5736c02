"""What is found out about pictures and captions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalle_cli.data.sources import open_dataset
from dalle_cli.errors import DalleError
from dalle_cli.training.planning.situation import look_at_machine, survey


def write_pairs(folder: Path, picture: Callable[[int], Image.Image], captions: list[str]) -> str:
    folder.mkdir()
    for number, caption in enumerate(captions):
        picture(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return str(folder)


def noise(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_survey_counts_pictures_captions_and_words(tmp_path: Path) -> None:
    captions = ["a red bird", "A blue bird on a long branch", "a red bird"]
    found = survey(
        open_dataset(write_pairs(tmp_path / "d", noise, captions), captions_required=True)
    )
    assert (found.n_samples, found.side) == (3, 70)
    assert (found.n_captions, found.n_words) == (2, 7)
    assert found.caption_words == 7


def test_drawings_are_flat_and_noise_is_not(tmp_path: Path) -> None:
    def drawing(number: int) -> Image.Image:
        sheet = Image.new("RGB", (128, 128), "white")
        sheet.paste((200, 30, 30), (40, 40, 90, 90))
        return sheet

    flatness = [
        survey(
            open_dataset(write_pairs(tmp_path / name, picture, ["x", "y"]), captions_required=True)
        ).flatness
        for name, picture in (("drawings", drawing), ("noise", noise))
    ]
    assert flatness[0] > 0.8 and flatness[1] == 0


def test_pictures_that_cannot_be_read_are_no_reason_to_stop_unless_all_are(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", noise, ["a", "b"])
    (tmp_path / "d" / "0.png").write_bytes(b"no picture")
    assert survey(open_dataset(folder, captions_required=True)).side == 70
    (tmp_path / "d" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DalleError, match="no picture of"):
        survey(open_dataset(folder, captions_required=True))


def test_machine_is_measured_where_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = look_at_machine(torch.device("cpu"), "fp32", 2)
    assert machine.flops > 1e6 and machine.memory > 0 and machine.n_devices == 2
    assert not machine.is_gpu
