"""The folder of `dalle train`, and the commands that carry its plan out."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dalle_cli.config import Recipe
from dalle_cli.data.sources import open_dataset
from dalle_cli.errors import DalleError
from dalle_cli.recipe import load_recipe
from dalle_cli.training.planning.chain import Chain, ChainFolder, chain_of, chosen_captions
from dalle_cli.training.planning.plan import Plan
from dalle_cli.training.planning.sizes import Choice
from dalle_cli.training.run_data import Portion, RunData

CAPTIONS = {"trained": ["a bird"], "held-out": []}


def plan_of(*kinds: str, copies: int = 2) -> Plan:
    recipes: dict[str, Recipe] = {kind: load_recipe(f"{kind}/tiny", []) for kind in kinds}
    return Plan(recipes, {}, (Choice("picture", "32 px", "small ones"),), copies)


def words(commands: list[list]) -> list[list[str]]:
    return [list(map(str, command)) for command in commands]


def test_commands_come_in_order_and_use_what_was_made_before(tmp_path: Path) -> None:
    files = ChainFolder(tmp_path)
    chain = chain_of(plan_of("dvae", "transformer", "clip"), CAPTIONS)
    commands = words(files.commands(chain, "birds", machine=["--gpus", "2"]))
    assert [" ".join(command[:2]).split(" /")[0] for command in commands] == [
        "train-dvae",
        "data encode",
        "train-transformer",
        "train-clip",
        "generate",
    ]
    assert commands[1][2] == "birds" and "--gpus" not in commands[1]
    assert commands[2][commands[2].index("--data") + 1] == str(files.tokens)
    assert commands[4][commands[4].index("--clip") + 1] == str(files.run("clip"))
    assert all("--gpus" in command for command in commands if command[0] != "data")


def test_without_clip_and_tokens_pictures_are_read_and_captions_rank(tmp_path: Path) -> None:
    chain = chain_of(plan_of("dvae", "transformer", copies=0), CAPTIONS)
    commands = words(
        ChainFolder(tmp_path).commands(chain, "birds", reading=["--caption-column", "text"])
    )
    assert [command[0] for command in commands] == ["train-dvae", "train-transformer", "generate"]
    assert commands[1][commands[1].index("--data") + 1] == "birds"
    assert all("text" in command for command in commands[:2])
    assert commands[2][commands[2].index("--rank") + 1] == "caption"


def test_likelihood_ranks_where_no_empty_captions_are_trained(tmp_path: Path) -> None:
    plan = plan_of("dvae", "transformer")
    learning = load_recipe("transformer/tiny", ["loss.caption_dropout=0.0"])
    chain = chain_of(replace(plan, recipes={**plan.recipes, "transformer": learning}), CAPTIONS)
    assert chain.rank == "perplexity"


def test_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    files, plan = ChainFolder(tmp_path), plan_of("dvae", "transformer")
    files.write(plan, CAPTIONS)
    assert files.read() == Chain(["dvae", "transformer"], 2, ["trained"], "caption")
    assert files.captions("trained").read_text() == "a bird\n"
    text = files.recipe("dvae").read_text()
    assert "# picture: 32 px; small ones" in text
    assert tomllib.loads(text)["kind"] == "dvae"
    assert load_recipe(str(files.recipe("transformer")), []) == plan.recipes["transformer"]


def test_damaged_plan_is_refused(tmp_path: Path) -> None:
    ChainFolder(tmp_path).plan.write_text(json.dumps({"kinds": 1}))
    with pytest.raises(DalleError, match=r"plan\.json is damaged"):
        ChainFolder(tmp_path).read()


def test_captions_of_each_group_are_its_own(tmp_path: Path) -> None:
    rows = [f'{{"image": "{n}.png", "caption": "caption {n}"}}' for n in range(40)]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    for n in range(40):
        (tmp_path / f"{n}.png").touch()
    source = open_dataset(str(tmp_path / "list.jsonl"), captions_required=True)
    portions = Portion(source, np.arange(30)), Portion(source, np.arange(30, 40))
    chosen = chosen_captions(RunData(*portions))
    assert len(chosen["trained"]) == len(chosen["held-out"]) == 10
    assert not set(chosen["trained"]) & set(chosen["held-out"])
