"""What recording and saving left in a photograph: clipped tones, noise, the blocks of JPEG, bars along the edges.

Pure functions of RGB uint8 pixels (height, width, 3) or their `Planes`, as those of `ugaf.measures.photometry`. All but
`blockiness` look at the photograph at the working size; `blockiness` looks at it as its decoder gave it, because
afterwards the grid of blocks is gone.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ugaf.imaging.planes import Planes

CLIPPED = 4
"""Levels from black, or from white, within which a value is clipped: what JPEG and reduction may add to a flat area."""

JPEG_BLOCK = 8
"""Side in pixels of the blocks that JPEG transforms (ITU-T T.81)."""

STEP_CAP = 8
"""Grey levels at which `blockiness` cuts differences off: edges of the content would otherwise drown the small steps
between blocks."""

STEP_FLOOR = 0.25
"""Grey levels below which `blockiness` takes no mean: where next to nothing differs, rounding would make the ratio."""

BAND_TOLERANCE = 8
"""Levels by which a channel of a band's pixel may differ from the band's colour, in `border`."""

BAND_STRAY = 0.02
"""Share of the pixels of a band's line that may differ by more."""

BAND_RINGING = 8
"""Lines at the end of a band in which more of them may differ: JPEG's ringing reaches so far, a block at full size."""

BAND_STEP = 16
"""Levels by which a pixel must differ from the one two lines before, in half of a line, where a band ends."""


def clipped_dark(picture: np.ndarray | Planes) -> float:
    """Share of the pixels that are black: all three values at most `CLIPPED` of 255; 0..1.

    At the working size a pixel is an area of the photograph, which has to be black throughout. (Counting the pixels at
    the ends of the histogram is what cameras' and raw converters' clipping warnings do.)
    """
    planes = Planes.of(picture)
    _, above = cv2.threshold(planes.highest, CLIPPED, 255, cv2.THRESH_BINARY)
    return 1 - cv2.countNonZero(above) / planes.pixels


def clipped_bright(picture: np.ndarray | Planes) -> float:
    """Share of the pixels that are white: all three values at least 255 - `CLIPPED`; 0..1."""
    planes = Planes.of(picture)
    _, white = cv2.threshold(planes.lowest, 255 - CLIPPED - 1, 255, cv2.THRESH_BINARY)
    return cv2.countNonZero(white) / planes.pixels


def noise_level(picture: np.ndarray | Planes) -> float | None:
    """Standard deviation of white noise in luma, as Immerkaer estimates it; grey levels, 0..426.

    sqrt(pi / 2) / 6 times the mean absolute response to the kernel 1 -2 1 / -2 4 -2 / 1 -2 1, which no plane and no
    straight edge along the axes excites; 6 is the kernel's norm. It is exact for white Gaussian noise on a smooth
    picture. Fine texture counts as noise. Null for an image narrower or lower than 3 pixels, which has no response.
    (Immerkaer 1996, "Fast noise variance estimation", the estimate from absolute deviations.)
    """
    grey = Planes.of(picture).grey
    if min(grey.shape) < 3:
        return None
    second = np.array([1, -2, 1], np.float32)
    response = cv2.sepFilter2D(grey, cv2.CV_16S, second, second)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2) / 6 * cv2.norm(response, cv2.NORM_L1) / response.size)


def blockiness(picture: np.ndarray | Planes, scale: int = 1) -> float | None:
    """How much larger luma's steps are across the borders of JPEG's blocks than inside them; 1/32..32, 1: no blocks.

    The mean over all pairs of neighbours (beside and below each other) that lie in two blocks of the 8 x 8 grid, over
    the mean over all pairs that lie in one block. Averaged are absolute differences in grey levels, cut off at
    `STEP_CAP`; a mean below `STEP_FLOOR` counts as `STEP_FLOOR`, so a flat picture has 1.

    Args:
        picture: pixels as the decoder gives them: not turned, cropped or resized, so that the grid begins at the first.
        scale: pixels of the file to one of these: a JPEG decoded at 1/2 has blocks of 4 pixels, at 1/4 of 2 pixels.

    Returns:
        Null where there is nothing to compare: a decode at 1/8 (a block is one pixel), or an image within one block.

    (Differences across the grid against those inside it: Wang, Sheikh and Bovik 2002, "No-reference perceptual quality
    assessment of JPEG compressed images", features B and A. The form of the ratio is ugaf's own.)
    """
    side = JPEG_BLOCK // scale
    grey = Planes.of(picture).grey
    if side < 2 or max(grey.shape) <= side:
        return None
    steps = [
        _step_sums(grey[:, 1:], grey[:, :-1], over=0),
        _step_sums(grey[1:], grey[:-1], over=1),
    ]
    across = pairs_across = total = pairs = 0.0
    for sums, length in zip(steps, grey.shape, strict=True):
        between = sums[side - 1 :: side]
        across, pairs_across = across + float(between.sum()), pairs_across + between.size * length
        total, pairs = total + float(sums.sum()), pairs + sums.size * length
    inside = (total - across) / (pairs - pairs_across)
    return max(across / pairs_across, STEP_FLOOR) / max(inside, STEP_FLOOR)


def border(picture: np.ndarray | Planes) -> float:
    """Share of the area that bands of one colour along the edges take: letterbox, pillarbox, a plain frame; 0..1.

    A line of pixels belongs to a band if at most `BAND_STRAY` of them (in the last `BAND_RINGING` lines, under a half)
    differ from the colour of the edge's outermost line (its mean) by more than `BAND_TOLERANCE` in some channel. The
    lines that do so from the edge inwards are a band if it ends in a straight step: from the line before its last to
    the next one, or from its last to the next but one, half of the pixels change by more than `BAND_STEP` in some
    channel. So a clear sky, a white ground or a vignette is none, since it goes over into the picture gradually or
    around an object. All four edges are peeled, then those of what is left, until there is no band; a picture of one
    colour is all border.

    What it does not see: bars of a blurred copy or a pattern, bars beside a picture that is as dark as they are, a
    frame wider than the picture in it. (The measure is ugaf's own.)
    """
    rgb = Planes.of(picture).rgb
    whole = rgb.shape[0] * rgb.shape[1]
    while rgb.size:
        top, bottom, left, right = (_band(rgb, axis, end) for axis in (0, 1) for end in (0, -1))
        if not (top or bottom or left or right):
            break
        height, width = rgb.shape[:2]
        rgb = rgb[top : max(top, height - bottom), left : max(left, width - right)]
    return 1 - rgb.shape[0] * rgb.shape[1] / whole


def _step_sums(one: np.ndarray, other: np.ndarray, over: int) -> np.ndarray:
    """Sums over an axis of the absolute differences, cut off at `STEP_CAP`: (lines,)."""
    if not one.size:
        return np.zeros(0)
    steps = cv2.threshold(cv2.absdiff(one, other), STEP_CAP, 0, cv2.THRESH_TRUNC)[1]
    return cv2.reduce(steps, over, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()


def _band(rgb: np.ndarray, axis: int, end: int) -> int:
    """Lines of the band at one edge: the rows (axis 0) or columns (1) from the first (end 0) or last (-1) inwards."""
    outermost = np.ascontiguousarray(rgb[end] if axis == 0 else rgb[:, end])[None]
    colour = cv2.mean(outermost)[:3]
    low = tuple(math.ceil(value - BAND_TOLERANCE) for value in colour)
    high = tuple(math.floor(value + BAND_TOLERANCE) for value in colour)
    if 1 - cv2.countNonZero(cv2.inRange(outermost, low, high)) / outermost.shape[1] > BAND_STRAY:
        return 0
    same = cv2.inRange(rgb, low, high)
    strays = 1 - np.count_nonzero(same, axis=1 - axis) / same.shape[1 - axis]
    strays = strays[::-1] if end else strays
    if strays.max() <= BAND_STRAY:
        return strays.size
    size = int((strays >= 0.5).argmax())
    if not size or size - int((strays > BAND_STRAY).argmax()) > BAND_RINGING:
        return 0
    lines = rgb if axis == 0 else rgb.swapaxes(0, 1)
    around = (lines[::-1] if end else lines)[max(0, size - 2) : size + 2].astype(np.int16)
    stepped = (np.abs(around[2:] - around[:-2]).max(axis=2) > BAND_STEP).mean(axis=1) >= 0.5
    return size if stepped.any() else 0
