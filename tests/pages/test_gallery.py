"""The gallery of a job."""

import re

from dalle_cli.pages.gallery import gallery


def record(number: int, caption: str, **more: object) -> dict:
    return {"file": f"{number:04d}.png", "caption": caption, "number": number, "seed": 3, **more}


def test_pictures_are_grouped_by_caption_with_their_scores() -> None:
    records = [
        record(1, "a ring", score=0.31249, rank=1, ranked_by="clip"),
        record(0, "a ring", score=-250.75, rank=2, ranked_by="clip"),
        record(0, "a <cross>", score=0.1, rank=1, ranked_by="clip"),
    ]
    page = gallery(records, side=32, command=lambda one: ["dalle", one["caption"]])
    assert "<h1>3 pictures of 2 captions</h1>" in page
    assert re.findall("<h2>(.*?)</h2>", page) == ["a ring", "a &lt;cross&gt;"]
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == [
        "1. score 0.312 · number 1",
        "2. score -250.8 · number 0",
        "1. score 0.100 · number 0",
    ]
    assert re.findall('src="(.*?)"', page) == ["0001.png", "0000.png", "0000.png"]
    assert "<code>dalle &#x27;a &lt;cross&gt;&#x27;</code>" in page
    assert '<main class="small">' in page and "<th>seed</th><td>3</td>" in page


def test_settings_of_zero_are_shown_and_absent_ones_are_not() -> None:
    records = [record(0, "a ring", temperature=0.0, top_k=None) | {"seed": 0}]
    page = gallery(records, side=32, command=lambda one: ["dalle"])
    assert "<th>seed</th><td>0</td>" in page and "<th>temperature</th><td>0.0</td>" in page
    assert "<th>top k</th>" not in page


def test_pictures_without_a_ranking_have_their_numbers_alone() -> None:
    page = gallery([record(5, "a ring")], side=256, command=lambda one: ["dalle"])
    assert "<h1>1 pictures" not in page and '<main class="large">' in page
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == ["number 5"]
