"""Names for colours: thirteen everyday words, with `dark` and `light` where they help.

Hue is taken from HSV (where blue and purple lie apart), lightness and chroma from CIELAB (where dark yellow is not
called bright). The thirteen words are Berlin and Kay's eleven basic colour terms (*Basic Color Terms*, 1969) with
teal and beige, which people use for what lies between green and blue, and between white and brown.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

NAMES = (
    "black", "grey", "white", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "beige",
)  # fmt: skip
NEUTRAL = frozenset({"black", "grey", "white", "beige"})
"""Names that say little: half the things in a photograph are black, grey, white or beige."""

NEIGHBOURS: dict[str, frozenset[str]] = {
    "black": frozenset({"grey"}),
    "grey": frozenset({"black", "white", "beige", "brown"}),
    "white": frozenset({"grey", "beige"}),
    "red": frozenset({"orange", "pink", "brown"}),
    "orange": frozenset({"red", "yellow", "brown"}),
    "yellow": frozenset({"orange", "beige", "green"}),
    "green": frozenset({"teal", "yellow"}),
    "teal": frozenset({"green", "blue"}),
    "blue": frozenset({"teal", "purple"}),
    "purple": frozenset({"blue", "pink"}),
    "pink": frozenset({"red", "purple", "beige"}),
    "brown": frozenset({"orange", "beige", "red", "grey"}),
    "beige": frozenset({"brown", "white", "grey", "yellow", "pink"}),
}
"""Names that two people could give to one colour; symmetric."""

_DARK_BELOW = {"grey": 45, "red": 30, "green": 36, "teal": 34, "blue": 33, "purple": 30, "pink": 42, "brown": 27}
_LIGHT_ABOVE = {"grey": 72, "green": 76, "teal": 78, "blue": 70, "purple": 66, "pink": 82, "brown": 48, "yellow": 93}

FAINT = 19.0
"""A brown of less CIELAB chroma is called greyish brown."""


@dataclass(frozen=True)
class Colour:
    """The colour of a region.

    phrase: the words, as "dark blue" or "black and white"; empty where no colour or pair of colours prevails.
    names: the one or two basic names in the phrase.
    shares: share of the region's pixels (0..1) by basic name, where it is at least 0.05.
    mean: mean RGB (0..255) of the pixels that carry the first name, or of all.
    """

    phrase: str
    names: tuple[str, ...]
    shares: dict[str, float]
    mean: tuple[int, int, int]


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (L 0..100, a, b) of RGB uint8 (..., 3), D65: float32 of the same shape."""
    pixels = np.asarray(rgb, dtype=np.float32).reshape(-1, 1, 3) / 255.0
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).reshape(np.shape(rgb))


def difference(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """CIE76 colour difference of two RGB uint8 colours: 2.3 is just noticeable, 100 is black to white."""
    pair = lab(np.array([a, b], dtype=np.uint8))
    return float(np.linalg.norm(pair[0] - pair[1]))


def name_indices(rgb: np.ndarray) -> np.ndarray:
    """Basic name of each pixel: uint8 (...) of positions in NAMES, for RGB uint8 (..., 3).

    Read from a table of 32 x 32 x 32 colours, so a name changes at multiples of 8.
    """
    coarse = (rgb >> 3).astype(np.intp)
    return _table()[coarse[..., 0], coarse[..., 1], coarse[..., 2]]


def basic_name(rgb: tuple[int, int, int]) -> str:
    """Basic name of one RGB uint8 colour."""
    return NAMES[int(_classify(np.array([rgb], dtype=np.uint8))[0])]


def phrase_of(name: str, lightness: float) -> str:
    """A basic name with `dark` or `light` for a CIELAB lightness 0..100."""
    if lightness < _DARK_BELOW.get(name, -1):
        return f"dark {name}"
    if lightness > _LIGHT_ABOVE.get(name, 101):
        return f"light {name}"
    return name


def describe(pixels: np.ndarray) -> Colour:
    """The colour of a region: RGB uint8 (n, 3).

    One name where it covers at least half of the pixels and twice as many as the next that could not be mistaken for
    it; two strong neighbours, as the red and orange of a suit, count as one. Two names where they cover four fifths
    together, and each at least a quarter. Otherwise none, rather than a wrong one.
    """
    if len(pixels) == 0:
        return Colour("", (), {}, (0, 0, 0))
    indices = name_indices(pixels)
    counts = np.bincount(indices, minlength=len(NAMES)) / len(indices)
    order = [int(i) for i in np.argsort(-counts, kind="stable")]
    shares = {NAMES[i]: round(float(counts[i]), 4) for i in order if counts[i] >= 0.05}
    first, second = order[0], order[1]
    blended = NAMES[second] in NEIGHBOURS[NAMES[first]]
    if counts[first] >= 0.5 and (counts[second] <= counts[first] / 2 or blended):
        members = pixels[indices == first]
        return Colour(_phrase(NAMES[first], members), (NAMES[first],), shares, _mean(members))
    if (
        blended
        and counts[first] >= 0.3
        and counts[first] + counts[second] >= 0.65
        and not NEUTRAL & {NAMES[first], NAMES[second]}
    ):
        members = pixels[(indices == first) | (indices == second)]
        name = basic_name(_mean(members))
        if name in (NAMES[first], NAMES[second]):
            return Colour(_phrase(name, members), (name,), shares, _mean(members))
    if counts[first] + counts[second] >= 0.8 and counts[second] >= 0.25 and not blended:
        names = (NAMES[first], NAMES[second])
        return Colour(" and ".join(names), names, shares, _mean(pixels[indices == first]))
    return Colour("", (), shares, _mean(pixels))


def _phrase(name: str, members: np.ndarray) -> str:
    lightness, a, b = np.median(lab(members), axis=0)
    if name == "brown" and np.hypot(a, b) < FAINT:
        return "greyish brown"
    return phrase_of(name, float(lightness))


def _mean(pixels: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = np.rint(pixels.mean(axis=0)).astype(int)
    return int(red), int(green), int(blue)


@functools.cache
def _table() -> np.ndarray:
    levels = (np.arange(32) * 8 + 4).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    return _classify(grid.reshape(-1, 3)).reshape(32, 32, 32)


def _classify(rgb: np.ndarray) -> np.ndarray:
    """Names (positions in NAMES) of RGB uint8 (n, 3): the rules that the table is made of."""
    lightness, a, b = lab(rgb).T
    chroma = np.hypot(a, b)
    scaled = rgb.reshape(-1, 1, 3).astype(np.float32) / 255.0
    hue = cv2.cvtColor(scaled, cv2.COLOR_RGB2HSV).reshape(-1, 3)[:, 0]
    warm = (hue < 68) | (hue >= 345)
    # Warm light tints every white and grey object a little, so a warm colour must be stronger to count as one.
    grey_below = np.where(warm, 11.0, 9.0) + np.where(lightness < 25, 5.0, 0.0)
    rules = [
        ("black", (lightness < 16) & (chroma < 28)),
        ("black", (lightness < 22) & (chroma < grey_below)),
        ("white", (lightness >= 88) & (chroma < np.where(warm, 9.0, 8.0))),
        ("grey", chroma < grey_below),
        ("beige", (hue >= 14) & (hue < 68) & (lightness >= 62) & (chroma < 32)),
        ("pink", ((hue < 14) | (hue >= 345)) & (lightness >= 58) & (chroma < 55)),
        ("pink", (hue >= 300) & (hue < 345) & (lightness >= 42)),
        ("purple", (hue >= 255) & (hue < 335)),
        ("brown", (hue >= 14) & (hue < 50) & (lightness < 52)),
        ("brown", (hue >= 14) & (hue < 50) & (lightness < 64) & (chroma < 45)),
        ("brown", ((hue < 14) | (hue >= 345)) & (lightness < 58) & (chroma < 32)),
        ("orange", (hue >= 9.5) & (hue < 14) & (lightness >= 50)),
        ("red", (hue < 14) | (hue >= 335)),
        ("orange", hue < 43),
        ("yellow", (hue < 66) & (lightness >= 45)),
        ("green", hue < 160),
        ("teal", hue < 196),
        ("blue", hue < 255),
    ]
    return np.select([rule for _, rule in rules], [NAMES.index(name) for name, _ in rules], 0).astype(np.uint8)
