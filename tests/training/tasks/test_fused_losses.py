"""A transformer that returns losses: those of its logits, and still able to sample."""

import copy

import torch
from fused import fused

from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.loading import build_transformer
from dalle_cli.losses import token_cross_entropy
from dalle_cli.models.transformer import Transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.training.tasks.fused_losses import build_fused_transformer


def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(
        11, 13, text_len=5, grid_size=4, n_layers=3, d_model=16, n_heads=2, kernel_size=3
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_losses_and_gradients_are_those_of_the_logits() -> None:
    text = torch.tensor([[1, 2, -1, -1, -1], [4, 5, 6, 7, -1]])
    image = torch.arange(32).view(2, 16) % 13
    plain = transformer()
    model = fused(plain)
    text_logits, image_logits = plain(text, image)
    expected = [
        token_cross_entropy(text_logits, text, 1),
        token_cross_entropy(image_logits, image, 1),
    ]
    *found, hits = model(text, image)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert int(hits) == int((image_logits.argmax(dim=2) == image).sum())
    (expected[0] + 7 * expected[1]).backward()
    (found[0] + 7 * found[1]).backward()
    for (name, left), (other, right) in zip(
        plain.named_parameters(), model.named_parameters(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(right.grad, left.grad, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_it_draws_what_the_plain_one_draws() -> None:
    model = transformer()
    text, uniforms = (
        torch.tensor([[1, 2, -1, -1, -1]]),
        candidate_uniforms(0, "a ring", numbers=[0], n_tokens=16),
    )
    plain = Sampler(model, SamplingSettings()).sample(text, uniforms)
    copied = copy.deepcopy(fused(model))
    assert torch.equal(Sampler(copied, SamplingSettings()).sample(text, uniforms), plain)


def test_weights_for_a_seed_are_those_of_the_plain_one() -> None:
    """And so are their names, and whatever is sampled next."""
    recipe = load_recipe("transformer/tiny", [], kind="transformer")
    states, following = [], []
    for build in (build_transformer, build_fused_transformer):
        torch.manual_seed(7)
        states.append(build(recipe.model, 300).state_dict())
        following.append(torch.rand(3))
    assert list(states[0]) == list(states[1])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    assert torch.equal(*following)
