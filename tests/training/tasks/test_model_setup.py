"""A model as it trains: which techniques are put around it."""

import pytest
import torch

from dalle_cli.config import TransformerRecipe
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import single_process
from dalle_cli.training.optimization.gradient_scaling import BranchScales
from dalle_cli.training.tasks.model_setup import set_up_transformer


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_branch_of_a_transformer_in_fp16_has_a_gradient_scale(precision: str) -> None:
    recipe = load_recipe("transformer/tiny", [])
    assert isinstance(recipe, TransformerRecipe)
    world = single_process(torch.device("cpu"))
    model, scales = set_up_transformer(recipe, 300, precision=precision, world=world)
    if precision != "fp16":
        assert scales is None
        return
    assert isinstance(scales, BranchScales)
    assert len(scales.scales) == len(model.half_precision_modules()) == 2 * recipe.model.n_layers
