"""Installed fonts, annotations and licences: found where they are, named where they are not."""

from pathlib import Path

import pytest

from dalle_cli.data.rendered.installed_files import (
    ANNOTATION_FILES,
    annotation_files,
    find_annotations,
    find_emoji_fonts,
    licence_files,
)
from dalle_cli.errors import UsageError


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system on which nothing is installed: its folder of shared files."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'local'}:{tmp_path / 'share'}")
    return tmp_path / "share"


def touch(*files: Path) -> list[Path]:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return list(files)


def test_fonts_are_found_in_subfolders_and_those_of_the_user_come_first(
    system: Path, tmp_path: Path
) -> None:
    name = "NotoColorEmoji.ttf"
    home = tmp_path / "home"
    files = touch(
        home / ".local/share/fonts" / name,
        system / "fonts/truetype/noto" / name,
        home / ".fonts" / name,
    )
    touch(system / "fonts/truetype/noto/NotoSans.ttf")
    assert find_emoji_fonts() == files


def test_annotations_are_found_where_both_files_are(system: Path, tmp_path: Path) -> None:
    place = "unicode/cldr/common"
    touch(tmp_path / "local" / place / ANNOTATION_FILES[0])
    touch(*(system / place / file for file in ANNOTATION_FILES))
    assert find_annotations() == system / place
    assert annotation_files(system / place) == [system / place / file for file in ANNOTATION_FILES]


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(
    ("find", "packages"),
    [
        (find_emoji_fonts, ["fonts-noto-color-emoji", "noto-fonts-emoji", "--font FILE"]),
        (find_annotations, ["unicode-cldr-core", "cldr-emoji-annotation", "--annotations DIR"]),
        (
            lambda: annotation_files(Path("none")),
            ["unicode-cldr-core", "cldr-emoji-annotation", "--annotations DIR"],
        ),
    ],
)
def test_what_is_missing_is_named_with_its_packages(find: object, packages: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        find()
    assert all(package in raised.value.hint for package in packages)


def test_licences_of_the_package_are_those_of_an_installed_file(system: Path) -> None:
    font, names = system / "fonts/NotoColorEmoji.ttf", system / "unicode/cldr/common"
    touch(font, names / ANNOTATION_FILES[0])
    debian, _, arch = touch(
        system / "doc/fonts-noto-color-emoji/copyright",
        system / "doc/fonts-noto-color-emoji/changelog",
        system / "licenses/unicode-cldr/LICENSE",
    )
    assert licence_files(font, "font") == [debian]
    assert licence_files(names, "names") == [arch]


@pytest.mark.usefixtures("system")
def test_a_licence_beside_a_file_is_its_licence(tmp_path: Path) -> None:
    font, names = tmp_path / "own/emoji.ttf", tmp_path / "cldr/common"
    touch(font, names / ANNOTATION_FILES[0])
    assert licence_files(font, "font") == licence_files(names, "names") == []
    beside = touch(font.parent / "OFL.txt", names.parent / "unicode-license.txt")
    assert [licence_files(font, "font"), licence_files(names, "names")] == [
        [file] for file in beside
    ]
