"""Work dealt out among processes: everything once, in the batches of one process."""

import math

import pytest
import torch

from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.ranks import Ranks


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 7])
@pytest.mark.parametrize("n", [0, 1, 6, 7, 23, 24])
def test_shares_make_up_the_batches_of_one_process(n: int, batch_size: int, size: int) -> None:
    everything = list(range(n))
    batches = [everything[i : i + batch_size] for i in range(0, n, batch_size)]
    worlds = [World(Ranks(rank, size), torch.device("cpu")) for rank in range(size)]

    dealt: list[list[list[int]]] = []
    for world in worlds:
        share = list(world.share_of_batches(n, batch_size))
        dealt.append([share[i : i + batch_size] for i in range(0, len(share), batch_size)])

    assert [batch for of_rank in dealt for batch in of_rank] == batches
    assert max(map(len, dealt)) == len(dealt[0]) == math.ceil(len(batches) / size)
