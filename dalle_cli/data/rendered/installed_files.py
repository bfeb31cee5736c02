"""Where systems keep emoji fonts, Unicode's annotations and the licences of both.

Looks only where packages and users install files (the XDG base directory specification). Knows
nothing of what the files hold.
"""

import os
from pathlib import Path

from dalle_cli.errors import UsageError, printable

FONT_NAMES = "NotoColorEmoji*.ttf"
FONT_PACKAGES = (
    "install fonts-noto-color-emoji (Debian, Ubuntu), noto-fonts-emoji (Arch) or "
    "google-noto-color-emoji-fonts (Fedora before 43), or give `--font FILE` with "
    "NotoColorEmoji.ttf of github.com/googlefonts/noto-emoji"
)
ANNOTATION_PACKAGES = (
    "install unicode-cldr-core (Debian, Ubuntu), unicode-cldr (Arch) or cldr-emoji-annotation "
    "(Fedora), or give `--annotations DIR` with the folder `common` of github.com/unicode-org/cldr"
)
PACKAGES = {
    "font": (
        "fonts-noto-color-emoji",
        "noto-fonts-emoji",
        "google-noto-color-emoji-fonts",
    ),
    "names": ("unicode-cldr-core", "unicode-cldr", "cldr-emoji-annotation"),
}
ANNOTATION_FILES = ("annotations/en.xml", "annotationsDerived/en.xml")
_LICENCE_NAMES = ("license", "licence", "copying", "copyright", "ofl", "unicode-license")


def share_folders() -> list[Path]:
    """Return the folders of shared files: the user's, then the system's."""
    own = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    system = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [Path(own), *map(Path, filter(None, system.split(":")))]


def find_emoji_fonts() -> list[Path]:
    """Return the installed files of Noto Color Emoji; raises UsageError if there are none."""
    home = Path.home()
    folders = [share / "fonts" for share in share_folders()]
    folders += [home / ".fonts", home / "Library" / "Fonts", Path("/Library/Fonts")]
    files = [file for folder in folders for file in sorted(folder.rglob(FONT_NAMES))]
    if not files:
        raise UsageError("no emoji font is installed", FONT_PACKAGES)
    return files


def find_annotations() -> Path:
    """Return the installed folder `common` of CLDR; raises UsageError if there is none."""
    for share in share_folders():
        folder = share / "unicode" / "cldr" / "common"
        if all((folder / file).is_file() for file in ANNOTATION_FILES):
            return folder
    raise UsageError("Unicode's names of emoji are not installed", ANNOTATION_PACKAGES)


def annotation_files(folder: Path) -> list[Path]:
    """Return the English files of CLDR's folder `common`; raises UsageError if one is missing."""
    files = [folder / file for file in ANNOTATION_FILES]
    for file in files:
        if not file.is_file():
            raise UsageError(f"no such file: {printable(str(file))}", ANNOTATION_PACKAGES)
    return files


def licence_files(path: Path, kind: str) -> list[Path]:
    """Return the licence texts that came with a font or a folder of annotations.

    kind  "font" or "names", which decides the packages that may have brought it
    """
    folders = [path.parent] if path.is_file() else [path, path.parent]
    beside = [file for folder in folders for file in sorted(folder.iterdir()) if _is_licence(file)]
    if beside:
        return beside

    shares = [share for share in share_folders() if path.absolute().is_relative_to(share)]
    return [
        file
        for share in shares
        for place in ("doc", "licenses")
        for package in PACKAGES[kind]
        for file in sorted((share / place / package).glob("*"))
        if _is_licence(file)
    ]


def _is_licence(file: Path) -> bool:
    return file.is_file() and file.name.lower().startswith(_LICENCE_NAMES)
