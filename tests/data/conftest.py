"""What the tests of the tokenizer and of its learners share."""

import pytest

from dalle_cli.data.tokenizer import LEARNERS


@pytest.fixture
def captions() -> list[str]:
    return [
        "The cat sat on the mat",
        "the other cat, the hat and that mat",
        "a snowman ☃ in a winter hat",
        "猫坐在垫子上 猫",
        "Ein Kätzchen küsst 🐱 👩‍🚀",
        "bananas, bandanas and pyjamas",
    ]


@pytest.fixture(params=LEARNERS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each library that can learn merges, where it is installed."""
    pytest.importorskip(request.param)
    return request.param
