"""A whole model next to one whose parameters are dealt out, for previews.

Knows nothing of how they are dealt out.
"""

import copy
from collections.abc import Mapping
from typing import Generic

import torch
from torch import Tensor
from torch.nn import Parameter

from dalle_cli.runtime.distributed import World
from dalle_cli.training.engines.engine import ModelT

SPARE = 1.1  # times the whole model's size must be free on a GPU before the model is gathered there


class HollowModel(Generic[ModelT]):
    """A copy of a model whose parameters take no memory until it is filled."""

    def __init__(self, module: ModelT, world: World) -> None:
        """Copy the module, before its parameters are dealt out over the world's processes."""
        hollow = {
            id(p): Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
            for p in module.parameters()
        }
        self._module = copy.deepcopy(module, hollow)
        self._world = world
        self._n_bytes = sum(p.nbytes for p in module.parameters())

    def filled(self, weights: Mapping[str, Tensor]) -> ModelT | None:
        """Return a whole model with these weights in the main process, and None in the others.

        All processes gather the weights. All get None if the model does not fit in the main one's
        memory next to the training state.
        """
        if not self._has_room():
            return None
        gathered = {name: tensor.cpu() for name, tensor in weights.items() if self._world.is_main}
        if not self._world.is_main:
            return None
        whole = copy.deepcopy(self._module)
        whole.load_state_dict(gathered, assign=True)
        return whole.to(self._world.device)

    def _has_room(self) -> bool:
        device = self._world.device
        if device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(device)
        return bool(self._world.all_gather([free > SPARE * self._n_bytes])[0])
