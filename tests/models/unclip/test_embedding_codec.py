"""Embeddings as codes: quantisation against integrals, components, and cosines."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec, dequantise, quantise

GAUSSIAN_ERROR = 1.14e-5  # of 1,024 buckets over 4 deviations to either side


@pytest.fixture
def images() -> Tensor:
    """Embeddings that vary in few directions, with lengths that do not matter."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 3, generator=generator) * torch.tensor([0.5, 0.2, 0.05])
    directions = torch.linalg.qr(torch.randn(8, 3, generator=generator)).Q.T
    offset = torch.randn(8, generator=generator)
    return (offset + scores @ directions) * (1 + torch.rand(4000, 1, generator=generator))


@pytest.fixture
def texts(images: Tensor) -> Tensor:
    return images + 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def fitted(images: Tensor, texts: Tensor, n: int = 3, n_buckets: int = 64) -> EmbeddingCodec:
    codec = EmbeddingCodec(8, n, n_buckets)
    codec.fit(images, texts)
    return codec


def test_error_of_a_gaussian_is_the_specified_one() -> None:
    x = torch.linspace(-9, 9, 1_800_001, dtype=torch.float64)
    density = (-0.5 * x**2).exp() / math.sqrt(2 * math.pi)
    error = (dequantise(quantise(x, 1024), 1024) - x).square()
    assert float(torch.trapezoid(density * error, x)) == pytest.approx(GAUSSIAN_ERROR, rel=0.005)


def test_buckets_are_equally_wide_and_the_last_ones_open() -> None:
    scores = torch.tensor([-9.0, -4.0, -3.01, -2.99, 0.0, 3.99, 4.0, 9.0])
    assert quantise(scores, 8).tolist() == [0, 0, 0, 1, 4, 7, 7, 7]
    assert dequantise(torch.arange(8), 8).tolist() == [x + 0.5 for x in range(-4, 4)]
    assert torch.equal(quantise(dequantise(torch.arange(1024), 1024), 1024), torch.arange(1024))


def test_components_are_those_of_the_covariance_in_falling_order(
    images: Tensor, texts: Tensor
) -> None:
    codec = EmbeddingCodec(8, 3, 64)
    share = codec.fit(images, texts)
    units = F.normalize(images.double(), dim=1)
    scores = (units - units.mean(dim=0)) @ codec.components.double().T
    torch.testing.assert_close(
        scores.std(dim=0, correction=0), codec.deviations.double(), rtol=1e-4, atol=1e-7
    )
    assert codec.deviations.tolist() == sorted(codec.deviations.tolist(), reverse=True)
    torch.testing.assert_close(codec.components @ codec.components.T, torch.eye(3))
    held = scores.var(dim=0, correction=0).sum() / units.var(dim=0, correction=0).sum()
    assert share == pytest.approx(float(held), abs=1e-6)
    largest = codec.components.abs().argmax(dim=1)
    assert (codec.components[torch.arange(3), largest] > 0).all()


def test_decoded_embeddings_are_close_and_of_unit_length(images: Tensor, texts: Tensor) -> None:
    codec = fitted(images, texts, n=8, n_buckets=1024)
    decoded = codec.decode(codec.encode(images))
    torch.testing.assert_close(decoded.norm(dim=1), torch.ones(len(images)))
    cosines = F.cosine_similarity(decoded, images, dim=1)
    # but for a few beyond the outermost buckets
    assert float((cosines > 0.999).float().mean()) > 0.99 and float(cosines.mean()) > 0.9999


def test_codes_do_not_depend_on_length(images: Tensor, texts: Tensor) -> None:
    codec = fitted(images, texts)
    assert torch.equal(codec.encode(images), codec.encode(16 * images))


def test_fewer_components_lose_what_they_leave_out(images: Tensor, texts: Tensor) -> None:
    errors = []
    for n in (1, 2, 3):
        codec = fitted(images, texts, n=n, n_buckets=1024)
        decoded = codec.decode(codec.encode(images))
        errors.append(1 - float(F.cosine_similarity(decoded, images, dim=1).mean()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 3 * errors[2]


def test_cosines_fall_into_equal_buckets_of_their_training_range(
    images: Tensor, texts: Tensor
) -> None:
    codec = fitted(images, texts, n_buckets=10)
    cosines = F.cosine_similarity(images.double(), texts.double(), dim=1)
    lowest, highest = float(cosines.min()), float(cosines.max())
    assert float(codec.cosine_quantiles[0]) == pytest.approx(lowest)
    assert float(codec.cosine_quantiles[-1]) == pytest.approx(highest)
    places = torch.tensor([-1.0, 0.0, 0.05, 0.15, 0.55, 0.999, 1.0, 2.0])
    codes = codec.encode_cosines(lowest + places * (highest - lowest))
    assert codes.tolist() == [0, 0, 0, 1, 5, 9, 9, 9]


def test_sampled_cosines_are_those_of_the_better_half(images: Tensor, texts: Tensor) -> None:
    codec = fitted(images, texts, n_buckets=100)
    cosines = F.cosine_similarity(images.double(), texts.double(), dim=1)
    better = codec.encode_cosines(cosines[cosines >= cosines.median()].float())
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    sampled = codec.sample_cosine_codes(uniforms)
    assert int(sampled.min()) >= int(better.min()) - 1
    shares = [codes.bincount(minlength=100) / len(codes) for codes in (sampled, better)]
    assert float((shares[0] - shares[1]).abs().sum()) < 0.3
    lowest = codec.sample_cosine_codes(torch.zeros(1), top_share=1.0)
    assert int(lowest) == 0


def test_what_is_learned_is_saved_and_not_trained(images: Tensor, texts: Tensor) -> None:
    codec, loaded = fitted(images, texts), EmbeddingCodec(8, 3, 64)
    assert not list(codec.parameters())
    loaded.load_state_dict(codec.state_dict())
    assert torch.equal(loaded.encode(images), codec.encode(images))
    uniforms = torch.linspace(0, 0.99, 20)
    assert torch.equal(loaded.sample_cosine_codes(uniforms), codec.sample_cosine_codes(uniforms))


def test_more_components_than_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="8 entries do not have 9 components"):
        EmbeddingCodec(8, 9, 64)


def test_embeddings_that_all_agree_are_decoded_to_themselves() -> None:
    images = torch.randn(1, 8, generator=torch.Generator().manual_seed(2)).expand(50, 8)
    codec = fitted(images, images)
    decoded = codec.decode(codec.encode(images))
    torch.testing.assert_close(decoded, F.normalize(images, dim=1), rtol=1e-5, atol=1e-5)
    assert codec.sample_cosine_codes(torch.tensor([0.5])).tolist() == [0]
