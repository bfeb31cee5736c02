"""The page of `dalle serve` in a browser: generate, stop, generate again, bad input, keys."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import Page
from PIL import Image
from served_model import PaintedModel, Served, serving

from dalle_cli.serving.access import Access

pytestmark = pytest.mark.browser

STATUS = "document.querySelector('#status').textContent"
HEADINGS = "[...document.querySelectorAll('#past h2')].map((one) => one.textContent)"
N_PICTURES = "document.querySelectorAll('#past img').length"
FOCUSED = "document.activeElement.id || document.activeElement.name"
HOSTILE = """<img src=x onerror="alert(1)"> & </script><script>alert(2)</script>"""


@pytest.fixture
def model() -> PaintedModel:
    return PaintedModel()


@pytest.fixture
def served(model: PaintedModel) -> Iterator[Served]:
    with serving(model) as served:
        yield served


def wait_for_status(page: Page, text: str) -> None:
    page.wait_for(f"{STATUS} === {text!r}")


def ask_for(page: Page, caption: str) -> None:
    """Type a caption and press Enter."""
    page.focus("[name=caption]")
    page.evaluate("document.activeElement.select()")
    page.type(caption)
    page.press("Enter")


def test_pictures_appear_with_seed_and_link(page: Page, served: Served) -> None:
    page.open(served.url)
    ask_for(page, "a blue ring")
    wait_for_status(page, "Done: 4 of 4 pictures")
    page.wait_for("[...document.images].filter((one) => one.naturalWidth === 32).length === 4")

    job = served.ask("jobs").facts["jobs"][0]
    words = page.evaluate(
        "[...document.querySelectorAll('figcaption span')].map((one) => one.textContent)"
    )
    assert words == [f"number {number} · seed {job['seed']}" for number in range(4)]
    assert page.evaluate("document.querySelectorAll('a.again').length") >= 4
    assert page.problems() == []
    assert all(url.startswith(served.url) for url in page.requests())


def test_link_generates_one_picture_again(page: Page, served: Served) -> None:
    page.open(served.url)
    ask_for(page, "a blue ring")
    wait_for_status(page, "Done: 4 of 4 pictures")
    page.click("figure:nth-child(3) a.again")
    wait_for_status(page, "Done: 1 of 1 pictures")

    first, second = served.ask("jobs").facts["jobs"]
    files = (first["pictures"][2]["file"], second["pictures"][0]["file"])
    assert served.ask(files[0]).content == served.ask(files[1]).content
    assert page.evaluate("document.querySelector('[name=seed]').value") == str(first["seed"])
    assert page.problems() == []


def test_link_that_is_opened_elsewhere_fills_in_the_form_and_generates_nothing(
    page: Page, served: Served
) -> None:
    page.open(f"{served.url}?caption=a+ring&seed=7&n=1&first=2&length=9&picture=x&image=../x")
    values = page.evaluate(
        "['caption', 'seed', 'n', 'first'].map((name) => document.forms[0].elements[name].value)"
    )
    assert values == ["a ring", "7", "1", "2"]
    assert served.ask("jobs").facts == {"jobs": []} and page.problems() == []
    page.click("#generate")
    wait_for_status(page, "Done: 1 of 1 pictures")
    assert served.ask("jobs").facts["jobs"][0]["seed"] == 7


def test_pictures_come_one_after_another_and_can_be_stopped(
    page: Page, served: Served, model: PaintedModel
) -> None:
    model.gate.clear()
    model.n_ungated = 2
    page.open(served.url)
    ask_for(page, "a blue ring")
    wait_for_status(page, "Generating: 2 of 4 pictures")
    assert page.evaluate(N_PICTURES) == 2
    page.wait_for("document.querySelector('progress').value === 0.5")

    page.click("#stop")
    wait_for_status(page, "Stopped: 2 of 4 pictures")
    assert page.evaluate("document.querySelector('#stop').disabled")
    assert page.evaluate("document.querySelector('progress').hidden")
    model.gate.set()
    ask_for(page, "a cross")
    wait_for_status(page, "Done: 4 of 4 pictures")
    assert page.evaluate(HEADINGS) == ["a cross", "a blue ring"] and page.problems() == []


def test_best_come_first_and_the_others_go(page: Page, served: Served) -> None:
    page.open(served.url)
    page.evaluate("document.querySelector('[name=best]').value = 2")
    page.evaluate("document.querySelector('[name=rank]').value = 'clip'")
    ask_for(page, "a ring")
    wait_for_status(page, "Done: 2 of 4 pictures")
    words = page.evaluate(
        "[...document.querySelectorAll('figcaption span')].map((one) => one.textContent)"
    )
    assert [text.split(" · ")[:2] for text in words] == [
        ["1. score 0.375", "number 3"],
        ["2. score 0.250", "number 2"],
    ]


def test_page_works_by_keys_alone(page: Page, served: Served, model: PaintedModel) -> None:
    model.gate.clear()
    page.open(served.url)
    page.focus("[name=caption]")
    page.type("a ring")
    order = [page.evaluate(FOCUSED)]
    while order[-1] != "generate":
        page.press("Tab")
        order.append(page.evaluate(FOCUSED))
        assert len(order) < 20, order
    fields = ["caption", "n", "seed", "first", "temperature", "guidance", "best", "rank"]
    assert order == [*fields, "picture", "keep_rows", "generate"]

    page.press("Enter")
    page.wait_for(f"{FOCUSED} === 'stop'")  # which has to be at hand then
    page.press("Enter")
    wait_for_status(page, "Stopped: 0 of 4 pictures")
    assert page.evaluate(FOCUSED) == "generate" and page.problems() == []


def test_numbers_out_of_bounds_are_told_before_anything_is_sent(page: Page, served: Served) -> None:
    page.open(served.url)
    for name, value in (("n", 65), ("n", 0), ("temperature", -1), ("seed", 1.5), ("caption", "")):
        page.evaluate("document.forms[0].reset()")
        page.evaluate("document.querySelector('[name=caption]').value = 'a ring'")
        page.evaluate(f"document.querySelector('[name={name}]').value = {value!r}")
        page.click("#generate")
        assert page.evaluate("document.querySelector(':invalid:not(form, fieldset)').name") == name
    assert served.ask("jobs").facts == {"jobs": []} and page.problems() == []


def test_what_the_server_refuses_is_told(page: Page, served: Served) -> None:
    page.open(served.url)
    page.evaluate("document.querySelector('[name=best]').value = 2")
    ask_for(page, "a ring")
    page.wait_for(f"{STATUS}.startsWith('nothing says which are the best')")
    assert page.problems(of_network=False) == []


def test_picture_to_begin_from_is_shown_used_and_removed(
    page: Page, served: Served, model: PaintedModel, tmp_path: Path
) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    page.open(served.url)
    page.choose_file("[name=picture]", tmp_path / "red.png")
    page.wait_for("document.querySelector('#preview').naturalWidth === 32")
    ask_for(page, "a ring")
    wait_for_status(page, "Done: 4 of 4 pictures")
    begun_from = model.begun_from[-1]
    assert begun_from is not None and begun_from.getpixel((3, 3)) == (255, 0, 0)

    page.click("#remove")
    page.click("figure:nth-child(2) a.again")
    wait_for_status(page, "Done: 1 of 1 pictures")
    assert model.begun_from[-1] is not None
    page.click("#remove")
    assert page.evaluate("document.querySelector('#preview').hidden")
    ask_for(page, "a cross")
    page.wait_for(f"{HEADINGS}[0] === 'a cross'")
    assert served.finished(3)["image"] is None and page.problems() == []


@pytest.mark.parametrize("content", [b"", b"no picture at all"])
def test_file_that_is_no_picture_is_told(
    content: bytes, page: Page, served: Served, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_bytes(content)
    page.open(served.url)
    page.choose_file("[name=picture]", tmp_path / "text.png")
    page.wait_for(f"{STATUS}.startsWith('cannot use the picture: ')")
    ask_for(page, "a ring")
    page.click("#remove")
    assert served.ask("jobs").facts == {"jobs": []} and page.problems(of_network=False) == []


def test_large_file_is_told_without_being_sent(page: Page, served: Served, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(17 * 2**20)
    page.open(served.url)
    page.choose_file("[name=picture]", tmp_path / "large.png")
    wait_for_status(page, "The picture is larger than 16 MiB")
    assert not [url for url in page.requests() if "uploads" in url] and page.problems() == []


def test_captions_and_warnings_stay_text(page: Page, served: Served, model: PaintedModel) -> None:
    model.warnings = [HOSTILE]
    page.open(served.url)
    ask_for(page, HOSTILE)
    wait_for_status(page, "Done: 4 of 4 pictures")
    assert page.evaluate(HEADINGS) == [HOSTILE]
    assert page.evaluate("document.querySelector('.notes li').textContent") == HOSTILE
    assert page.evaluate("document.scripts.length") == 1 and page.problems() == []


def test_history_is_there_after_reloading_and_what_runs_is_followed(
    page: Page, served: Served, model: PaintedModel
) -> None:
    served.generated("a ring", n=2)
    model.gate.clear()
    served.post("jobs", {"caption": "a cross", "n": 3})
    page.open(served.url)
    wait_for_status(page, "Generating: 0 of 3 pictures")
    assert page.evaluate(HEADINGS) == ["a cross", "a ring"]
    page.evaluate("location.reload()")
    wait_for_status(page, "Generating: 0 of 3 pictures")
    model.gate.set()
    wait_for_status(page, "Done: 3 of 3 pictures")
    assert page.evaluate(N_PICTURES) == 5 and page.problems() == []


def test_server_that_has_ended_is_told(page: Page, model: PaintedModel) -> None:
    with serving(model) as served:
        page.open(served.url)
    ask_for(page, "a ring")
    page.wait_for(f"{STATUS}.startsWith('The server does not answer')")
    assert page.problems(of_network=False) == []


def test_page_with_a_token_keeps_it(page: Page, model: PaintedModel) -> None:
    with serving(model, Access.to_address("0.0.0.0")) as served:
        page.open(served.url)
        ask_for(page, "a ring")
        wait_for_status(page, "Done: 4 of 4 pictures")
        page.wait_for("[...document.images].filter((one) => one.naturalWidth === 32).length === 4")
        page.click("a.again[href*=first]")
        wait_for_status(page, "Done: 1 of 1 pictures")
        assert all(url.startswith(served.url) for url in page.requests())
        assert page.problems() == []


def test_page_can_be_read_narrow_and_wide_light_and_dark(
    page: Page, served: Served, model: PaintedModel, tmp_path: Path, check_looks: Callable
) -> None:
    model.warnings = ['never seen in training: "octopus"']
    page.open(served.url)
    check_looks("serve-empty")
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "teal.png")
    page.choose_file("[name=picture]", tmp_path / "teal.png")
    page.wait_for("document.querySelector('#preview').naturalWidth === 32")
    ask_for(page, "a very long caption " * 20 + "x" * 300)
    wait_for_status(page, "Done: 4 of 4 pictures")

    model.gate.clear()
    model.n_ungated = 2
    ask_for(page, "an octopus")
    wait_for_status(page, "Generating: 2 of 4 pictures")
    check_looks("serve")
    assert page.problems() == []
