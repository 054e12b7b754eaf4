"""Boxes: absolute pixels (x1, y1, x2, y2), half-open (x2 and y2 are outside), after EXIF rotation.

Pure functions; a box is a tuple of four ints, many boxes an array (n, 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int, int, int]


def area(box: Sequence[float]) -> float:
    """Pixels inside; 0 for an empty or inverted box."""
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def intersection(a: Sequence[float], b: Sequence[float]) -> float:
    """Pixels inside both."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, 0..1; 0 when both are empty."""
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return shared / union if union else 0.0


def clip(box: Sequence[float], width: int, height: int) -> Box:
    """The box inside the image, rounded outwards to whole pixels."""
    x1, y1 = min(max(0, int(np.floor(box[0]))), width), min(max(0, int(np.floor(box[1]))), height)
    x2, y2 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    return x1, y1, max(x1, x2), max(y1, y2)


def grow(box: Sequence[int], margin: float, width: int, height: int) -> Box:
    """The box with `margin` times its longer side added on each side, clipped to the image."""
    pad = margin * max(box[2] - box[0], box[3] - box[1])
    return clip((box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad), width, height)


def union(boxes: Sequence[Sequence[int]]) -> Box:
    """The smallest box around all."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def crop(image: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """The view of an image (height, width, ...) inside the box."""
    return image[box[1] : box[3], box[0] : box[2]]


def of_mask(mask: np.ndarray) -> Box | None:
    """The tightest box around the True pixels of (height, width); None if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def to_mask(boxes: Sequence[Sequence[int]], height: int, width: int) -> np.ndarray:
    """True inside any of the boxes: bool (height, width)."""
    mask = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        mask[max(0, y1) : y2, max(0, x1) : x2] = True
    return mask
