"""Which format a file is in, by its first bytes, and what helps where it is not read."""

START = 64  # bytes that tell the formats apart

READ = ("JPEG", "PNG", "WebP", "GIF")
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
)
# Brands of ISO base media files, of which video files are others
_BRANDS = {"AVIF": (b"avif", b"avis"), "HEIC": (b"heic", b"heix", b"heim", b"heis", b"mif1")}


def format_of(start: bytes) -> str | None:
    """Return the name of a picture's format, given the first bytes of its file; None if unknown."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[4:8] == b"ftyp":
        end = min(int.from_bytes(start[:4]), len(start))
        brands = {start[i : i + 4] for i in range(8, end, 4)}
        return next((name for name, known in _BRANDS.items() if brands.intersection(known)), None)
    return next((name for magic, name in _STARTS if start.startswith(magic)), None)


def is_picture(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a picture in a format that is read."""
    return format_of(start) in READ


def describe_unreadable(data: bytes) -> str:
    """Describe why a file that no decoder knows is not a picture, with what helps."""
    if data.startswith(b"version https://git-lfs"):
        return "Git LFS pointer, not the picture: `git lfs pull` fetches it"
    name = format_of(data[:START])
    text = data[:1024].lstrip().lower()
    if name is None and text.startswith((b"<!doctype html", b"<html")):
        return "web page, not a picture"
    if name is None and b"<svg" in text:
        name = "SVG"
    if name is None or name in READ:
        return "not a JPEG, PNG, WebP or GIF picture"
    return f"{name}, which is not read: convert it to JPEG or PNG"
