"""The cost of an update, against plain counts and measurements."""

import pytest
import torch

from dalle_cli.config import DVAEModelTable
from dalle_cli.console import size_text
from dalle_cli.errors import DalleError
from dalle_cli.loading import build_dvae, largest_table
from dalle_cli.models.dvae import relax
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import total_memory
from dalle_cli.training.planning.cost import (
    check_fits,
    count_parameters,
    model_bytes,
    sample_bytes,
    sample_flops,
)
from dalle_cli.training.planning.flops import train_flops

TABLE = DVAEModelTable(
    image_size=16, vocab_size=32, n_hidden=8, n_groups=2, blocks_per_group=1, n_init=8
)


def test_dvae_flops_are_those_of_its_convolutions() -> None:
    dvae, operations = build_dvae(TABLE), 0

    def count(module: torch.nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        nonlocal operations
        operations += 2 * output[0].numel() * module.weight[0].numel()

    for module in dvae.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    logits = dvae.codebook_logits(torch.zeros(1, 3, 16, 16))
    dvae.decode_soft(logits.softmax(1))
    assert sample_flops(TABLE) == pytest.approx(3 * operations, rel=0.01)


def test_transformer_flops_are_those_of_its_masks() -> None:
    table = largest_table(load_recipe("transformer/demo", []))
    assert sample_flops(table) == train_flops(table)


def test_dvae_bytes_are_those_that_autograd_keeps() -> None:
    def kept(n_samples: int) -> int:
        dvae, storages = build_dvae(TABLE), {}
        of_model = {parameter.untyped_storage().data_ptr() for parameter in dvae.parameters()}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logits = dvae.codebook_logits(torch.zeros(n_samples, 3, 16, 16))
            outputs = dvae.decode_soft(relax(logits, 1.0, torch.zeros_like(logits)))
        assert len(outputs) == 2
        return sum(
            tensor.untyped_storage().nbytes()
            for key, tensor in storages.items()
            if key not in of_model
        )

    assert sample_bytes(TABLE, "fp32") == pytest.approx(kept(3) - kept(2), rel=0.1)


@pytest.mark.parametrize("name", ["dvae/demo", "transformer/demo", "clip/demo"])
def test_all_kinds_have_a_cost(name: str) -> None:
    table = largest_table(load_recipe(name, []))
    assert sample_flops(table) > 1e6 and sample_bytes(table, "bf16") > 1e4
    assert model_bytes(table, 1) > 16 * count_parameters(table)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("dvae/tiny", "model.vocab_size", 10**12),
        ("dvae/tiny", "model.vocab_size", 10**18),
        ("dvae/tiny", "model.n_init", 10**30),
        ("transformer/tiny", "model.text_len", 10**12),
        ("transformer/tiny", "tokenizer.vocab_size", 10**12),
        ("clip/tiny", "model.d_embed", 10**12),
    ],
)
def test_model_that_no_memory_holds_is_refused_with_its_largest_size(
    name: str, key: str, value: int
) -> None:
    recipe = load_recipe(name, [f"{key}={value}"])
    with pytest.raises(DalleError, match="the model needs") as caught:
        check_fits(recipe, CPU)
    assert caught.value.hint == f"its largest size is `{key}` {value:,}"
    check_fits(load_recipe(name, []), CPU)


def test_model_that_does_not_fit_is_told_with_both_sizes() -> None:
    recipe = load_recipe("dvae/tiny", [f"model.vocab_size={10**12}"])
    with pytest.raises(DalleError) as caught:
        check_fits(recipe, CPU)
    needed = 4 * 4 * count_parameters(recipe.model)
    total = total_memory(CPU)
    assert caught.value.message == (
        f"the model needs {size_text(needed)}, and the cpu has {size_text(total)}"
    )


@pytest.mark.parametrize("divided", ["runtime.zero_stage=1", "runtime.shard_group=2"])
def test_what_is_divided_among_processes_is_not_asked_of_each(
    divided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole replicas need four times the weights, where there is room for twice."""
    whole, shared = (load_recipe("transformer/tiny", words) for words in ([], [divided]))
    room = 2 * 4 * count_parameters(largest_table(whole))
    monkeypatch.setattr("dalle_cli.training.planning.cost.total_memory", lambda device: room)
    check_fits(shared, CPU)
    with pytest.raises(DalleError, match="the model needs"):
        check_fits(whole, CPU)
