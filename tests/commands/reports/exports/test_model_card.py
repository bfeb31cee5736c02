"""Model cards: a front matter for the hub, the exact command, and figures as they were measured."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.commands.reports.exports.exported_run import ExportedRun
from dalle_cli.commands.reports.exports.model_card import model_card
from dalle_cli.config import DVAEModelTable

DVAE = DVAEModelTable(
    image_size=32, vocab_size=64, n_hidden=8, n_groups=4, blocks_per_group=1, n_init=8
)
UNKNOWN = ExportedRun(None, None, {}, None)


def test_card_of_an_export_states_sizes_data_figures_and_limits(
    transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    out = tmp_path / "small birds"
    assert dalle("export", transformer_run, "--out", out).code == 0
    card = (out / "README.md").read_text("utf-8")
    front = card.split("---\n")[1]
    assert "pipeline_tag: text-to-image\n" in front and "- dall-e\n" in front
    assert not re.search("^license:", front, re.MULTILINE) and "# license: " in front
    for said in (
        "# small birds\n",
        "| transformer | 77,184 parameters",
        "| discrete VAE | 45,290 parameters; pictures of 32x32 pixels",
        "| steps | 11 |",
        "| samples | 23, those held out included |",
        "after 11 steps",
        "| nats per image token | ",
        "Captions are cut after 15 tokens",
        "`--guidance 2`",
    ):
        assert said in card


def test_command_in_the_card_works_next_to_the_export(
    transformer_run: Path, tmp_path: Path, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dalle("export", transformer_run, "--out", "it's birds").code == 0
    [command] = re.findall("^dalle (.*)$", Path("it's birds/README.md").read_text(), re.MULTILINE)
    assert dalle(*shlex.split(command), "--precision", "fp32").code == 0


def test_card_states_what_the_author_says(toy: Path) -> None:
    card = (toy / "README.md").read_text("utf-8")
    assert "\nlicense: mit\n" in card.split("---\n")[1] and "# license" not in card
    for said in (
        "# Toy scenes\n\ntoy scenes of one object\n",
        "| data | 23 rendered scenes |",
        "| time | 11 steps, in a second |",
        "- weights: MIT\n- training data: none needed\n",
        "| pictures that show their caption | 0 of 23 |",
        "- It has hardly been trained.\n",
        "| CLIP | ",
        "| weights | in fp16, gains and biases in fp32; loaded as fp32 |",
    ):
        assert said in card


def test_commands_in_the_card_of_an_export_with_a_clip_work_next_to_it(
    toy: Path, dalle: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy, tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    [plain, ranked] = re.findall("^dalle (.*)$", Path("toy/README.md").read_text(), re.MULTILINE)
    assert "--clip toy --best 8" in ranked
    for command in (plain, ranked):
        assert dalle(*shlex.split(command), "--precision", "fp32").code == 0


def test_what_is_not_known_is_left_out() -> None:
    card = model_card("dvae", DVAE, UNKNOWN)
    assert "Held-out" not in card and "| steps |" not in card and "guidance" not in card
    assert "| recipe | not recorded |" in card and "dalle reconstruct dvae" in card


def test_hostile_name_stays_one_line_of_printable_text() -> None:
    card = model_card("a\n# b \x1b[31m", DVAE, UNKNOWN)
    assert "# a\ufffd# b \ufffd[31m\n" in card and "\x1b" not in card
