"""Pictures made by whole numbers, so that every machine makes the same bytes: for the golden values of the stages.

They are written as BMP, which knows no compression: ids are of bytes, and compressed bytes differ between libraries.
Photographs are three that scikit-image carries as PNG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

Picture = np.ndarray
"""RGB uint8 (height, width, 3)."""


def cropped() -> dict[str, Picture]:
    """Photographs, 320 x 256."""
    from skimage import data

    return {
        "astronaut": data.astronaut()[0:256, 80:400],
        "coffee": data.coffee()[60:316, 120:440],
        "chelsea": data.chelsea()[20:276, 60:380],
    }


def noise(rng: np.random.Generator, levels: int, side: tuple[int, int] = (256, 320)) -> np.ndarray:
    return rng.integers(-levels, levels + 1, (*side, 3))


def as_picture(values: np.ndarray) -> Picture:
    return np.clip(values, 0, 255).astype(np.uint8)


def shapes(number: int) -> Picture:
    """Things of one colour each on a calm ground, so that any way of finding them finds the same ones."""
    rng = np.random.default_rng(1000 + number)
    y, x = np.mgrid[0:256, 0:320]
    ground = np.stack([90 + x // 8, 110 + y // 6, 150 + (x + y) // 16], axis=2) + number * 9
    colours = [(214, 40, 40), (40, 150, 60), (240, 200, 40), (60, 60, 190), (235, 235, 230), (30, 26, 28)]
    places = [(70, 80, 42), (70, 230, 36), (185, 90, 40), (180, 240, 48)]
    for turn, (cy, cx, radius) in enumerate(places):
        colour = np.array(colours[(turn + 2 * number) % len(colours)])
        inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2 if turn % 2 == 0 else (
            (abs(y - cy) < radius * 3 // 4) & (abs(x - cx) < radius)
        )  # fmt: skip
        shade = (radius + cx - x) // 4
        ground = np.where(inside[..., None], colour + shade[..., None], ground)
    return as_picture(ground + noise(rng, 2))


def large() -> Picture:
    """One thing that fills a third of the picture, so that its background may be asked for."""
    y, x = np.mgrid[0:256, 0:320]
    ground = np.stack([70 + x // 6, 130 + y // 5, 90 + x // 10], axis=2)
    inside = (4 * (y - 130) ** 2 + 3 * (x - 160) ** 2) < 4 * 92**2
    picture = np.where(inside[..., None], np.array([210, 60, 50]) + ((160 - x) // 5)[..., None], ground)
    return as_picture(picture + noise(np.random.default_rng(9), 2))


def collage() -> Picture:
    """Two panels that touch; from row to row the step between them is another, around what counts as a step."""
    rng = np.random.default_rng(5)
    picture = np.full((256, 320, 3), 118) + noise(rng, 1)
    steps = np.repeat(rng.integers(6, 16, 64), 4) * np.repeat(rng.choice([-1, 1], 64), 4)
    picture[:, 160:] += steps[:, None, None]
    return as_picture(picture)


def in_a_frame(photo: Picture) -> Picture:
    """A photograph inside of a border of one colour that is not quite one."""
    picture = np.full((256, 320, 3), (236, 232, 220)) + noise(np.random.default_rng(6), 1)
    picture[26:230, 40:290] = photo[26:230, 40:290]
    return as_picture(picture)


def turned_canvas(photo: Picture) -> Picture:
    """Black corners, as of a photograph that was turned by some degrees inside of its canvas."""
    y, x = np.mgrid[0:256, 0:320]
    outside = (9 * x + 64 * y < 64 * 40) | (9 * (319 - x) + 64 * (255 - y) < 64 * 40)
    outside |= (64 * x - 9 * y + 9 * 255 < 64 * 32) | (64 * (319 - x) - 9 * (255 - y) + 9 * 255 < 64 * 32)
    return np.where(outside[..., None], np.uint8(0), photo)


def with_a_code(photo: Picture) -> Picture:
    """A QR code on a photograph."""
    modules = np.pad(cv2.QRCodeEncoder.create().encode("ugaf") // 255, 2, constant_values=1)
    code = np.kron(modules, np.ones((4, 4), np.uint8)) * 255
    picture = photo.copy()
    picture[40 : 40 + code.shape[0], 60 : 60 + code.shape[1]] = code[..., None]
    return picture


def in_blocks(photo: Picture) -> Picture:
    """The steps at every eighth pixel that strong JPEG compression leaves."""
    means = photo.reshape(32, 8, 40, 8, 3).astype(np.int64).mean(axis=(1, 3)).astype(np.int64)
    return as_picture((photo.astype(np.int64) * 2 + np.kron(means, np.ones((8, 8, 1), np.int64)) * 3) // 5)


def dim() -> Picture:
    """Dark, of little contrast, noisy, part of it black."""
    x = np.mgrid[0:256, 0:320][1]
    return as_picture(np.stack([x // 12 - 6, x // 14 - 4, x // 11 - 7], axis=2) + noise(np.random.default_rng(7), 6))


def photographs() -> dict[str, Picture]:
    """All pictures of the case `photographs`, by name."""
    real = cropped()
    return {
        **real,
        **{f"shapes-{number}": shapes(number) for number in range(3)},
        "collage": collage(),
        "frame": in_a_frame(real["coffee"]),
        "turned": turned_canvas(real["astronaut"]),
        "code": with_a_code(real["chelsea"]),
        "blocks": in_blocks(real["coffee"]),
        "dim": dim(),
        "brighter-copy": as_picture(real["chelsea"].astype(int) + 9),
        "cropped-copy": real["astronaut"][:, 24:],
    }


def declaring() -> dict[str, bytes]:
    """PNG files that say where they come from; what the pixels are does not matter."""
    texts = {
        "generator": {"Software": "NovelAI", "Comment": '{"steps": 28, "sampler": "k_euler"}'},
        "parameters": {"parameters": "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Model: x"},
        "program": {"Software": "GIMP 2.10.36"},
        "plain": {},
    }
    return {name: _png({key.encode(): value.encode() for key, value in said.items()}) for name, said in texts.items()}


def _png(texts: Mapping[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    said = b"".join(chunk(b"tEXt", key + b"\0" + value) for key, value in texts.items())
    # Stored, not compressed: one block, its length and that length's complement.
    lines = (b"\0" + bytes([90, 120, 150]) * 8) * 8
    block = b"\x01" + struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF) + lines
    pixels = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(lines))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + said + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _ramp(photo: Picture) -> Picture:
    """In a box, ever more lightness from left to right: from what nobody sees to what everybody does."""
    edited = photo.astype(int)
    edited[60:200, 60:260] += (np.arange(200) // 12)[None, :, None]
    return as_picture(edited)


def _recoloured(photo: Picture) -> Picture:
    edited = photo.copy()
    edited[90:170, 100:210] = edited[90:170, 100:210, ::-1]
    return edited


def _pasted(photo: Picture) -> Picture:
    """Something smooth put in, with hard edges."""
    y, x = np.mgrid[0:80, 0:110]
    edited = photo.copy()
    edited[90:170, 100:210] = np.stack([150 + x // 4, 90 + y // 3, 60 + (x + y) // 5], axis=2)
    return edited


def _smoothed(photo: Picture) -> Picture:
    wide = np.pad(photo, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(int)
    total = sum(wide[dy : dy + 256, dx : dx + 320] for dy in range(3) for dx in range(3))
    return as_picture(total // 9)


def pairs() -> dict[str, tuple[Picture, Picture, dict[str, Any]]]:
    """Source, edit, and what the set says of them."""
    real = cropped()
    photo, other = real["astronaut"], real["coffee"]
    grainy = as_picture(_recoloured(other).astype(int) + noise(np.random.default_rng(8), 3))
    box = {"boxes": [[100, 90, 210, 170]]}
    grey = np.repeat((photo.astype(int) @ np.array([3, 6, 1]) // 10)[..., None], 3, axis=2)
    return {
        "recolor": (photo, _recoloured(photo), {"task": "recolor", **box}),
        "recolor again": (photo, _recoloured(photo), {"task": "recolor", **box}),
        "recolor, grainy": (other, grainy, {"task": "recolor", **box}),
        "ramp": (other, _ramp(other), {"task": "auto"}),
        "ramp, flat": (dim(), _ramp(dim()), {"task": "auto", "boxes": [[60, 60, 260, 200]]}),
        "pasted": (photo, _pasted(photo), {"task": "add", **box}),
        "removed": (_pasted(photo), photo, {"task": "remove", **box}),
        "replaced, moved": (photo, np.roll(_pasted(photo), (2, 3), (0, 1)), {"task": "replace", **box}),
        "elsewhere": (other, _pasted(other), {"task": "add", "boxes": [[10, 10, 60, 60]]}),
        "smooth": (photo, _smoothed(photo), {"task": "style"}),
        "brighter": (photo, as_picture(photo.astype(int) + 24), {"task": "tone"}),
        "warmer": (other, as_picture(other.astype(int) + np.array([14, 2, -16])), {"task": "tone"}),
        "grey": (photo, as_picture(grey), {"task": "tone"}),
        "background": (photo, np.where(_disc()[..., None], photo, np.uint8(128)), {"task": "background"}),
        "nothing": (other, other, {"task": "auto"}),
    }


def _disc() -> np.ndarray:
    y, x = np.mgrid[0:256, 0:320]
    return (y - 128) ** 2 + (x - 150) ** 2 < 90**2


def write(folder: Path, pictures: Mapping[str, Picture]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.bmp")
