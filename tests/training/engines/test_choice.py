"""Which engine a run gets: for every wish and number of processes, a name or one clear refusal."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from dalle_cli.config import Recipe
from dalle_cli.errors import UsageError
from dalle_cli.loading import build_dvae, build_transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.training.engines.choice import EngineChoice, choose_engine, make_engine
from dalle_cli.training.engines.replica import ReplicaEngine

CPU = torch.device("cpu")
LOCAL_AMONG_SEVERAL = "`runtime.engine` is local, for a single process, but 2 were started"
DDP_ALONE = "`runtime.engine` is ddp, for several processes, but only one was started"
ZERO_ALONE = "`runtime.zero_stage` {} is for several processes, but only one was started"

Wish = tuple[str, int, str, int]  # engine, zero_stage, offload, number of processes

REPLICAS: dict[Wish, tuple[str | None, str]] = {  # the engine's name, or nothing and the message
    ("auto", 0, "false", 1): ("local", ""),
    ("auto", 0, "false", 2): ("ddp", ""),
    ("local", 0, "false", 1): ("local", ""),
    ("local", 0, "false", 2): (None, LOCAL_AMONG_SEVERAL),
    ("ddp", 0, "false", 1): (None, DDP_ALONE),
    ("ddp", 0, "false", 2): ("ddp", ""),
}
ZERO: dict[Wish, tuple[str | None, str]] = {
    **{(engine, stage, "false", 1): (None, ZERO_ALONE.format(stage))
       for engine in ("auto", "deepspeed") for stage in (1, 2, 3)},
    **{(engine, stage, "false", 2): ("deepspeed", "")
       for engine in ("auto", "deepspeed") for stage in (1, 2, 3)},
    **{(engine, stage, "optimizer", n): ("deepspeed", "")
       for engine in ("auto", "deepspeed") for stage in (1, 2, 3) for n in (1, 2)},
    **{(engine, 3, "parameters", n): ("deepspeed", "")
       for engine in ("auto", "deepspeed") for n in (1, 2)},
}  # fmt: skip
CASES = REPLICAS | ZERO


def recipe(*overrides: str, name: str = "transformer/tiny") -> Recipe:
    return load_recipe(name, list(overrides))


def wished(engine: str, stage: int, offload: str) -> Recipe:
    return recipe(
        f"runtime.engine={engine}", f"runtime.zero_stage={stage}", f"runtime.offload={offload}"
    )


def is_recipe(engine: str, stage: int, offload: str) -> bool:
    try:
        wished(engine, stage, offload)
    except UsageError:
        return False
    return True


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def silent_other() -> Iterator[None]:
    """Make this process one of two, the other of which adds nothing to any sum."""
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


def test_cases_are_all_that_recipes_can_wish_for() -> None:
    engines, offloads = ("auto", "local", "ddp", "deepspeed"), ("false", "optimizer", "parameters")
    wishes = itertools.product(engines, range(4), offloads, (1, 2))
    assert set(CASES) == {(*wish, n) for *wish, n in wishes if is_recipe(*wish)}


@pytest.mark.parametrize("wish", [wish for wish, (name, _) in CASES.items() if name], ids=str)
def test_engine_follows_from_the_recipe_and_the_number_of_processes(wish: Wish) -> None:
    *wanted, n_processes = wish
    choice = choose_engine(wished(*wanted), n_processes, None)
    assert (choice.name, choice.n_processes) == (CASES[wish][0], n_processes)
    stage = choice.zero["zero_optimization"]["stage"] if choice.zero else 0
    assert stage == wish[1]


@pytest.mark.parametrize("wish", [wish for wish, (name, _) in CASES.items() if not name], ids=str)
def test_engine_that_does_not_go_with_the_number_of_processes_is_refused(wish: Wish) -> None:
    *wanted, n_processes = wish
    with pytest.raises(UsageError) as caught:
        choose_engine(wished(*wanted), n_processes, None)
    assert str(caught.value) == CASES[wish][1]
    assert ("--gpus N" if n_processes == 1 else "runtime.engine=auto") in caught.value.hint


@pytest.mark.parametrize("name", ["dvae/tiny", "clip/tiny"])
@pytest.mark.parametrize(("n_processes", "engine"), [(1, "local"), (2, "ddp")])
def test_small_models_train_as_whole_replicas(name: str, n_processes: int, engine: str) -> None:
    assert choose_engine(recipe(name=name), n_processes, None) == EngineChoice(engine, n_processes)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_deepspeed_file_without_a_stage_is_refused(n_processes: int, tmp_path: Path) -> None:
    path = written(tmp_path / "ds.json", {"gradient_clipping": "auto"})
    with pytest.raises(
        UsageError, match=r"--deepspeed .*ds\.json, but `runtime\.zero_stage` is 0"
    ) as caught:
        choose_engine(recipe(), n_processes, path)
    assert "--set runtime.zero_stage=1" in caught.value.hint


def test_deepspeed_file_tunes_the_configuration(tmp_path: Path) -> None:
    path = written(
        tmp_path / "ds.json", {"zero_optimization": {"stage": "auto", "reduce_bucket_size": 77}}
    )
    plain, tuned = (
        choose_engine(recipe("runtime.zero_stage=2"), 2, file).zero for file in (None, path)
    )
    assert tuned["zero_optimization"] == plain["zero_optimization"] | {"reduce_bucket_size": 77}


def test_deepspeed_file_that_contradicts_the_recipe_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "ds.json", {"train_batch_size": 64})
    with pytest.raises(UsageError, match="`train_batch_size` is 64, the recipe says 4"):
        choose_engine(recipe("runtime.zero_stage=2"), 2, path)


@pytest.mark.parametrize(
    "changes", [[], ["tokenizer.vocab_size=300", "model.image_vocab_size=400"]]
)
def test_bucket_holds_the_layer_with_most_parameters(changes: list[str]) -> None:
    own = recipe("runtime.zero_stage=1", *changes)
    sizes: Counter[str] = Counter()
    for name, parameter in build_transformer(
        own.model, own.tokenizer.vocab_size
    ).named_parameters():
        sizes[name.rpartition(".")[0]] += parameter.numel()
    zero = choose_engine(own, 2, None).zero["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == max(sizes.values())


@pytest.mark.parametrize(
    ("overrides", "n_processes", "told"),
    [
        ([], 1, "one process"),
        ([], 4, "4 processes with whole replicas (ddp)"),
        (["runtime.shard_group=2"], 4, "4 processes in 2 groups of 2, sharded inside (fsdp)"),
        (["runtime.shard_group=4"], 4, "4 processes in one group of 4, sharded inside (fsdp)"),
        (["runtime.zero_stage=3"], 2, "2 processes with ZeRO 3 (deepspeed)"),
        (
            ["runtime.zero_stage=2", "runtime.offload=optimizer"],
            1,
            "one process with ZeRO 2 (deepspeed)",
        ),
    ],
)  # fmt: skip
def test_engine_is_told_in_words(overrides: list[str], n_processes: int, told: str) -> None:
    assert str(choose_engine(recipe(*overrides), n_processes, None)) == told


@pytest.mark.parametrize(
    ("size", "powersgd", "is_compressed"),
    [(1, [], False), (2, [], False), (1, [4], False), (2, [0], False), (2, [4], True)],
)
@pytest.mark.usefixtures("silent_other")
def test_gradients_are_compressed_between_several_processes_at_a_rank(
    size: int, powersgd: list[int], is_compressed: bool
) -> None:
    own = recipe(*(f"powersgd.rank={rank}" for rank in powersgd))
    model = build_transformer(own.model, 300)
    engine = make_engine(
        choose_engine(own, size, None),
        own,
        model=model,
        world=World(Ranks(0, size, 0), CPU),
        powersgd=own.powersgd,
    )
    assert isinstance(engine, ReplicaEngine)
    assert ("compression_errors" in engine.state().tensors) == is_compressed


@pytest.mark.usefixtures("silent_other")
def test_errors_of_compression_are_the_matrices_that_shrink() -> None:
    own = recipe("powersgd.rank=4")
    model = build_transformer(own.model, 300)
    engine = make_engine(
        choose_engine(own, 2, None),
        own,
        model=model,
        world=World(Ranks(0, 2, 0), CPU),
        powersgd=own.powersgd,
    )
    matrices = {id(matrix) for matrix in model.matrices()}
    shapes = {name: p.shape for name, p in model.named_parameters() if id(p) in matrices}
    shrinking = {name: shape for name, shape in shapes.items() if 4 * sum(shape) < shape.numel()}
    errors = engine.state().tensors["compression_errors"]
    assert {name: error.shape for name, error in errors.items()} == shrinking != {}


def test_dvae_in_several_processes_is_not_compressed() -> None:
    own = recipe(name="dvae/tiny")
    engine = make_engine(
        choose_engine(own, 2, None),
        own,
        model=build_dvae(own.model),
        world=World(Ranks(0, 2, 0), CPU),
    )
    assert isinstance(engine, ReplicaEngine) and "compression_errors" not in engine.state().tensors


@pytest.mark.parametrize(("machine_size", "group_size"), [(None, 8), (4, 4), (1, 1)])
def test_group_is_a_machine_where_the_recipe_says_so(
    machine_size: int | None, group_size: int
) -> None:
    own = recipe("runtime.shard_group=machine")
    choice = choose_engine(own, 8, None, machine_size=machine_size)
    assert (choice.name, choice.group_size) == ("fsdp", group_size)


@pytest.mark.parametrize(
    ("overrides", "n_processes", "told"),
    [
        (["runtime.shard_group=2"], 1, "only one was started"),
        (["runtime.shard_group=3"], 4, "4 processes can't be divided into groups of 3"),
        (
            ["runtime.shard_group=2", "powersgd.rank=7"],
            4,
            "`powersgd.rank` 7 can't be divided evenly among the 2 processes of a group",
        ),
        (
            ["runtime.shard_group=3", "powersgd.rank=6"],
            6,
            "`model.d_model` 32 can't be divided evenly among the 3 processes of a group",
        ),
    ],
)
def test_groups_that_can_not_be_are_refused(
    overrides: list[str], n_processes: int, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        choose_engine(recipe(*overrides), n_processes, None)
    assert caught.value.hint


def test_shares_need_not_be_even_where_nothing_is_compressed() -> None:
    assert choose_engine(recipe("runtime.shard_group=3"), 6, None).group_size == 3
