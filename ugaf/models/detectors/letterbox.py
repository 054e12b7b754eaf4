"""Fitting a photograph into a model's input and back: what ultralytics calls letterboxing, done here per photograph.

ultralytics pads a batch of unlike images to squares and an image by itself to the smallest rectangle, so that what it
finds depends on the batch. Images that already have their final size are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ugaf.imaging.boxes import Box

GREY = 114
"""The value around the picture with which YOLO models are trained."""


@dataclass(frozen=True)
class Frame:
    """Where a photograph stands in the model's input.

    scale: (x, y), input pixels a photograph's pixel. left, top: of the photograph in the input, in input pixels.
    """

    scale: tuple[float, float]
    left: int
    top: int

    def to_photo(self, corners: np.ndarray) -> np.ndarray:
        """Boxes (n, 4), x1 y1 x2 y2 in input pixels -> in the photograph's."""
        offset = np.array((self.left, self.top, self.left, self.top), np.float64)
        return (corners.astype(np.float64) - offset) / (*self.scale, *self.scale)

    def mask_of(self, mask: np.ndarray, box: Box) -> np.ndarray | None:
        """The part of a mask (input height, width) in a box of the photograph: bool of its size; None if empty."""
        x1, y1, x2, y2 = box
        (sx, sy), half = self.scale, 0.5
        # Centres of pixels onto centres of pixels.
        to_input = np.array(
            [[sx, 0, (x1 + half) * sx + self.left - half], [0, sy, (y1 + half) * sy + self.top - half]], np.float64
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(
            mask.astype(np.float32), to_input, (x2 - x1, y2 - y1), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        inside = cut >= half
        return inside if inside.any() else None


def letterbox(photo: np.ndarray, side: int, stride: int) -> tuple[np.ndarray, Frame]:
    """The photograph with a longer side of `side` pixels, grey on the shorter side up to a multiple of `stride`."""
    height, width = photo.shape[:2]
    ratio = side / max(height, width)
    inner = max(1, round(width * ratio)), max(1, round(height * ratio))
    if inner != (width, height):
        photo = cv2.resize(photo, inner, interpolation=cv2.INTER_LINEAR)
    pad_x, pad_y = -inner[0] % stride, -inner[1] % stride
    left, top = pad_x // 2, pad_y // 2
    framed = cv2.copyMakeBorder(
        photo, top, pad_y - top, left, pad_x - left, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY)
    )
    return framed, Frame((inner[0] / width, inner[1] / height), left, top)
