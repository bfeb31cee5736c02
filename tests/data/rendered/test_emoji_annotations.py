"""Names and keywords of CLDR: as they stand in the file, but as people type them."""

from pathlib import Path

import pytest

from dalle_cli.data.rendered.emoji_annotations import Annotation, load_annotations
from dalle_cli.errors import DalleError


def written(folder: Path, text: str) -> list[Path]:
    folder.joinpath("en.xml").write_text(text, "utf-8")
    return [folder / "en.xml"]


def annotated(*rows: str) -> str:
    return f"<ldml><annotations>{''.join(rows)}</annotations></ldml>"


def test_names_and_keywords_are_paired_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = annotated(
        '<annotation cp="🐜">ant | insect</annotation>',
        '<annotation cp="🐜" type="tts">ant</annotation>',
        '<annotation cp="🍕" type="tts">pizza</annotation>',
        '<annotation cp="🌊">ocean</annotation>',
    )
    loaded = load_annotations(written(tmp_path, text))
    assert list(loaded.items()) == [
        ("🐜", Annotation("ant", ("ant", "insect"))),
        ("🍕", Annotation("pizza", ())),
    ]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("woman’s hat", "woman's hat"),
        ("Japanese “here” button", "Japanese here button"),
        ("piñata", "piñata"),
        ("flag: Antigua &amp; Barbuda", "flag: Antigua & Barbuda"),
    ],
)
def test_names_have_the_characters_of_a_keyboard(tmp_path: Path, name: str, typed: str) -> None:
    text = annotated(f'<annotation cp="x" type="tts">{name}</annotation>')
    assert load_annotations(written(tmp_path, text))["x"].name == typed


def test_keywords_in_other_scripts_and_with_details_are_dropped(tmp_path: Path) -> None:
    text = annotated(
        '<annotation cp="x">“here” | ココ | person: beard | | 割 | piñata | 10</annotation>',
        '<annotation cp="x" type="tts">x</annotation>',
    )
    assert load_annotations(written(tmp_path, text))["x"].keywords == ("here", "piñata", "10")


def test_a_document_type_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    text = '<!DOCTYPE ldml SYSTEM "../../common/dtd/ldml.dtd">' + annotated(
        '<annotation cp="x" type="tts">x</annotation>'
    )
    assert load_annotations(written(tmp_path, text))["x"].name == "x"


ENTITIES = '<!ENTITY a0 "aaaaaaaaaa">' + "".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)
)


@pytest.mark.usefixtures("hang_guard")
@pytest.mark.parametrize(
    "text",
    [
        "no XML",
        "<ldml>",
        "<ldml/>",
        annotated('<annotation cp="x">only keywords</annotation>'),
        f"<!DOCTYPE ldml [{ENTITIES}]><ldml>&a11;</ldml>",
        '<!DOCTYPE ldml [<!ENTITY x SYSTEM "file:///etc/hostname">]><ldml>&x;</ldml>',
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DalleError, match="annotations") as raised:
        load_annotations(written(tmp_path, text))
    assert "CLDR" in raised.value.hint
