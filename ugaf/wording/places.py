"""Where an object is and how large, in words that a person looking at the photograph would agree with.

Positions are of the box's centre, as a share of width and height (0..1 from the upper left). Between two regions
lies a strip where nothing is claimed of that direction, so that "on the left" is never said of what is nearly central.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOW, HIGH = 0.37, 0.63
"""A centre below LOW is left (upper), above HIGH right (lower)."""
MIDDLE = (0.41, 0.59)
"""A centre in this range is in the middle."""
WIDE = 0.62
"""A box that spans more than this share of a direction is on neither of its sides."""
CORNER = 0.24
"""A centre this near to two sides is in a corner."""
LARGE, SMALL = 0.16, 0.025
"""Area of the box as a share of the image: large above, small below."""

PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
    "middle": ("in the middle", "in the centre"),
    "upper left": ("in the upper left", "at the top left"),
    "upper right": ("in the upper right", "at the top right"),
    "lower left": ("in the lower left", "at the bottom left"),
    "lower right": ("in the lower right", "at the bottom right"),
    "upper left corner": ("in the upper left corner", "in the top left corner"),
    "upper right corner": ("in the upper right corner", "in the top right corner"),
    "lower left corner": ("in the lower left corner", "in the bottom left corner"),
    "lower right corner": ("in the lower right corner", "in the bottom right corner"),
}


@dataclass(frozen=True)
class Place:
    """A box relative to its image: centre (x, y) and extent (w, h), all as shares 0..1."""

    x: float
    y: float
    w: float
    h: float

    @classmethod
    def of(cls, box: Sequence[int], width: int, height: int) -> Place:
        x1, y1, x2, y2 = box
        return cls((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)

    @property
    def area(self) -> float:
        return self.w * self.h

    @property
    def side(self) -> str:
        """A key of PHRASES, or "" where no direction is certain."""
        horizontal = _third(self.x, self.w, "left", "right")
        vertical = _third(self.y, self.h, "top", "bottom")
        if horizontal in ("left", "right") and vertical in ("top", "bottom"):
            name = f"{'upper' if vertical == 'top' else 'lower'} {horizontal}"
            near = min(self.x, 1 - self.x) <= CORNER and min(self.y, 1 - self.y) <= CORNER
            return f"{name} corner" if near else name
        if horizontal in ("left", "right"):
            return horizontal
        if vertical in ("top", "bottom"):
            return vertical
        around = abs(self.x - 0.5) < min(0.2, self.w / 2) and abs(self.y - 0.5) < min(0.2, self.h / 2)
        return "middle" if around else ""

    @property
    def size(self) -> str:
        return "large" if self.area >= LARGE else "small" if self.area <= SMALL else ""

    def could_be(self, side: str) -> bool:
        """Whether somebody could say `side` of this place: the same regions, drawn more generously."""
        checks = {
            "left": self.x < 0.47,
            "right": self.x > 0.53,
            "top": self.y < 0.47,
            "upper": self.y < 0.47,
            "bottom": self.y > 0.53,
            "lower": self.y > 0.53,
            "middle": 0.3 < self.x < 0.7 and 0.3 < self.y < 0.7,
            "corner": min(self.x, 1 - self.x) < 0.33 and min(self.y, 1 - self.y) < 0.33,
        }
        return all(checks[word] for word in side.split())

    def could_have(self, size: str) -> bool:
        """Whether somebody could say `size` of it."""
        return {"large": self.area > LARGE * 0.6, "small": self.area < SMALL * 1.7, "": True}[size]


def _third(centre: float, extent: float, low: str, high: str) -> str:
    if extent <= WIDE:
        if centre < LOW:
            return low
        if centre > HIGH:
            return high
    return "middle" if MIDDLE[0] <= centre <= MIDDLE[1] else ""
