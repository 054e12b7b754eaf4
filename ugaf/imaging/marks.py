"""Shows a model which region is meant: a frame drawn on the picture, and a crop of it with some surroundings.

A frame lies around its box, not on it, so that the object's own pixels stay as they are; where the box touches the
image's border there is no room outside, and the frame comes inwards. Its width follows the picture's size, so that it
is still seen when the picture is reduced to what a model takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ugaf.imaging import boxes

RED = (255, 0, 0)
BLUE = (0, 80, 255)
WIDTH = 0.005
"""Width of a frame as a share of the picture's longer side; at least 2 pixels."""


def draw_box(photo: np.ndarray, box: Sequence[float], colour: tuple[int, int, int] = RED) -> np.ndarray:
    """A copy of the picture with a frame around the box.

    photo: RGB uint8 (h, w, 3), left as it is. box: x1 y1 x2 y2 in its pixels, half-open; what lies outside is clipped.
    colour: RGB 0..255. The pixels inside of the box are unchanged, except within the frame's width of an image border
    that the box touches. Raises ValueError for a box that has no pixel in the picture.
    """
    height, width = photo.shape[:2]
    x1, y1, x2, y2 = _inside(box, width, height)
    line = max(2, round(WIDTH * max(width, height)))
    outer = max(0, x1 - line), max(0, y1 - line), min(width, x2 + line), min(height, y2 + line)
    # Where the border cuts the frame's outside off, its line takes the first pixels inside.
    inner = outer[0] + line, outer[1] + line, outer[2] - line, outer[3] - line
    drawn = photo.copy()
    boxes.crop(drawn, outer)[:] = colour
    if boxes.area(inner):
        boxes.crop(drawn, inner)[:] = boxes.crop(photo, inner)
    return drawn


def crop_with_margin(photo: np.ndarray, box: Sequence[float], margin: float) -> tuple[np.ndarray, boxes.Box]:
    """What is in the box and around it, and the box in the crop's own pixels.

    photo: RGB uint8 (h, w, 3). margin: what is added on each side, as a share of the box's longer side, as far as the
    picture reaches. The crop is a copy, so that the picture can be let go. Raises ValueError for a box that has no
    pixel in the picture.
    """
    height, width = photo.shape[:2]
    x1, y1, x2, y2 = _inside(box, width, height)
    around = boxes.grow((x1, y1, x2, y2), margin, width, height)
    left, top = around[:2]
    return boxes.crop(photo, around).copy(), (x1 - left, y1 - top, x2 - left, y2 - top)


def scaled(box: Sequence[float], size: tuple[int, int], new_size: tuple[int, int]) -> boxes.Box:
    """The box of an image of one size (width, height) in the same image at another, rounded outwards."""
    fx, fy = new_size[0] / size[0], new_size[1] / size[1]
    return boxes.clip((box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy), *new_size)


def _inside(box: Sequence[float], width: int, height: int) -> boxes.Box:
    clipped = boxes.clip(box, width, height)
    if not boxes.area(clipped):
        raise ValueError(f"box {list(box)} has no pixel in the {width} x {height} picture")
    return clipped
