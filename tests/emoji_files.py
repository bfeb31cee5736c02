"""A font of colour bitmaps and annotations of CLDR, small enough to be written by a test."""

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from PIL import Image

PPEM, WIDTH, HEIGHT = 20, 24, 20  # of the bitmaps, whose margins are those of a wide font
UNITS = 1000  # per em
NAMES = {
    "🐶": ("dog face", "dog | face | pet"),
    "🍕": ("pizza", "cheese | pizza | slice"),
    "❤": ("red heart", "heart"),
    "👋": ("waving hand", "hand | wave | waving"),
    "👋🏻": ("waving hand: light skin tone", "hand | light skin tone | wave"),
    "🏻": ("light skin tone", "skin tone | type 1–2"),
    "🥇": ("1st place medal", "first | gold | medal"),
    "🥈": ("2nd place medal", "medal | second | silver"),
    ",": ("comma", "comma"),
}


def picture_of(colour: str, margin: int = 2) -> Image.Image:
    """Paint a bitmap of one colour between transparent margins on the left and right."""
    picture = Image.new("RGBA", (WIDTH, HEIGHT))
    picture.paste(Image.new("RGBA", (WIDTH - 2 * margin, HEIGHT), colour), (margin, 0))
    return picture


PICTURES = {
    "🐶": picture_of("brown"),
    "🍕": picture_of("orange"),
    "❤": picture_of("red"),
    "👋": picture_of("yellow"),
    "🏻": picture_of("pink"),
    "🥇": picture_of("gold"),
    "🥈": picture_of("gold"),
}


def write_font(path: Path, pictures: Mapping[str, Image.Image] = PICTURES) -> Path:
    """Write a font with a bitmap for each character, and none for sequences."""
    images = [Image.new("RGBA", (WIDTH, HEIGHT)), *(pictures[c] for c in sorted(pictures))]
    glyphs = [_glyph(image) for image in images]  # the first is that of missing characters
    tables = {
        "CBDT": struct.pack(">L", 0x00030000) + b"".join(glyphs),
        "CBLC": _bitmap_index(glyphs),
        "cmap": _character_map(sorted(pictures)),
        "head": struct.pack(
            ">LLLLHHQQhhhhHHhhh",
            0x10000, 0, 0, 0x5F0F3CF5, 0, UNITS, 0, 0, 0, 0, UNITS, UNITS, 0, 8, 2, 0, 0,
        ),
        "hhea": struct.pack(
            ">LhhhHhhhhhhhhhhhH", 0x10000, 800, -200, 0, UNITS, *[0] * 11, len(glyphs)
        ),
        "hmtx": struct.pack(">Hh", UNITS * WIDTH // PPEM, 0) * len(glyphs),
        "maxp": struct.pack(">LH", 0x5000, len(glyphs)),
    }  # fmt: skip
    path.write_bytes(_font_file(tables))
    return path


def write_annotations(folder: Path, names: Mapping[str, tuple[str, str]] = NAMES) -> Path:
    """Write CLDR's two files; as there, sequences are in the second."""
    for place, is_derived in (("annotations", False), ("annotationsDerived", True)):
        (folder / place).mkdir(parents=True)
        rows = [
            f"<annotation cp={quoteattr(sequence)}>{escape(keywords)}</annotation>\n"
            f"<annotation cp={quoteattr(sequence)} type='tts'>{escape(name)}</annotation>"
            for sequence, (name, keywords) in names.items()
            if (len(sequence) > 1) == is_derived
        ]
        text = "\n".join(["<ldml><annotations>", *rows, "</annotations></ldml>"])
        (folder / place / "en.xml").write_text(text, "utf-8")
    return folder


def _glyph(image: Image.Image) -> bytes:
    """Return a bitmap of format 17: small metrics and a PNG."""
    png = io.BytesIO()
    image.save(png, "png")
    content = png.getvalue()
    metrics = struct.pack(">BBbbB", image.height, image.width, 0, image.height, WIDTH)
    return metrics + struct.pack(">L", len(content)) + content


def _bitmap_index(glyphs: list[bytes]) -> bytes:
    """Return the table CBLC: a single size, with one subtable of format 1 for all glyphs."""
    starts = [sum(map(len, glyphs[:i])) for i in range(len(glyphs) + 1)]
    subtable = struct.pack(">HHL", 1, 17, 4) + struct.pack(f">{len(starts)}L", *starts)
    array = struct.pack(">HHL", 0, len(glyphs) - 1, 8)
    line = struct.pack(">bbBbbbbbbbbb", HEIGHT, 0, WIDTH, *[0] * 9)
    size = struct.pack(">LLLL", 56, len(array + subtable), 1, 0) + line + line
    size += struct.pack(">HHBBBb", 0, len(glyphs) - 1, PPEM, PPEM, 32, 1)
    return struct.pack(">LL", 0x00030000, 1) + size + array + subtable


def _character_map(characters: list[str]) -> bytes:
    groups = [struct.pack(">LLL", ord(c), ord(c), i) for i, c in enumerate(characters, 1)]
    table = struct.pack(">HHLLL", 12, 0, 16 + 12 * len(groups), 0, len(groups)) + b"".join(groups)
    return struct.pack(">HHHHL", 0, 1, 3, 10, 12) + table


def _font_file(tables: Mapping[str, bytes]) -> bytes:
    start = 12 + 16 * len(tables)
    directory, content = b"", b""
    for tag, table in sorted(tables.items()):
        directory += struct.pack(">4sLLL", tag.encode(), 0, start + len(content), len(table))
        content += table + b"\0" * (-len(table) % 4)
    return struct.pack(">LHHHH", 0x10000, len(tables), 0, 0, 0) + directory + content
