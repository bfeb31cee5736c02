"""Scaling by area against exact fractions."""

import numpy as np
import pytest
from exact_area import area_by_hand

from dalle_cli.data.pictures.area import area_resize


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 3), (10, 9), (16, 8), (5, 8), (33, 32)])
def test_area_resize_matches_exact_fractions(n_in, n_out):
    rng = np.random.default_rng(n_in)
    across, down = rng.integers(256, size=(2, n_in))
    wide = np.broadcast_to(across[None, :, None], (n_in, n_in, 3)).astype(np.uint8)
    tall = np.broadcast_to(down[:, None, None], (n_in, n_in, 3)).astype(np.uint8)
    for resized, exact in (
        (area_resize(wide, n_out)[0, :, 1], area_by_hand(across, n_out)),
        (area_resize(tall, n_out)[:, 0, 2], area_by_hand(down, n_out)),
    ):
        # the nearest integer; which one, near the half between two, depends on rounding in fp32
        assert max(abs(int(r) - e) for r, e in zip(resized, exact, strict=True)) <= 0.5 + 1e-4
