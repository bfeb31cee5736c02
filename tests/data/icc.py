"""ICC profiles of version 2, written from published primaries and curves (ICC.1:2001-04)."""

import struct
from collections.abc import Callable, Sequence

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
D65, D50_XY = (0.3127, 0.3290), (0.3457, 0.3585)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

Curve = Callable[[np.ndarray], np.ndarray]  # from levels to light, both in [0, 1]


def srgb_curve(levels: np.ndarray) -> np.ndarray:
    """The curve of sRGB and Display P3 (IEC 61966-2-1)."""
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def gamma(exponent: float) -> Curve:
    return lambda levels: levels**exponent


# chromaticities of red, green and blue, those of white, and the curve
SRGB = (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), D65, srgb_curve)
DISPLAY_P3 = (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65, srgb_curve)
ADOBE_RGB = (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65, gamma(563 / 256))
PROPHOTO = (
    ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105)),
    D50_XY,
    gamma(1.8),
)


def xyz_of(chromaticity: tuple[float, float]) -> np.ndarray:
    x, y = chromaticity
    return np.array([x / y, 1, (1 - x - y) / y])


def to_xyz(primaries: Sequence[tuple[float, float]], white: tuple[float, float]) -> np.ndarray:
    """The matrix from linear RGB to XYZ that is adapted to D50, as profiles have it."""
    columns = np.stack([xyz_of(primary) for primary in primaries], axis=1)
    matrix = columns * np.linalg.solve(columns, xyz_of(white))
    gains = (BRADFORD @ D50) / (BRADFORD @ xyz_of(white))
    return np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD @ matrix


def srgb_of(colours: np.ndarray, primaries, white, curve: Curve) -> np.ndarray:
    """What levels of a colour space are in sRGB, by arithmetic: levels [..., 3] in [0, 255]."""
    xyz = curve(np.asarray(colours) / 255) @ to_xyz(primaries, white).T
    light = np.clip(xyz @ np.linalg.inv(to_xyz(*SRGB[:2])).T, 0, 1)
    levels = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return levels * 255


def matrix_profile(primaries, white, curve: Curve) -> bytes:
    """The profile of a display: three primaries, and one curve for all."""
    red, green, blue = to_xyz(primaries, white).T
    tags = {"rXYZ": _xyz(red), "gXYZ": _xyz(green), "bXYZ": _xyz(blue)}
    tags |= dict.fromkeys(("rTRC", "gTRC", "bTRC"), _curve(curve))
    return _profile("mntr", "RGB ", "XYZ ", tags)


def grey_profile(curve: Curve) -> bytes:
    return _profile("mntr", "GRAY", "XYZ ", {"kTRC": _curve(curve)})


def ink_profile(lab_of: Callable[[tuple[int, int, int, int]], Sequence[float]]) -> bytes:
    """The profile of a press, by the Lab colours of the 16 overprints of its four inks."""
    linear = bytes(range(256))
    overprints = [lab_of((c, m, y, k)) for c in (0, 1) for m in (0, 1) for y in (0, 1)
                  for k in (0, 1)]  # fmt: skip
    nodes = bytes(round(value) for L, a, b in overprints for value in (L * 2.55, a + 128, b + 128))
    identity = struct.pack(">9i", *(65536 * int(i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * linear + nodes + 3 * linear
    return _profile("scnr", "CMYK", "Lab ", {"A2B0": table})


def _profile(kind: str, space: str, connection: str, tags: dict[str, bytes]) -> bytes:
    tags = {"desc": _description(), "wtpt": _xyz(D50), "cprt": b"text" + bytes(5)} | tags
    start = 128 + 4 + 12 * len(tags)
    directory, content = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        directory += name.encode() + struct.pack(">II", start + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)

    head = struct.pack(">I4sI", start + len(content), b"lcms", 0x02100000)
    head += f"{kind}{space}{connection}".encode() + struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head += b"acsp" + bytes(4 + 4 + 4 + 4 + 8 + 4) + _fixed(D50)
    return head + bytes(128 - len(head)) + directory + content


def _fixed(values: Sequence[float]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _curve(curve: Curve, n_points: int = 4096) -> bytes:
    points = np.rint(curve(np.linspace(0, 1, n_points)) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", n_points) + points.tobytes()


def _description() -> bytes:
    text = b"test\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67)
