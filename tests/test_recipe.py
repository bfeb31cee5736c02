"""Recipes.

Every shipped one loads, every mistake is told at once, and `--set` says what it means.
"""

import json
import shutil
from pathlib import Path

import pytest

from dalle_cli.errors import UsageError
from dalle_cli.recipe import (
    find_recipe,
    fitting_transformer,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)

SHIPPED = shipped_recipes()


def complaint(name: str, *overrides: str, kind: str | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_recipe(name, list(overrides), kind=kind)
    assert caught.value.exit_code == 2
    return caught.value


def problems(name: str, *overrides: str) -> list[str]:
    """The list of problems below the headline, which must count them."""
    headline, *lines = complaint(name, *overrides).message.splitlines()
    assert headline.startswith(
        f"{len(lines)} problem{'s' if len(lines) > 1 else ''} in recipe {name}:"
    )
    return [line.strip() for line in lines]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe of the user's own."""
    return Path(shutil.copy(SHIPPED["dvae/tiny"], tmp_path / "own.toml"))


def test_tiny_recipes_are_shipped() -> None:
    assert {"dvae/tiny", "transformer/tiny"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_trains_what_its_folder_says(name: str) -> None:
    recipe = load_recipe(name, [], kind=name.split("/")[0])
    assert recipe.kind == name.split("/")[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_survives_being_saved_in_a_run(name: str) -> None:
    recipe = load_recipe(name, [])
    assert parse_recipe(json.loads(json.dumps(recipe.model_dump())), "saved") == recipe
    assert parse_recipe(json.loads(recipe.model_dump_json()), "saved") == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_says_who_it_is_for_in_its_first_line(name: str) -> None:
    first = SHIPPED[name].read_text("utf-8").splitlines()[0]
    assert first.startswith("# ") and first.endswith(".")


def test_a_file_of_ones_own_loads(recipe_file: Path) -> None:
    assert load_recipe(str(recipe_file), []) == load_recipe("dvae/tiny", [])


def test_a_file_wins_over_a_shipped_recipe_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvae").mkdir()
    (tmp_path / "dvae" / "tiny").write_text("kind = 'dvae'")
    monkeypatch.chdir(tmp_path)
    assert find_recipe("dvae/tiny").read_text() == "kind = 'dvae'"


def test_three_mistakes_are_told_at_once_with_paths_and_likely_spellings() -> None:
    told = problems("dvae/tiny", "model.n_hiden=8", "training.steps=0", "optimizer.lr.start=fast")
    assert len(told) == 3
    assert "`model.n_hiden` is not a key; did you mean `model.n_hidden`?" in told
    assert any(
        line.startswith("`training.steps`: ") and line.endswith("greater than or equal to 1: 0")
        for line in told
    )
    assert any(line.startswith("`optimizer.lr.start`: ") and "'fast'" in line for line in told)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trainig", "training"),
        ("optimizer.warmup", "optimizer.warmup_steps"),
        ("loss.kl_weight.strat", "loss.kl_weight.start"),
        ("ema.decai", "ema.decay"),
        ("runtime.worker", "runtime.workers"),
    ],
)
def test_likely_spellings_are_found_at_every_depth(key: str, meant: str) -> None:
    assert problems("dvae/tiny", f"{key}=1") == [f"`{key}` is not a key; did you mean `{meant}`?"]


def test_a_key_like_no_other_is_told_without_a_guess() -> None:
    assert problems("dvae/tiny", "model.xyzzy=1") == ["`model.xyzzy` is not a key"]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("steps", "training.steps"),
        ("n_hidden", "model.n_hidden"),
        ("training.weight_decay", "optimizer.weight_decay"),
        ("data.start", "optimizer.lr.start"),
    ],
)
def test_a_key_in_the_wrong_table_is_told_with_the_right_one(key: str, meant: str) -> None:
    (told,) = problems("transformer/tiny" if key == "data.start" else "dvae/tiny", f"{key}=1")
    assert told == f"`{key}` is not a key; did you mean `{meant}`?"


def test_missing_keys_are_told_with_their_paths(recipe_file: Path) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("vocab_size = 64\n", "").replace("seed = 0\n", ""))
    assert problems(str(recipe_file)) == [
        "`model.vocab_size` is missing",
        "`training.seed` is missing",
    ]


def test_numbers_that_do_not_fit_together_are_both_told() -> None:
    (told,) = problems("dvae/tiny", "model.image_size=36")
    assert told.startswith("`model`: ") and "36" in told and "8" in told
    (told,) = problems("transformer/tiny", "model.n_heads=5")
    assert told.startswith("`model`: ") and "32" in told and "5" in told


@pytest.mark.parametrize("value", ["true", "'low'", "[]"])
def test_a_wrong_value_of_an_either_or_key_is_one_problem_at_its_path(value: str) -> None:
    (told,) = problems("dvae/tiny", f"loss.min_log_scale={value}")
    assert told.startswith("`loss.min_log_scale`: ")


@pytest.mark.parametrize("override", ["model=3", "model=[]", "optimizer.lr=1e-3"])
def test_a_value_where_a_table_belongs_is_one_problem_at_its_path(override: str) -> None:
    (told,) = problems("dvae/tiny", override)
    assert told.startswith(f"`{override.split('=')[0]}`: ")


@pytest.mark.parametrize(
    ("override", "table", "key", "expected"),
    [
        ("training.steps=500", "training", "steps", 500),
        ("training.steps = 1_000", "training", "steps", 1000),
        ("optimizer.eps=1e-6", "optimizer", "eps", 1e-6),
        ("optimizer.betas=[0.5, 0.9]", "optimizer", "betas", [0.5, 0.9]),
        ("loss.min_log_scale=false", "loss", "min_log_scale", False),
        ("runtime.precision=bf16", "runtime", "precision", "bf16"),
        ('runtime.precision="bf16"', "runtime", "precision", "bf16"),
        ("runtime.precision= bf16 ", "runtime", "precision", "bf16"),
    ],
)
def test_set_reads_values_as_toml_or_else_as_text(
    override: str, table: str, key: str, expected: object
) -> None:
    value = getattr(getattr(load_recipe("dvae/tiny", [override]), table), key)
    assert value == expected and type(value) is type(expected)


def test_set_reaches_any_depth_and_takes_whole_tables() -> None:
    recipe = load_recipe(
        "dvae/tiny", ["loss.kl_weight.end=3.0", "optimizer.lr={start=1.0, end=0.5, steps=7}"]
    )
    assert (recipe.loss.kl_weight.start, recipe.loss.kl_weight.end) == (0.0, 3.0)
    expected = {"start": 1.0, "end": 0.5, "share": None, "steps": 7}
    assert recipe.optimizer.lr.model_dump() == expected


def test_the_last_of_two_settings_wins_and_nothing_else_changes() -> None:
    recipe = load_recipe("dvae/tiny", ["training.steps=5", "training.steps=6"])
    plain = load_recipe("dvae/tiny", [])
    assert recipe.training.steps == 6
    assert recipe.model_copy(update={"training": plain.training}) == plain
    assert recipe.training.model_copy(update={"steps": plain.training.steps}) == plain.training


def test_set_adds_a_table_that_the_recipe_leaves_out(recipe_file: Path) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(
        text[: text.index("[runtime]")].replace("[ema]\ndecay = 0.999\nevery = 1\n", "")
    )
    assert load_recipe(str(recipe_file), []).ema is None
    recipe = load_recipe(str(recipe_file), ["ema.decay=0.5", "ema.every=2", "runtime.workers=7"])
    assert (recipe.ema.decay, recipe.ema.every, recipe.runtime.workers) == (0.5, 2, 7)


@pytest.mark.parametrize(
    "override", ["training.steps", "=5", ".steps=5", "training.=5", "", "training..steps=5"]
)
def test_set_of_another_form_is_refused_with_an_example(override: str) -> None:
    error = complaint("dvae/tiny", override)
    assert "not of the form section.key=value" in error.message and "--set" in error.hint


def test_set_into_a_value_is_refused() -> None:
    assert (
        "`steps` in training.steps.more is a value, not a table"
        in complaint("dvae/tiny", "training.steps.more=1").message
    )


def test_a_recipe_of_another_kind_is_told_with_the_right_command() -> None:
    error = complaint("dvae/tiny", kind="transformer")
    assert "a recipe for dvae, not for transformer" in error.message
    assert "dalle train-dvae dvae/tiny" in error.hint


@pytest.mark.parametrize("kind", ['"gan"', "3", '["dvae"]', "{dvae = 1}"])
def test_a_kind_that_nothing_trains_is_told(kind: str) -> None:
    for wanted in (None, "dvae"):
        assert "`kind` must be" in complaint("dvae/tiny", f"kind={kind}", kind=wanted).message


def test_a_missing_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert "missing" in complaint(str(tmp_path / "empty.toml")).message


@pytest.mark.parametrize(
    ("name", "meant"), [("dvae/tyni", "dvae/tiny"), ("transfomer/tiny", "transformer/tiny")]
)
def test_an_unknown_recipe_is_told_with_the_likely_one(name: str, meant: str) -> None:
    error = complaint(name)
    assert name in error.message and f"`{meant}`" in error.hint


@pytest.mark.parametrize(
    ("name", "kind", "meant"),
    [
        ("emoji", "transformer", "transformer/emoji"),
        ("demo", "clip", "clip/demo"),
        ("tinny", "dvae", "dvae/tiny"),
        ("transformer/tyni", "dvae", "transformer/tiny"),
        ("openai", "dvae", "dvae/openai"),
    ],
)
def test_recipes_of_the_commands_own_kind_are_suggested_first(
    name: str, kind: str, meant: str
) -> None:
    assert f"`{meant}`" in complaint(name, kind=kind).hint


@pytest.mark.parametrize("name", ["something/else", "", ".", "dvae"])
def test_an_unknown_recipe_like_no_other_is_told_where_to_look(name: str) -> None:
    error = complaint(name)
    assert "no such recipe" in error.message and error.hint


@pytest.mark.parametrize(
    "content",
    [b"kind = ", b"kind = 'dvae'\nkind = 'dvae'\n", b"kind = '\xff'", b"kind = " + 5000 * b"9"],
    ids=lambda content: content[:20].decode("latin-1"),
)
def test_a_file_that_is_no_toml_is_told_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.toml").write_bytes(content)
    error = complaint(str(tmp_path / "broken.toml"))
    assert "broken.toml is not valid TOML" in error.message


def test_clip_alone_does_not_train_in_fp16() -> None:
    with pytest.raises(UsageError, match=r"`runtime`: CLIP does not train in fp16.*use bf16"):
        load_recipe("clip/tiny", ["runtime.precision=fp16"])
    for kind in ("dvae", "transformer"):
        assert load_recipe(f"{kind}/tiny", ["runtime.precision=fp16"]).runtime.precision == "fp16"


@pytest.mark.parametrize(
    ("grid_size", "vocab_size", "like", "name"),
    [
        (8, 192, "dvae/demo", "transformer/demo"),
        (32, 8192, "dvae/paper", "transformer/paper"),
        (32, 8192, "dvae/openai", "transformer/base"),
        (32, 8192, "mine.toml", "transformer/base"),
        (5, 77, "dvae/demo", "RECIPE"),
    ],
)
def test_fitting_transformer_reads_the_tokens_and_has_the_name_of_the_dvae(
    grid_size: int, vocab_size: int, like: str, name: str
) -> None:
    assert fitting_transformer(grid_size, vocab_size, like=like) == name


PUBLISHED = {  # Ramesh et al. 2021, appendices A, B and E
    "dvae/paper": {
        "model.image_size": 256, "model.vocab_size": 8192, "model.n_hidden": 256,
        "model.n_groups": 4, "model.blocks_per_group": 2,
        "loss.kl_weight": {"start": 0.0, "end": 6.6, "steps": 5_000},
        "loss.temperature": {"start": 1.0, "end": 1 / 16, "steps": 150_000},
        "optimizer.lr": {"start": 1e-4, "end": 1.25e-6, "steps": 1_200_000},
        "optimizer.betas": [0.9, 0.999], "optimizer.eps": 1e-8, "optimizer.weight_decay": 1e-4,
        "ema.decay": 0.999, "training.steps": 3_000_000, "training.global_batch_size": 512,
        "runtime.precision": "fp16",
    },
    "transformer/paper": {
        "model.text_len": 256, "model.grid_size": 32, "model.image_vocab_size": 8192,
        "model.n_layers": 64, "model.d_model": 3968, "model.n_heads": 62, "model.kernel_size": 11,
        "tokenizer.vocab_size": 16_384, "tokenizer.dropout": 0.1, "loss.text_weight": 1 / 8,
        "optimizer.lr": {"start": 4.5e-4, "end": 4.5e-4}, "optimizer.warmup_steps": 5_000,
        "optimizer.betas": [0.9, 0.96], "optimizer.eps": 1e-8, "optimizer.weight_decay": 0.045,
        "optimizer.clip_norm": 4.0, "optimizer.clip_second_moment": 5.0,
        "optimizer.moments": "paper",
        "optimizer.plateau.halvings": 5, "ema.decay": 0.99, "ema.every": 25, "powersgd.rank": 896,
        "powersgd.buffers": "paper",
        "training.steps": 430_000, "training.global_batch_size": 1024, "runtime.precision": "fp16",
        "runtime.shard_group": "machine",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_the_paper_have_its_printed_values(name: str) -> None:
    recipe = load_recipe(name, []).model_dump()
    for key, value in PUBLISHED[name].items():
        found = recipe
        for part in key.split("."):
            found = found[part]
        if isinstance(value, dict):
            found = {part: found[part] for part in value}
        assert found == value, key
