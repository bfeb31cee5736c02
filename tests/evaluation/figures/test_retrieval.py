"""Recall of captions and pictures, against counting."""

import pytest
import torch
import torch.nn.functional as F

from dalle_cli.evaluation.figures import retrieval
from dalle_cli.evaluation.figures.retrieval import RECALLS, retrieval_figures


def unit_vectors(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def recall_by_hand(queries: torch.Tensor, keys: torch.Tensor, texts: list[str], k: int) -> float:
    """Sort the keys of each query; is one with the same text among the first k others?"""
    hits = 0
    for i, query in enumerate(queries):
        cosines = (keys @ query).tolist()
        best = max(cosines[j] for j in range(len(texts)) if texts[j] == texts[i])
        before = sum(cosines[j] >= best for j in range(len(texts)) if texts[j] != texts[i])
        hits += before < k
    return hits / len(texts)


@pytest.mark.parametrize("rows_at_once", [1, 5, 1024])
def test_recalls_are_those_of_counting(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROWS_AT_ONCE", rows_at_once)
    texts = [f"caption {i % 9}" for i in range(23)]  # some have the same
    pictures = unit_vectors(23, 0)
    captions = F.normalize(pictures + 0.8 * unit_vectors(23, 1), dim=1)
    found = retrieval_figures(pictures, captions, texts)
    for k in RECALLS:
        assert found[f"text_recall_at_{k}"] == recall_by_hand(pictures, captions, texts, k)
        assert found[f"image_recall_at_{k}"] == recall_by_hand(captions, pictures, texts, k)
    assert 0 < found["text_recall_at_1"] < 1
