"""Causality, slots and cached decoding of the transformer."""

import pytest
import torch

from dalle_cli.models.transformer import Transformer, gelu

T, W, V_TEXT, V_IMAGE = 6, 4, 11, 13


@pytest.fixture
def model():
    """A small transformer with every kind of layer; nothing can hide behind zero parameters."""
    torch.manual_seed(0)
    model = Transformer(V_TEXT, V_IMAGE, T, W, n_layers=4, d_model=16, n_heads=2, kernel_size=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(V_TEXT, (3, T), generator=generator)
    text[0, 5:] = text[1, 2:] = text[2, 0:] = -1
    return text, torch.randint(V_IMAGE, (3, W * W), generator=generator)


def test_every_kind_of_layer_is_present(model):
    assert set(model.kinds) == {"row", "column", "convolutional"}


def test_changing_an_image_token_never_changes_an_earlier_logit(model, tokens):
    text, image = tokens
    text_logits, image_logits = model(text, image)
    for position in range(W * W):
        changed = image.clone()
        changed[:, position] = (changed[:, position] + 1) % V_IMAGE
        new_text_logits, new_image_logits = model(text, changed)
        assert torch.equal(new_text_logits, text_logits)
        torch.testing.assert_close(
            new_image_logits[:, : position + 1], image_logits[:, : position + 1]
        )


def test_changing_an_image_token_changes_the_next_logit(model, tokens):
    text, image = tokens
    before = model(text, image)[1]
    changed = image.clone()
    changed[:, 4] = (changed[:, 4] + 1) % V_IMAGE
    assert (model(text, changed)[1][:, 5] - before[:, 5]).abs().amax(1).min() > 1e-3


def test_changing_a_text_token_never_changes_an_earlier_text_logit(model, tokens):
    text, image = tokens
    before = model(text, image)[0]
    for position in range(5):
        changed = text.clone()
        changed[0, position] = (changed[0, position] + 1) % V_TEXT
        torch.testing.assert_close(
            model(changed, image)[0][0, : position + 1], before[0, : position + 1]
        )


def test_every_caption_token_reaches_the_first_image_logit(model, tokens):
    text, image = tokens
    before = model(text, image)[1][:, 0]
    for row, length in ((0, 5), (1, 2)):
        for position in range(length):
            changed = text.clone()
            changed[row, position] = (changed[row, position] + 1) % V_TEXT
            difference = (model(changed, image)[1][:, 0] - before).abs().amax(1)
            assert difference[row] > 1e-3
            assert difference[[i for i in range(3) if i != row]].max() == 0


def test_padding_slots_hold_their_own_vectors(model, tokens):
    text, _ = tokens
    slots = model.embed_text(text)
    torch.testing.assert_close(slots[1, 3:], model.text_padding[3:])
    torch.testing.assert_close(
        slots[1, 2], model.text_embedding.weight[text[1, 1]] + model.text_position[2]
    )
    torch.testing.assert_close(
        slots[:, 0], (model.start_of_text + model.text_position[0]).expand(3, -1)
    )


def test_image_slots_hold_the_token_before(model, tokens):
    _, image = tokens
    slots = model.embed_image(image[:, :-1], start=0)
    held = (
        model.image_embedding.weight[image[0, 5]] + model.row_position[1] + model.column_position[2]
    )
    torch.testing.assert_close(slots[0, 6], held)
    torch.testing.assert_close(
        slots[0, 0], model.start_of_image + model.row_position[0] + model.column_position[0]
    )


def test_matrices_of_the_paper_number_12_billion():
    with torch.device("meta"):
        model = Transformer(
            16384, 8192, 256, 32, n_layers=64, d_model=3968, n_heads=62, kernel_size=11
        )
    matrices = [p.numel() for p in model.blocks.parameters() if p.ndim == 2]
    assert sum(matrices) == 12_092_178_432


def test_initial_loss_is_that_of_the_uniform_distribution(tokens):
    model = Transformer(V_TEXT, V_IMAGE, T, W, n_layers=2, d_model=16, n_heads=2, kernel_size=3)
    text_logits, image_logits = model(*tokens)
    assert text_logits.abs().max() == 0 and image_logits.abs().max() == 0


def test_wrong_shapes_are_named(model, tokens):
    with pytest.raises(ValueError, match=r"\[3, 5\]"):
        model(tokens[0][:, :5], tokens[1])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="16 by 3"):
        Transformer(V_TEXT, V_IMAGE, T, W, n_layers=1, d_model=16, n_heads=3, kernel_size=3)


def test_activation_is_the_published_one_and_so_is_its_gradient():
    u = torch.linspace(-9, 9, 61, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(gelu(u), u * torch.sigmoid(1.702 * u))
    assert torch.autograd.gradcheck(gelu, u)


@pytest.mark.parametrize("n_layers", [2, 8])
def test_matrices_start_as_published_and_smaller_where_branches_end(n_layers: int) -> None:
    """Of 2 N branches, each adds 1 / (2 N) of the variance to the stream."""
    torch.manual_seed(0)
    model = Transformer(11, 13, 5, 4, n_layers, d_model=64, n_heads=2, kernel_size=3)
    block = model.blocks[-1]
    stds = {
        block.attention.attention.query: 0.125 * 64**-0.5,
        block.mlp.expand: 0.125 * 64**-0.5,
        block.attention.attention.output: 0.125 * (64 * 2 * n_layers) ** -0.5,
        block.mlp.contract: 0.125 * (256 * 2 * n_layers) ** -0.5,
    }
    for layer, std in stds.items():
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()


def test_matrices_are_those_of_the_branches_and_no_embedding_or_head() -> None:
    model = Transformer(11, 13, 5, 4, n_layers=2, d_model=16, n_heads=2, kernel_size=3)
    decayed = set(map(id, model.matrices()))
    named = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    parts = [f"attention.attention.{name}" for name in ("query", "key", "value", "output")]
    parts += ["mlp.expand", "mlp.contract"]
    assert named == {f"blocks.{i}.{part}.weight" for i in range(2) for part in parts}
