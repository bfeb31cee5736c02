"""Run by tests: four processes, in which engines train a tiny transformer, case by case.

Arguments: the names of cases. Prints what each process found, by case. The processes are forked, so
that they import everything once.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from dalle_cli.errors import UsageError
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import World, single_process
from dalle_cli.runtime.processes.launcher import free_port
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.engines import fsdp
from dalle_cli.training.engines.choice import choose_engine, make_engine
from dalle_cli.training.engines.coded_sums import sum_numbers
from dalle_cli.training.engines.engine import Engine, EngineState
from dalle_cli.training.optimization.float_formats import FLOAT_1_6_9
from dalle_cli.training.tasks.model_setup import set_up_transformer

N_PROCESSES, N_UPDATES, BATCH, WORDS = 4, 20, 8, 300
CPU = torch.device("cpu")
ONE, DDP, TWO_BY_TWO, ONE_BY_FOUR = None, 0, 2, 4  # sizes of groups, or what takes their place
FULL_RANK = ["powersgd.rank=4096"]
RANK_8 = ["powersgd.rank=8"]
RANK_8_IN_16_BITS = [*RANK_8, "powersgd.buffers=paper"]


def make(world: World, group: int | None, *changes: str, precision: str = "fp32") -> Engine:
    """Make an engine in all processes; ONE: alone in each of them."""
    own = single_process(CPU) if group is ONE else world
    given = [f"training.global_batch_size={BATCH}", f"runtime.shard_group={group or 0}", *changes]
    recipe = fix_schedules(load_recipe("transformer/tiny", given, kind="transformer"))
    model, scales = set_up_transformer(recipe, WORDS, precision=precision, world=own)
    choice = choose_engine(recipe, own.size, None)
    return make_engine(
        choice, recipe, model=model, world=own, scales=scales, powersgd=recipe.powersgd
    )


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    """Sample a batch of text and image tokens that have something to be learnt."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(WORDS // 8, (BATCH, 16), generator=generator)
    text[:, 12:] = -1
    return text, (text[:, :1] + torch.randint(8, (BATCH, 16), generator=generator)) % 64


def loss_of(engine: Engine, text: Tensor, image: Tensor) -> Tensor:
    text_loss, image_loss, _ = engine.module(text, image)
    return (text_loss + image_loss) / (BATCH * 16)


def train(engine: Engine, updates: Iterable[int] = range(N_UPDATES)) -> list[float]:
    """Train, each process on its share of every batch; return the batches' losses."""
    world, losses = engine.world, []
    for update in updates:
        share = world.share(BATCH)
        for sample in (share[: len(share) // 2], share[len(share) // 2 :]):  # micro-batches
            if len(sample):
                text, image = (t[sample.start : sample.stop] for t in tokens(update))
                loss = loss_of(engine, text, image)
                engine.backward(loss)
                losses.append((update, float(loss.detach())))
        engine.update()
    totals = torch.zeros(N_UPDATES, dtype=torch.float64)
    for update, loss in losses:
        totals[update] += loss
    world.all_reduce(totals)
    return totals[list(updates)].tolist()


def validated(engine: Engine) -> float:
    with engine.averaged(), torch.no_grad():
        return float(loss_of(engine, *tokens(1000)))


def copied(engine: Engine) -> EngineState:
    """Copy an engine's state, as a checkpoint does."""
    state = engine.state()
    tensors = {
        group: {name: tensor.clone() for name, tensor in tensors.items()}
        for group, tensors in state.tensors.items()
    }
    return EngineState(tensors, dict(state.numbers))


def difference(left: EngineState, right: EngineState) -> float:
    """Return the largest difference of two states; infinite where they have other tensors."""
    if left.tensors.keys() != right.tensors.keys() or left.numbers != right.numbers:
        return math.inf
    return max(
        float((tensor.double() - right.tensors[group][name].double()).abs().max())
        for group, tensors in left.tensors.items()
        for name, tensor in tensors.items()
    )


def losses_of(group: int | None, *changes: str, precision: str = "fp32") -> Callable:
    def case(world: World) -> Any:
        engine = make(world, group, *changes, precision=precision)
        found: dict[str, Any] = {"losses": train(engine), "valid": validated(engine)}
        if engine.has_scales:
            found["scales"] = engine.state().tensors["grad_scales"]["scales"].tolist()
        with engine.whole_model() as whole:
            if whole is not None:
                with torch.no_grad():
                    text_loss, image_loss, _ = whole(*tokens(1000))
                found["whole"] = float(text_loss + image_loss) / (BATCH * 16)
        return found

    return case


@contextmanager
def counted(group: Any) -> Iterator[list[int]]:
    """Count the bytes that this process gives to sums over a group, of numbers or of codes."""
    sent: list[int] = []
    add, exchange = torch.distributed.all_reduce, torch.distributed.all_to_all_single

    def all_reduce(tensor: Tensor, *args: Any, **named: Any) -> Any:
        if named.get("group") is group:
            sent.append(tensor.nbytes)
        return add(tensor, *args, **named)

    def all_to_all_single(received: Tensor, tensor: Tensor, **named: Any) -> Any:
        if named.get("group") is group:
            sent.append(tensor.nbytes)
        return exchange(received, tensor, **named)

    torch.distributed.all_reduce = all_reduce
    torch.distributed.all_to_all_single = all_to_all_single
    try:
        yield sent
    finally:
        torch.distributed.all_reduce = add
        torch.distributed.all_to_all_single = exchange


def bytes_between(world: World) -> dict[str, int]:
    """Count what an update sends between groups, compressed and not."""
    found = {}
    cases = {"rank 0": [], "rank 8": RANK_8, "rank 8 in 16 bits": RANK_8_IN_16_BITS}
    for case, changes in cases.items():
        engine = make(world, TWO_BY_TWO, *changes)
        assert isinstance(engine, fsdp.FsdpEngine)
        with counted(engine._between.group) as sent:
            train(engine, range(1))
        found[case] = sum(sent)
    return found


def sums_of_codes(world: World) -> list[bool]:
    """Return whether codes are summed as the numbers they stand for, by all alike.

    For counts of numbers that the processes can divide evenly and that they can't.
    """
    found = []
    for n_numbers in (1, 3, 4, 1001):
        generator = torch.Generator().manual_seed(world.rank)
        numbers = torch.randn(n_numbers, generator=generator)
        numbers *= 10.0 ** torch.randint(-8, 2, (n_numbers,), generator=generator)
        numbers[0] = 15.0  # four of which are more than the largest number
        codes = FLOAT_1_6_9.encode(numbers)
        of_all = [FLOAT_1_6_9.decode(c) for c in world.all_gather([codes])]
        expected = FLOAT_1_6_9.encode(of_all[0] + of_all[1] + of_all[2] + of_all[3])
        sum_numbers(codes, world)
        assert FLOAT_1_6_9.decode(codes[:1]).item() == FLOAT_1_6_9.largest
        found.append(codes.equal(expected))
    return found


def error_feedback(world: World) -> dict[str, float]:
    """Return how far what was sent and what is kept are from the sums of all gradients.

    And the largest share of a matrix that is kept: without any, nothing would be tested.
    """
    engine = make(world, TWO_BY_TWO, *RANK_8)
    assert isinstance(engine, fsdp.FsdpEngine) and engine._compression is not None
    names = list(engine._compression.starts)
    true, sent = ({name: torch.zeros(()) for name in names} for _ in range(2))
    exchange = engine._sum_between_groups

    def noted() -> None:
        for name in names:
            true[name] = true[name] + engine._shards[name].grad
        exchange()
        for name in names:
            sent[name] = sent[name] + engine._shards[name].grad

    engine._sum_between_groups = noted  # type: ignore[method-assign]
    train(engine)
    worst, most_kept = 0.0, 0.0
    for name in names:
        kept = engine._compression.errors[name].clone()
        for tensor in (true[name], kept):
            engine._between.all_reduce(tensor)
        missing = (sent[name] + kept - true[name]).norm() / true[name].norm()
        worst = max(worst, float(missing))
        most_kept = max(most_kept, float(kept.norm() / true[name].norm()))
    return {"missing": worst, "kept": most_kept}


def resumed(before: int | None, after: int | None, *changes: str) -> Callable:
    """Train ten updates in one layout, ten in another; and twenty in the first one."""

    def case(world: World) -> dict[str, Any]:
        first, second = make(world, before, *changes), make(world, after, *changes)
        train(first, range(10))
        second.restore(copied(first))
        losses = [train(engine, range(10, N_UPDATES)) for engine in (first, second)]
        return {"losses": losses, "difference": difference(copied(first), copied(second))}

    return case


def overflowing(world: World) -> dict[str, Any]:
    """Let one process have a gradient that is not finite, once: all skip that update."""
    found = []
    for has_overflow in (True, False):
        engine = make(world, TWO_BY_TWO, *RANK_8)
        train(engine, range(2))
        if has_overflow:
            engine.backward(loss_of(engine, *tokens(5)) * (math.inf if world.rank == 3 else 1))
            assert not engine.update()
        else:
            engine.discard()
        train(engine, range(2, 4))
        found.append(copied(engine))
    return {"difference": difference(*found)}


def machine_sizes(world: World) -> list[int | str]:
    """Return the processes of a machine as told by their ranks on it, or why they are none."""
    found: list[int | str] = []
    for local_ranks in ([0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 2, 0]):
        ranks = Ranks(world.rank, world.size, local_ranks[world.rank])
        try:
            found.append(World(ranks, CPU).machine_size())
        except UsageError as error:
            found.append(error.message)
    return found


def host_messages(world: World) -> list[Any]:
    """Return what messages between the hosts come to in a world whose GPUs nobody has.

    A tensor on a GPU would be an error here, and so would a message in the group of the GPUs.
    """
    group, host_group = (torch.distributed.new_group(backend="gloo") for _ in range(2))
    of_gpus = World(world.ranks, torch.device("cuda"), group, host_group)
    torch.distributed.destroy_process_group(group)
    of_gpus.barrier()
    return [
        of_gpus.all_reduce_count(10 + world.rank),
        of_gpus.all_gather([]),
        of_gpus.all_gather(["x"] * world.rank),
        of_gpus.gather([world.rank]),
        of_gpus.broadcast({"step": 7} if world.is_main else None),
        of_gpus.machine_size(),
    ]


CASES: dict[str, Callable[[World], Any]] = {
    "one": losses_of(ONE),
    "2x2": losses_of(TWO_BY_TWO),
    "2x2 full rank": losses_of(TWO_BY_TWO, *FULL_RANK),
    "2x2 rank 8": losses_of(TWO_BY_TWO, *RANK_8),
    "2x2 rank 8 in 16 bits": losses_of(TWO_BY_TWO, *RANK_8_IN_16_BITS),
    "ddp rank 8": losses_of(DDP, *RANK_8),
    "ddp rank 8 in 16 bits": losses_of(DDP, *RANK_8_IN_16_BITS),
    "1x4": losses_of(ONE_BY_FOUR),
    "4x1": losses_of(1),
    "one bf16": losses_of(ONE, precision="bf16"),
    "2x2 bf16": losses_of(TWO_BY_TWO, precision="bf16"),
    "ddp fp16": losses_of(DDP, precision="fp16"),
    "2x2 fp16": losses_of(TWO_BY_TWO, precision="fp16"),
    "one 16 bits": losses_of(ONE, "optimizer.moments=paper"),
    "2x2 16 bits": losses_of(TWO_BY_TWO, "optimizer.moments=paper"),
    "bytes": bytes_between,
    "sums of codes": sums_of_codes,
    "error feedback": error_feedback,
    "overflow": overflowing,
    "machines": machine_sizes,
    "host messages": host_messages,
    "resumed": resumed(TWO_BY_TWO, TWO_BY_TWO, *RANK_8_IN_16_BITS, "optimizer.moments=paper"),
    "one to 2x2": resumed(ONE, TWO_BY_TWO),
    "2x2 to one": resumed(TWO_BY_TWO, ONE),
    "ddp to 1x4": resumed(DDP, ONE_BY_FOUR),
    "1x4 to 2x2": resumed(ONE_BY_FOUR, TWO_BY_TWO, "optimizer.moments=paper"),
    "2x2 to ddp": resumed(TWO_BY_TWO, DDP, *FULL_RANK),
    "rank 8, 2x2 to 4x1": resumed(TWO_BY_TWO, 1, *RANK_8),
}


def work(rank: int, place: dict[str, str], names: list[str], answer: int) -> None:
    os.environ |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with init_process_group(CPU) as world:
        found = {name: CASES[name](world) for name in names}
    with os.fdopen(answer, "w") as out:
        json.dump(found, out)


def main(names: list[str]) -> None:
    size = {"WORLD_SIZE": str(N_PROCESSES)}
    place = size | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = []
    for rank in range(N_PROCESSES):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            work(rank, place, names, writing)
            os._exit(0)
        os.close(writing)
        children.append((child, reading))
    answers = []
    for _, reading in children:
        with os.fdopen(reading) as answer:
            answers.append(answer.read())
    assert not any([os.waitpid(child, 0)[1] for child, _ in children])
    print(f"[{', '.join(answers)}]")


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
