"""A page that a stand-in for a model serves."""

from collections.abc import Iterator

import pytest
from served_model import PaintedModel, Served, serving


@pytest.fixture
def model() -> PaintedModel:
    return PaintedModel()


@pytest.fixture
def served(model: PaintedModel) -> Iterator[Served]:
    with serving(model) as served:
        yield served
