"""ICC profiles of RGB spaces by their primaries and gamma, and photographs written in them."""

from __future__ import annotations

import struct

import numpy as np

Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
Space = tuple[Primaries, float]

SRGB: tuple[Primaries, float | None] = (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), None)
"""None: sRGB's own curve."""
ADOBE: Space = (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 2.2)
P3: Space = (((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), 2.2)
PRO_PHOTO: Space = (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8)

D65 = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_xyz(primaries: Primaries) -> np.ndarray:
    """(3, 3): linear RGB, as a column, to XYZ relative to D50; white is D65 in all spaces here."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    matrix = columns * np.linalg.solve(columns, D65)
    scale = (BRADFORD @ D50) / (BRADFORD @ D65)
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ matrix


def linear_of_srgb(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def numbers_in(space: Space, rgb: np.ndarray) -> np.ndarray:
    """An sRGB picture's numbers in another space: uint8 of the same shape."""
    primaries, gamma = space
    matrix = np.linalg.inv(to_xyz(primaries)) @ to_xyz(SRGB[0])
    linear = np.clip(linear_of_srgb(rgb / 255.0) @ matrix.T, 0, 1)
    return np.rint(linear ** (1 / gamma) * 255).astype(np.uint8)


def matrix_profile(primaries: Primaries, gamma: float | None) -> bytes:
    """An ICC v2 display profile; gamma None: sRGB's curve as a table."""
    x, y, z = to_xyz(primaries)
    columns = {name: _xyz(x[n], y[n], z[n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curve = _curve(gamma)
    tags = {b"desc": _text(), b"wtpt": _xyz(*D50), **columns, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"desc": _text(), b"wtpt": _xyz(*D50), b"kTRC": _curve(gamma)})


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    position, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", position + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", position + len(body), b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    table = np.rint(linear_of_srgb(np.linspace(0, 1, 1024)) * 65535).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + table


def _text() -> bytes:
    name = b"made for a test\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
