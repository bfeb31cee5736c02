"""Which weights decay, by name."""

import pytest
from random_models import autoregressive_prior, decoder, diffusion_prior

MODELS = {
    "diffusion prior": lambda: diffusion_prior(text_vocab_size=11),
    "autoregressive prior": autoregressive_prior,
    "decoder": lambda: decoder("tokens"),
}
NEVER = {
    *("position", "query", "null_caption", "null_text", "null_prefix", "null_embedding"),
    *("padding", "embedding.weight", "caption_input.weight"),
    *("cosine_embedding.weight", "code_embedding.weight"),
}


@pytest.mark.parametrize("name", MODELS)
def test_matrices_and_kernels_decay_and_vectors_and_embeddings_do_not(name: str) -> None:
    model = MODELS[name]()
    decayed = set(map(id, model.matrices()))
    assert len(decayed) == len(model.matrices())
    for parameter_name, parameter in model.named_parameters():
        is_vector = parameter.ndim < 2
        is_embedding = any(
            parameter_name == end or parameter_name.endswith(f".{end}") for end in NEVER
        ) and not (name == "autoregressive prior" and parameter_name == "caption_input.weight")
        assert (id(parameter) in decayed) == (not is_vector and not is_embedding), parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_modules_in_half_precision_are_parts_of_the_model(name: str) -> None:
    model = MODELS[name]()
    parts, modules = model.half_precision_modules(), set(map(id, model.modules()))
    assert parts and {id(part) for part in parts} <= modules
