"""Which reader a public CLIP is given to, and what is refused; each reader is tested on its own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dalle_cli.errors import DalleError
from dalle_cli.interop.clip_checkpoints import read_public_clip
from dalle_cli.loading import load_clip
from dalle_cli.models.clip import Clip, Tower

HF_CONFIG = {"model_type": "clip"}


def test_folder_with_a_config_is_hugging_faces_and_every_other_is_open_clips(
    tmp_path: Path,
) -> None:
    tower = Tower(1, 64, 1, 70)
    save_file(
        Clip(12, 4, 5, 23, 9, "gelu", vision=tower, text=tower).state_dict(),
        tmp_path / "model.safetensors",
    )
    assert read_public_clip(tmp_path).table.image_size == 12
    (tmp_path / "config.json").write_text(json.dumps(HF_CONFIG))
    assert (
        read_public_clip(tmp_path).table.image_size == 224
    )  # what transformers takes where nothing is said


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "empty").mkdir()
    for path, message in (
        ("clip.pt", r"clip\.pt is not a checkpoint"),
        ("empty", "empty holds no CLIP"),
    ):
        with pytest.raises(DalleError, match=message):
            load_clip(tmp_path / path)


@pytest.mark.parametrize(
    "name", ["clip.pt", "hf/pytorch_model.bin", "open/open_clip_pytorch_model.bin"]
)
def test_payload_is_refused_by_file_and_global_and_never_runs(
    name: str, payload: object, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if "hf" in name:
        path.with_name("config.json").write_text(json.dumps(HF_CONFIG))
    torch.save({"weights": payload}, path)
    with pytest.raises(
        DalleError, match=rf"{path.name} is refused: it asks to run (posix|nt)\.system"
    ):
        load_clip(path if name == "clip.pt" else path.parent)
    assert not payload.marker.exists()


def test_name_of_a_file_found_in_a_folder_forges_no_line(tmp_path: Path) -> None:
    for content in (b"<!DOCTYPE html>", b"12345678{"):
        (tmp_path / "clip\nerror: all is well.pt").write_bytes(content)
        with pytest.raises(DalleError, match="clip\ufffderror: all is well") as caught:
            load_clip(tmp_path)
        assert "\n" not in caught.value.message
