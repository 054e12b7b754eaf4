"""Calm regions: where text can stand. Little edge energy, no object, and ink that can be read on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ugaf.imaging import boxes
from ugaf.wording import colours

HEIGHTS = (0.16, 0.12, 0.09)
"""Heights of the boxes tried, as shares of the image's height."""
ASPECTS = (5.0, 3.5, 2.4)
"""Widths of the boxes tried, as multiples of their height in pixels."""
MAX_ENERGY = 14.0
"""Mean gradient magnitude (levels per pixel at working size) up to which a box is calm."""
MARGIN = 0.03
"""Share of the image left free at its borders."""


@dataclass(frozen=True)
class Spot:
    """box: pixels of the full image. lightness: median CIELAB L of what is there, 0..100. energy: see MAX_ENERGY."""

    box: boxes.Box
    lightness: float
    energy: float


def find(photo: np.ndarray, size: tuple[int, int], occupied: Sequence[boxes.Box], limit: int = 6) -> list[Spot]:
    """Calm boxes that overlap neither an occupied box nor each other, calmest first of each size.

    photo: RGB uint8 (h, w, 3) at working size. size: (width, height) of the full image; occupied: its boxes.
    """
    height, width = photo.shape[:2]
    scale = np.array([size[0] / width, size[1] / height] * 2)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) / 4 + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 4
    energy = energy + np.abs(grey - cv2.blur(grey, (31, 31))) / 4
    taken = boxes.to_mask([boxes.clip(np.array(box) / scale, width, height) for box in occupied], height, width)
    sums = cv2.integral(energy)
    blocked = cv2.integral(taken.astype(np.uint8))
    found: list[Spot] = []
    for share in HEIGHTS:
        for aspect in ASPECTS:
            h = round(share * height)
            w = round(h * aspect)
            spot = _calmest(photo, sums, blocked, w, h, scale)
            if spot is None or any(boxes.intersection(spot.box, other.box) for other in found):
                continue
            found.append(spot)
            if len(found) == limit:
                return found
    return found


def _calmest(
    photo: np.ndarray, sums: np.ndarray, blocked: np.ndarray, w: int, h: int, scale: np.ndarray
) -> Spot | None:
    height, width = photo.shape[:2]
    mx, my = max(1, round(MARGIN * width)), max(1, round(MARGIN * height))
    ys = np.arange(my, height - my - h, max(1, h // 4))
    xs = np.arange(mx, width - mx - w, max(1, w // 8))
    if h < 8 or not len(ys) or not len(xs):
        return None
    energy = _box_sums(sums, ys, xs, w, h) / (w * h)
    energy = np.where(_box_sums(blocked, ys, xs, w, h) > 0, np.inf, energy)
    row, column = np.unravel_index(int(np.argmin(energy)), energy.shape)
    if not energy[row, column] <= MAX_ENERGY:
        return None
    x, y = int(xs[column]), int(ys[row])
    lightness = float(np.median(colours.lab(photo[y : y + h, x : x + w])[..., 0]))
    full = np.array([x, y, x + w, y + h]) * scale
    x1, y1, x2, y2 = (int(v) for v in np.rint(full))
    return Spot((x1, y1, x2, y2), lightness, round(float(energy[row, column]), 2))


def _box_sums(integral: np.ndarray, ys: np.ndarray, xs: np.ndarray, w: int, h: int) -> np.ndarray:
    table = integral.astype(np.float64)
    rows, columns = ys[:, None], xs[None, :]
    return table[rows + h, columns + w] - table[rows, columns + w] - table[rows + h, columns] + table[rows, columns]
