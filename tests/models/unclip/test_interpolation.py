"""Arcs between embeddings, directions of texts, and components kept, against plain restatements."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.unclip.embedding_codec import PrincipalComponents, principal_components
from dalle_cli.models.unclip.interpolation import keep_components, slerp, text_direction


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def units() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(50, 6, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize(
    ("start", "end", "share", "expected"),
    [
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], 0.25, [0.9238795325, 0.3826834324, 0.0]),
        ([1.0, 0.0, 0.0], [0.6, 0.8, 0.0], 0.25, [0.9732489895, 0.2297529205, 0.0]),
        ([2.0, 0.0], [0.0, 3.0], 0.5, [1.4142135624, 2.1213203436]),
    ],
)
def test_arc_passes_the_specified_points(start, end, share: float, expected) -> None:
    found = slerp(rows(start), rows(end), torch.tensor([share]))
    torch.testing.assert_close(found, rows(expected), rtol=0, atol=5e-10)


def test_ends_are_the_ends_to_the_last_bit(units: Tensor) -> None:
    start, end = units[:25].float(), units[25:].float()
    assert torch.equal(slerp(start, end, torch.zeros(25)), start)
    torch.testing.assert_close(slerp(start, end, torch.ones(25)), end, rtol=0, atol=1e-7)


def test_unit_vectors_stay_so_and_turn_evenly(units: Tensor) -> None:
    shares = torch.linspace(0, 1, 11, dtype=torch.float64)
    start, end = units[:1].expand(11, -1), units[1:2].expand(11, -1)
    path = slerp(start, end, shares)
    torch.testing.assert_close(path.norm(dim=1), torch.ones(11, dtype=torch.float64))
    angles = (path[:-1] * path[1:]).sum(dim=1).arccos()
    whole = math.acos(float(units[0] @ units[1]))
    torch.testing.assert_close(angles, torch.full((10,), whole / 10, dtype=torch.float64))


def test_way_back_is_the_way_there(units: Tensor) -> None:
    shares = torch.linspace(0, 1, 25, dtype=torch.float64)
    start, end = units[:25], units[25:]
    torch.testing.assert_close(slerp(start, end, shares), slerp(end, start, 1 - shares))


def test_a_sample_has_one_angle_whatever_its_shape(units: Tensor) -> None:
    """Not an angle for each entry, and none that depends on others of the batch."""
    start, end = units[:4], units[4:8]
    shares = torch.tensor([0.1, 0.4, 0.7, 0.9])
    whole = slerp(start, end, shares)
    pictures = slerp(start.view(4, 1, 2, 3), end.view(4, 1, 2, 3), shares)
    assert torch.equal(pictures.flatten(1), whole)
    for i in range(4):
        alone = slerp(start[i : i + 1], end[i : i + 1], shares[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i])


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_vectors_without_an_arc_are_mixed(factor: float) -> None:
    start = rows([3.0, 4.0])
    found = slerp(start, factor * start, torch.tensor([0.25]))
    torch.testing.assert_close(found, (0.75 + 0.25 * factor) * start)


def test_direction_of_texts_is_their_difference_at_unit_length(units: Tensor) -> None:
    towards, away = units[:3], units[3:6]
    direction = text_direction(towards, away)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(direction * (towards - away).norm(dim=1)[:, None], towards - away)
    torch.testing.assert_close(text_direction(towards, None), towards)


def test_texts_that_mean_the_same_have_no_direction(units: Tensor) -> None:
    with pytest.raises(ValueError, match="same embedding"):
        text_direction(units[:2], torch.stack([units[5], units[1]]))


def test_all_components_are_the_whole_embedding(units: Tensor) -> None:
    basis = principal_components(units, 6)
    kept = keep_components(3 * units, basis, torch.full((50,), 6))
    torch.testing.assert_close(kept, units)


def test_no_component_leaves_the_mean(units: Tensor) -> None:
    basis = principal_components(units, 6)
    kept = keep_components(units, basis, torch.zeros(50, dtype=torch.int64))
    mean = F.normalize(units.mean(dim=0), dim=0)
    torch.testing.assert_close(kept, mean.expand(50, -1))


def test_each_sample_keeps_its_number_of_components(units: Tensor) -> None:
    basis = principal_components(units, 4)
    counts = torch.tensor([1, 2, 3, 4])
    kept = keep_components(units[:4], basis, counts)
    for i, count in enumerate(counts.tolist()):
        expected = basis.mean.clone()
        for component in basis.components[:count]:
            expected += float((units[i] - basis.mean) @ component) * component
        torch.testing.assert_close(kept[i], expected / expected.norm())


def test_components_are_the_singular_vectors_in_falling_order(units: Tensor) -> None:
    basis = principal_components(7 * units, 3)
    _, values, vectors = torch.linalg.svd(units - units.mean(dim=0))
    torch.testing.assert_close(basis.variances, values[:3] ** 2 / len(units))
    torch.testing.assert_close((basis.components @ vectors[:3].T).abs(), torch.eye(3).double())
    assert basis.share == pytest.approx(float((values[:3] ** 2).sum() / (values**2).sum()))


def test_kept_embeddings_have_the_dtype_of_what_they_were(units: Tensor) -> None:
    basis = principal_components(units, 2)
    assert isinstance(basis, PrincipalComponents) and basis.mean.dtype == torch.float64
    assert keep_components(units.float(), basis, torch.ones(50).long()).dtype == torch.float32
