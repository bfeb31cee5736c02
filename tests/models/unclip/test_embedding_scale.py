"""The scale of embeddings: published factors, whatever the length that comes in."""

import pytest
import torch

from dalle_cli.models.unclip.embedding_scale import PUBLISHED_RMS, scale_embeddings

FACTORS = {
    64: 4.3,
    128: 6.0811183,
    256: 8.6,
    512: 12.1622362,
    640: 13.5977939,
    768: 14.8956369,
    1024: 17.2,
    1280: 19.2301846,
}


@pytest.mark.parametrize("width", FACTORS)
def test_published_scale_multiplies_unit_vectors_by_the_specified_factor(width: int) -> None:
    embeddings = torch.randn(3, width, generator=torch.Generator().manual_seed(0)).double()
    scaled = scale_embeddings(embeddings, PUBLISHED_RMS)
    torch.testing.assert_close(
        scaled.norm(dim=1), torch.full((3,), FACTORS[width]).double(), rtol=1e-7, atol=0
    )


def test_length_of_embeddings_does_not_matter_and_their_direction_is_kept() -> None:
    embeddings = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    scaled = scale_embeddings(embeddings, 0.7)
    torch.testing.assert_close(scale_embeddings(10 * embeddings, 0.7), scaled)
    torch.testing.assert_close(scaled.square().mean(dim=1).sqrt(), torch.full((4,), 0.7))
    cosines = torch.nn.functional.cosine_similarity(scaled, embeddings, dim=1)
    torch.testing.assert_close(cosines, torch.ones(4))
