"""Emoji of a font: bitmap by bitmap the same, whole, and nothing that is not one picture."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from emoji_files import HEIGHT, PICTURES, WIDTH, picture_of, write_font
from PIL import Image, ImageFont, features

from dalle_cli.data.rendered.emoji_font import (
    IN_PART,
    JOINER,
    NOT_DRAWN,
    SIDE_BY_SIDE,
    VARIATION_SELECTOR,
    EmojiFont,
    open_emoji_font,
    spellings,
)
from dalle_cli.data.rendered.installed_files import find_emoji_fonts
from dalle_cli.errors import DalleError, UsageError

WHITE, BLUE = (255, 255, 255), (0, 0, 255)


@pytest.fixture
def font(tmp_path: Path) -> EmojiFont:
    return EmojiFont(write_font(tmp_path / "emoji.ttf"))


@pytest.fixture(scope="module")
def installed() -> EmojiFont:
    try:
        return EmojiFont(find_emoji_fonts()[0])
    except DalleError as missing:
        pytest.skip(missing.message)


def on_ground(bitmap: Image.Image, ground: tuple[int, int, int]) -> np.ndarray:
    """Composite in floating point."""
    pixels = np.asarray(bitmap, dtype=np.float64)
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + np.array(ground) * (1 - alpha)


@pytest.mark.parametrize("ground", [WHITE, BLUE])
def test_bitmap_is_composited_on_the_ground(tmp_path: Path, ground: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    bitmap = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    bitmap[:, 2:-2] = rng.integers(0, 256, (HEIGHT, WIDTH - 4, 4))
    picture = Image.fromarray(bitmap)
    rendered = EmojiFont(write_font(tmp_path / "x.ttf", {"🐶": picture})).render_emoji(
        "🐶", HEIGHT, ground=ground
    )
    wanted = on_ground(picture, ground)[:, 2:-2]
    difference = np.abs(np.asarray(rendered) - wanted)
    assert rendered.mode == "RGB" and rendered.size == (HEIGHT, HEIGHT)
    assert difference.max() <= 2  # a font holds its colours multiplied by alpha, in whole numbers


@pytest.mark.parametrize("margin", [0, 1, 2, 3])
def test_bitmap_is_whole_whatever_its_margin(tmp_path: Path, margin: int) -> None:
    font = EmojiFont(write_font(tmp_path / "x.ttf", {"🐶": picture_of("red", margin)}))
    side = HEIGHT if margin >= 2 else WIDTH
    pixels = np.asarray(font.render_emoji("🐶", side, ground=WHITE))
    red = (pixels == (255, 0, 0)).all(axis=2)
    assert red.sum() == HEIGHT * (WIDTH - 2 * margin)


def test_a_smaller_picture_has_the_same_mean_colour(font: EmojiFont) -> None:
    large, small = (
        np.asarray(font.render_emoji("🐶", side, ground=BLUE), float).mean((0, 1))
        for side in (HEIGHT, HEIGHT // 2)
    )
    np.testing.assert_allclose(small, large, atol=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((character, "") for character in PICTURES),
        (f"❤{VARIATION_SELECTOR}", ""),
        (",", NOT_DRAWN),
        ("🐱", NOT_DRAWN),
        (JOINER, NOT_DRAWN),
        ("👋🏻", SIDE_BY_SIDE),
        ("🐶🍕", SIDE_BY_SIDE),
        (JOINER.join("🐶🍕"), SIDE_BY_SIDE),
    ],
)
def test_problem_says_why_a_text_is_not_one_picture(
    font: EmojiFont, text: str, problem: str
) -> None:
    assert font.problem(text) == problem


def test_texts_with_the_same_picture_have_the_same_fingerprint(font: EmojiFont) -> None:
    assert font.fingerprint("🥇") == font.fingerprint("🥈") != font.fingerprint("🐶")


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow has no Raqm")
@pytest.mark.parametrize(
    ("sequence", "problem"),
    [
        ("😀", ""),
        ("❤", ""),
        ("👋🏽", ""),
        ("👩🏽‍⚕", ""),
        ("❤‍🔥", ""),
        ("👁‍🗨", ""),
        ("🇯🇵", ""),
        ("1⃣", ""),
        ("🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", ""),
        ("🏴", ""),
        ("🏴\U000e0067\U000e0062\U000e007f", NOT_DRAWN),
        ("👋\U000e007f", IN_PART),
        ("🇯🇯", NOT_DRAWN),
        ("😀🏽", SIDE_BY_SIDE),
        ("🐶‍🍕", SIDE_BY_SIDE),
        ("€", NOT_DRAWN),
    ],
)
def test_installed_font_draws_sequences_as_one_picture(
    installed: EmojiFont, sequence: str, problem: str
) -> None:
    assert installed.problem(sequence) == problem
    assert installed.spelling(sequence) == (None if problem else sequence)


def test_without_raqm_single_characters_remain(
    installed: EmojiFont, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFont.core, "HAVE_RAQM", False)
    basic = EmojiFont(installed.path)
    assert [basic.spelling(one) for one in ("😀", "👋", "👋🏽", "👩‍⚕", "🇯🇵")] == [
        "😀", "👋", None, None, None,
    ]  # fmt: skip
    for emoji in "😀👋🍕":
        pictures = [font.render_emoji(emoji, 64, ground=WHITE) for font in (basic, installed)]
        assert pictures[0] == pictures[1]


@pytest.mark.parametrize("sequence", ["❤", "👋🏽", "❤‍🔥", "1⃣", "🏴\U000e0067\U000e007f", "👩‍❤‍💋‍👨"])
def test_spellings_put_the_selector_everywhere_it_may_be(sequence: str) -> None:
    """Against all choices of places, without those after joiners, skin tones and tags."""
    wanted = set()
    for places in itertools.product((False, True), repeat=len(sequence)):
        text = "".join(c + VARIATION_SELECTOR * on for c, on in zip(sequence, places, strict=True))
        before = [c for c, on in zip(sequence, places, strict=True) if on]
        is_split = f"{VARIATION_SELECTOR}🏽" in text
        if not is_split and not set(before) & {JOINER, "🏽", "\U000e0067", "\U000e007f"}:
            wanted.add(text)

    found = list(spellings(sequence))
    assert found[0] == sequence and len(found) == len(set(found)) and set(found) == wanted


def test_the_first_installed_font_with_bitmaps_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    (tmp_path / "fonts").mkdir()
    gradients = tmp_path / "fonts" / "NotoColorEmoji-A.ttf"
    gradients.write_bytes(table_directory("COLR"))
    with pytest.raises(DalleError, match="gradients"):
        open_emoji_font(None)

    font = write_font(tmp_path / "fonts" / "NotoColorEmoji-B.ttf")
    assert open_emoji_font(None).path == font


def table_directory(*tags: str) -> bytes:
    """Return a font file that has these tables and nothing in them."""
    rows = b"".join(tag.encode() + bytes(12) for tag in tags)
    return b"\0\1\0\0" + len(tags).to_bytes(2) + bytes(6) + rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no intact font"),
        (b"no font at all, but some text", "no intact font"),
        (table_directory("CBDT"), "no intact font"),
        (table_directory("CBDT", "CBLC"), "no intact font"),
        (table_directory("COLR", "CPAL", "glyf"), "gradients"),
        (table_directory("glyf"), "no colour bitmaps"),
    ],
)
def test_font_that_cannot_be_rendered_in_colour_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "font.ttf"
    file.write_bytes(content)
    with pytest.raises(DalleError, match=message) as raised:
        open_emoji_font(file)
    assert "fonts-noto-color-emoji" in raised.value.hint


def test_installed_font_without_colour_is_refused() -> None:
    text_fonts = sorted(Path("/usr/share/fonts").rglob("DejaVuSans.ttf"))
    if not text_fonts:
        pytest.skip("no text font is installed")
    with pytest.raises(DalleError, match="no colour bitmaps"):
        open_emoji_font(text_fonts[0])


def test_damaged_bitmaps_are_told_rather_than_left_out(tmp_path: Path) -> None:
    file = write_font(tmp_path / "emoji.ttf")
    file.write_bytes(file.read_bytes().replace(b"IDAT", b"IDAX"))
    with pytest.raises(DalleError, match="no intact font"):
        EmojiFont(file).problem("🐶")


def test_missing_font_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such font file"):
        open_emoji_font(tmp_path / "none.ttf")
