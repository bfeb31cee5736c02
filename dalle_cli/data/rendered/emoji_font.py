"""A font of colour bitmaps, which renders an emoji as one picture or says why it cannot.

Pillow renders bitmaps (the tables CBDT and CBLC of OpenType) in colour, but not the gradients that
newer fonts have instead (COLR, version 1). Knows nothing of names and captions.
"""

import hashlib
import itertools
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dalle_cli.data.rendered.installed_files import FONT_PACKAGES, find_emoji_fonts
from dalle_cli.errors import DalleError, UsageError, printable

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

VARIATION_SELECTOR = "\ufe0f"  # asks for the colour picture of what is also a sign
JOINER = "\u200d"  # joins emoji into one
MODIFIERS = {chr(code) for code in range(0x1F3FB, 0x1F400)}  # skin tones
TAGS = {chr(code) for code in range(0xE0020, 0xE0080)}  # letters of the flags of regions
INVISIBLE = TAGS | {JOINER, VARIATION_SELECTOR}
NO_CHARACTER = "\U0010ffff"  # which no font has
# the flags of a country and of a region ZZ, for which fonts may have a flag that stands in
NO_FLAGS = ("🇿🇿", "🏴\U000e007a\U000e007a\U000e007f")

NOT_DRAWN = "the font has no picture of (punctuation has names, too)"
SIDE_BY_SIDE = "the font has only as several pictures side by side"
IN_PART = "look like their first character alone"
_APART = 1.5  # as wide as this many characters is more than one picture


class EmojiFont:
    """The largest bitmaps of a font file; raises DalleError for a font that has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = _largest_bitmaps(path)
        with _explain_damage(path):
            self._font = ImageFont.truetype(path, size)
            self._missing = self._glyph(NO_CHARACTER)
            self._stand_ins = [self._glyph(flag) for flag in NO_FLAGS]

    def spelling(self, sequence: str) -> str | None:
        """Return how to write a sequence for one picture, None if the font has none.

        sequence  without variation selectors, which some fonts want and others do not
        """
        return next((text for text in spellings(sequence) if not self.problem(text)), None)

    def problem(self, text: str) -> str:
        """Return why a text is not one picture, "" if it is; raises DalleError for damage."""
        with _explain_damage(self.path):
            widths = [self._font.getlength(part) for part in text if part not in INVISIBLE]
            if not widths:
                return NOT_DRAWN
            if self._font.getlength(text) > _APART * max(widths):
                return SIDE_BY_SIDE

            glyph = self._glyph(text)
            if _ink(glyph) is None or glyph == self._missing:
                return NOT_DRAWN
            if len(text.rstrip(VARIATION_SELECTOR)) == 1:
                return ""
            if glyph in self._stand_ins:
                return NOT_DRAWN
            return IN_PART if glyph == self._glyph(text[0]) else ""

    def fingerprint(self, text: str) -> bytes:
        """Return what texts with the same picture have in common."""
        return hashlib.sha256(self._glyph(text).tobytes()).digest()

    def render_emoji(self, text: str, side: int, *, ground: Colour) -> Image.Image:
        """Render a text on a ground of one colour as an RGB picture of side x side pixels.

        The bitmap is centred and cut to a square where its margin allows; else the square is
        large enough for all of it.
        """
        glyph = self._glyph(text)
        size = min(glyph.size)
        if not _is_within(_ink(glyph), glyph.size, size):
            size = max(glyph.size)

        square = Image.new("RGB", (size, size), ground)
        left, top = map(int, self._font.getbbox(text)[:2])
        origin = ((size - glyph.width) // 2 - left, (size - glyph.height) // 2 - top)
        self._draw(square, text, origin)
        return square.resize((side, side), Image.Resampling.LANCZOS)

    def _glyph(self, text: str) -> Image.Image:
        """Return the whole bitmap with its margins, on a transparent ground."""
        left, top, right, bottom = map(int, self._font.getbbox(text))
        glyph = Image.new("RGBA", (max(right - left, 1), max(bottom - top, 1)))
        self._draw(glyph, text, (-left, -top))
        return glyph

    def _draw(self, picture: Image.Image, text: str, origin: tuple[int, int]) -> None:
        ImageDraw.Draw(picture).text(origin, text, font=self._font, embedded_color=True)


def open_emoji_font(path: Path | None) -> EmojiFont:
    """Open a font file, or without one the first installed font that can be rendered.

    Raises UsageError if there is no such file, and DalleError if it has no colour bitmaps.
    """
    if path is not None:
        if not path.is_file():
            raise UsageError(f"no such font file: {printable(str(path))}", FONT_PACKAGES)
        return EmojiFont(path)

    failures = []
    for found in find_emoji_fonts():
        try:
            return EmojiFont(found)
        except DalleError as failure:
            failures.append(failure)
    raise failures[0]


def spellings(sequence: str) -> Iterator[str]:
    """Yield a sequence without variation selectors, then with them after one character or more."""
    takes_selector = [
        end
        for end, character in enumerate(sequence, 1)
        if character not in MODIFIERS | INVISIBLE and sequence[end : end + 1] not in MODIFIERS
    ]
    for n_selectors in range(len(takes_selector) + 1):
        for ends in itertools.combinations(takes_selector, n_selectors):
            yield "".join(
                character + VARIATION_SELECTOR * (end in ends)
                for end, character in enumerate(sequence, 1)
            )


def _ink(glyph: Image.Image) -> Box | None:
    """Return the box of what is not transparent."""
    return glyph.getchannel("A").getbbox()


def _is_within(ink: Box | None, outer: tuple[int, int], size: int) -> bool:
    """Return whether a box lies within the centred square of a larger picture."""
    left, top = (outer[0] - size) // 2, (outer[1] - size) // 2
    return ink is None or (
        left <= ink[0] and top <= ink[1] and ink[2] <= left + size and ink[3] <= top + size
    )


def _largest_bitmaps(path: Path) -> int:
    """Read the size, in pixels per em, of a font's largest colour bitmaps."""
    with _explain_damage(path):
        tables = _read_tables(path.read_bytes())
        if "CBDT" in tables:
            return _bitmap_size(tables["CBLC"])

    shown = printable(str(path))
    if "COLR" in tables:
        raise DalleError(
            f"{shown} has its colours as gradients (COLR), which cannot be rendered here",
            FONT_PACKAGES,
        )
    raise DalleError(f"{shown} has no colour bitmaps (CBDT)", FONT_PACKAGES)


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Convert what reading a file raises into a DalleError."""
    try:
        yield
    except (OSError, struct.error, KeyError, ValueError) as error:
        raise DalleError(f"{printable(str(path))} is no intact font", FONT_PACKAGES) from error


def _read_tables(font: bytes) -> dict[str, bytes]:
    """Split a TrueType file into its tables by name."""
    version, n_tables = struct.unpack_from(">4sH", font)
    if version not in (b"\0\1\0\0", b"true", b"OTTO"):
        raise ValueError(f"no TrueType file: {version!r}")
    tables = {}
    for i in range(n_tables):
        tag, _, start, length = struct.unpack_from(">4sLLL", font, 12 + 16 * i)
        tables[tag.decode("latin-1")] = font[start : start + length]
    return tables


def _bitmap_size(index: bytes) -> int:
    """Return the largest vertical size in the table CBLC, whose records have 48 bytes."""
    (n_sizes,) = struct.unpack_from(">L", index, 4)
    return max(struct.unpack_from("B", index, 8 + 48 * i + 45)[0] for i in range(n_sizes))
