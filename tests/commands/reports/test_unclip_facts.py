"""What `info` says of DALL-E 2's models: the sizes that follow from the published tables."""

import json
from collections.abc import Callable

import pytest

from dalle_cli.commands.reports.model_facts import model_facts
from dalle_cli.config import EmbeddingCodecTable
from dalle_cli.loading import largest_table
from dalle_cli.recipe import load_recipe
from dalle_cli.training.planning.cost import counted_flops, sample_bytes, sample_flops

EVERY = ["prior/tiny", "prior/demo", "prior-autoregressive/tiny", "decoder/tiny", "decoder/demo"]


def facts_of(name: str, *overrides: str) -> dict:
    return model_facts(largest_table(load_recipe(name, list(overrides))))


def test_prior_has_the_published_transformer() -> None:
    facts = facts_of("prior/paper")
    assert facts["parameters"]["transformer"] == 1_208_598_528
    # of 260 slots: 641 in the transformer, and little else
    assert facts["gflop_forward"] == pytest.approx(641, rel=0.01)
    assert facts["tflop_per_picture"]["sampling"] == pytest.approx(82, rel=0.01)


@pytest.mark.thorough
def test_autoregressive_prior_has_the_published_latent_decoder() -> None:
    assert facts_of("prior-autoregressive/paper")["parameters"]["transformer"] == 797_961_216


@pytest.mark.thorough
def test_decoder_has_the_published_unet_and_text_encoder() -> None:
    facts = facts_of("decoder/paper")
    assert facts["parameters"]["unet"] == 2_238_164_486
    assert facts["parameters"]["text"] > 1_208_598_528
    assert 3.4e9 < facts["parameters"]["all"] < 3.7e9  # published: 3.5 billion


def test_unet_of_the_decoder_takes_the_specified_operations() -> None:
    """Without text: what it takes is the U-Net's, and four slots of context.

    The specified 1,589 GFLOP count the projections to queries, keys and values twice.
    """
    levels = [(32, 1024, 7), (16, 1536, 7), (8, 2048, 8)]  # side, channels, attention layers
    projected = sum(6 * side**2 * width**2 * n_layers for side, width, n_layers in levels)
    recipe = load_recipe("decoder/paper", [], kind="decoder")
    model = recipe.model.model_copy(update={"text": None, "text_len": None})
    assert counted_flops(model) == pytest.approx(1_589e9 - projected, rel=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", EVERY)
def test_parts_of_a_model_are_all_of_it(name: str) -> None:
    parameters = dict(facts_of(name)["parameters"])
    total = parameters.pop("all")
    assert sum(parameters.values()) == total and all(n > 0 for n in parameters.values())


@pytest.mark.parametrize("name", EVERY)
def test_training_takes_three_times_the_operations_and_memory_grows_with_samples(name: str) -> None:
    table = largest_table(load_recipe(name, []))
    assert sample_flops(table) == 3 * counted_flops(table) > 0
    assert sample_bytes(table, "fp32") > 0


def test_demo_decoder_takes_what_was_planned() -> None:
    table = largest_table(load_recipe("decoder/demo", []))
    assert counted_flops(table) == pytest.approx(159e6, rel=0.05)


@pytest.mark.thorough
@pytest.mark.parametrize("name", EVERY)
def test_info_prints_the_cost(name: str, dalle: Callable) -> None:
    ended = dalle("info", name)
    assert ended.code == 0, ended.err
    for label in ("GFLOP forward", "TFLOP per picture", "checkpoint", "training state"):
        assert label in ended.out
    facts = json.loads(dalle("info", name, "--json").out)
    assert facts["weights_mib"] > 0 and facts["activations_gib_per_sample"]["fp32"] > 0


def test_codec_has_tables_in_place_of_parameters() -> None:
    facts = model_facts(EmbeddingCodecTable(d_embed=64, n_components=16, n_buckets=32))
    assert facts["kind"] == "embedding-codec" and facts["parameters"] == {"all": 0}
    n_values = 64 + 16 * 64 + 16 + 33
    assert facts["weights_mib"] == pytest.approx(4 * n_values / 2**20, rel=1e-3)
