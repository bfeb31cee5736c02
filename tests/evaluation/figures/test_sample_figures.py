"""Figures of generated pictures: what a CLIP says of them, and how varied they are."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes_of_pictures import MemoryPictures, random_pictures

from dalle_cli.evaluation.figures.sample_figures import (
    ClipFeatures,
    clip_sample_figures,
    diversity_figures,
    embed_set,
)
from dalle_cli.scoring.clip_scorer import load_clip_scorer


def features(n: int, seed: int) -> ClipFeatures:
    generator = torch.Generator().manual_seed(seed)
    pictures, captions = (
        F.normalize(torch.randn(n, 12, generator=generator), dim=1) for _ in range(2)
    )
    return ClipFeatures(pictures, captions, [f"caption {i}" for i in range(n)])


def test_score_is_the_mean_cosine() -> None:
    found = features(9, seed=0)
    pairs = zip(found.pictures.double(), found.captions.double(), strict=True)
    cosines = [float(F.cosine_similarity(a, b, dim=0)) for a, b in pairs]
    assert found.score == pytest.approx(np.mean(cosines), rel=1e-6)


def test_figures_by_clip_are_named_and_bounded() -> None:
    real, generated = features(40, seed=1), features(50, seed=2)
    figures = clip_sample_figures(real, generated)
    assert all(name.startswith("clip/") for name in figures)
    assert figures["clip/score"] == generated.score
    assert figures["clip/score_of_data"] == real.score
    shares = [value for name, value in figures.items() if "recall" in name or "cover" in name]
    assert len(shares) == 8 and all(0 <= share <= 1 for share in shares)


def test_generated_pictures_that_are_the_real_ones_have_no_distance() -> None:
    real = features(60, seed=3)
    figures = clip_sample_figures(real, real)
    assert figures["clip/frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert figures["clip/precision"] == figures["clip/coverage"] == 1


def test_set_is_embedded_like_single_pictures(clip_run) -> None:
    scorer = load_clip_scorer(str(clip_run), None, device=torch.device("cpu"), precision="fp32")
    captions = ["a red ring", "a blue ring", "a red ring"]
    pictures = MemoryPictures(random_pictures(3), captions)
    counted: list[int] = []
    found = embed_set(scorer, pictures, lambda: counted.append(1))
    assert len(counted) == 3 and found.texts == captions
    torch.testing.assert_close(found.captions, scorer.embed_captions(captions))
    one = scorer.embed_pictures([pictures.pixels[1]])[0]
    torch.testing.assert_close(found.pictures[1], one)


def test_diversity_is_the_mean_distance_between_samples_of_a_caption() -> None:
    repeats, real = random_pictures(12, side=8, seed=4), random_pictures(5, side=8, seed=5)
    figures = diversity_figures(
        MemoryPictures(repeats),
        MemoryPictures(real),
        samples=4,
        scorer=None,
        advance=lambda: None,
    )

    def mean_distance(groups: list[np.ndarray]) -> float:
        gaps = [
            np.sqrt(np.mean((a / 255 - b / 255) ** 2))
            for group in groups
            for a, b in combinations(group.astype(float), 2)
        ]
        return float(np.mean(gaps))

    expected = mean_distance([repeats[:4], repeats[4:8], repeats[8:]])
    assert figures == {
        "diversity/pixel_distance": pytest.approx(expected, rel=1e-6),
        "diversity/pixel_distance_of_data": pytest.approx(mean_distance([real]), rel=1e-6),
    }


def test_one_picture_again_and_again_has_no_diversity() -> None:
    repeats = MemoryPictures(np.tile(random_pictures(1), (8, 1, 1, 1)))
    figures = diversity_figures(
        repeats,
        MemoryPictures(random_pictures(2)),
        samples=8,
        scorer=None,
        advance=lambda: None,
    )
    assert figures["diversity/pixel_distance"] == 0
