"""Is the picture one photograph? Codes, collages, frames and tilted canvases, from its pixels and without a model.

Each function takes RGB uint8 (height, width, 3) and is deterministic. `measure` gives all of them for one picture that
was reduced to a longer side of 512 pixels (`images.decode(data, 512)`), the size that the constants belong to.

What somebody put together by program differs from what a lens drew in one respect that can be measured: its seams are
exactly straight, parallel to the image's sides, one pixel wide and as long as the panel. Edges in photographs tilt,
bend, blur or stop. What was rotated inside of its canvas has four triangles of one colour in the corners.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

SIDE = 512
"""Longer side in pixels at which pictures are measured."""

STEP, RATIO = 10, 1.5
"""A step: more than so many levels in a channel, and so many times the change beside it on either side."""
PARTS = 8
"""Parts of a line that must all take part in it."""
MARGIN = 0.08
"""Share of the side next to the image's own border in which no seam is looked for."""
SAMENESS = 0.9
"""Length of the mean step along a line over the steps' root mean square, from which on it is one edge of the scene."""
UNIFORM = 14
"""Levels by which pixels of one colour may differ after JPEG compression."""


def measure(rgb: np.ndarray) -> dict[str, float]:
    """code_area, collage, frame (all 0..1) and rotation (degrees, 0..45) of one picture at SIDE.

    Raises ValueError for what is not RGB uint8.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected RGB uint8 (height, width, 3), got {rgb.dtype} {rgb.shape}")
    return {"code_area": code_area(rgb), "collage": collage(rgb), "frame": frame(rgb), "rotation": rotation(rgb)}


# ---- codes


QR_DENSITY, BAR_DENSITY = 68, 42
"""Least mean |dx| + |dy| of luma over 17 x 17 pixels, at 256 pixels or less, where a code may be; without it the slow
detectors are not asked. (At half of full contrast QR codes have 71 or more, bar codes 54; half of all photographs have
less than 68 everywhere.)"""


def code_area(rgb: np.ndarray) -> float:
    """Share of the image inside of QR codes and bar codes (EAN, UPC and their like), 0..1.

    The quadrilaterals that OpenCV's detectors find, whether or not they can be read (ArUco-based QR code detector;
    bar codes after Xiangmin Li et al., "Directional coherence", as in OpenCV's objdetect).
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    density = _density(grey)
    inside = np.zeros(grey.shape, np.uint8)
    for least, detector in ((QR_DENSITY, _qr_detector), (BAR_DENSITY, _bar_detector)):
        if density < least:
            continue
        found, corners = detector().detectMulti(grey)
        if found and corners is not None:
            for corner in np.asarray(corners, np.float64).reshape(-1, 4, 2):
                if np.isfinite(corner).all():
                    cv2.fillConvexPoly(inside, np.rint(corner).astype(np.int32), 1)
    return float(inside.mean())


def _qr_detector() -> cv2.QRCodeDetectorAruco:
    return cv2.QRCodeDetectorAruco()


def _bar_detector() -> cv2.barcode.BarcodeDetector:
    return cv2.barcode.BarcodeDetector()


def _density(grey: np.ndarray) -> float:
    """The highest local density of change at 256 pixels, 128 and 64: a code is dense at one of them."""
    best = 0.0
    scale = 256 / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    while min(grey.shape) >= 32:
        middle = grey[1:, 1:]
        change = cv2.add(cv2.absdiff(middle, grey[:-1, 1:]), cv2.absdiff(middle, grey[1:, :-1]))
        best = max(best, cv2.minMaxLoc(cv2.blur(change, (17, 17)))[1])
        grey = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return best


# ---- collages


def collage(rgb: np.ndarray) -> float:
    """Strength of the strongest seam that runs across the whole picture, between panels put side by side; 0..1.

    A seam is a vertical or horizontal line, at least 8 % of the side away from the border, of one of three kinds:

    - panels that touch: the share of the line on which the colour steps from one pixel to the next, more than beside it
      (at half size). Lines whose step is the same all along (a horizon, a door) do not count: the length of the mean
      step must be under 0.9 of its root mean square.
    - a narrow gutter: the share on which the line is brighter than both sides (or darker all along).
    - a wide gutter: columns of one colour, up to 8 % of the side; the share on which both sides differ from it.

    The share is at most that of the line's second-weakest eighth plus 0.25, so that strong pieces do not make a line.
    Margins of one colour around the panels are cut off first. Panels without a seam across the whole picture (a
    pinwheel), tilted ones and ones with soft edges are not found.
    """
    picture = _without_margins(rgb)
    if min(picture.shape[:2]) < 64:
        return 0.0
    half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    strengths = [0.0]
    for whole, small in ((picture, half), (cv2.transpose(picture), cv2.transpose(half))):
        steps = _steps(small)
        strengths.append(
            _strongest(np.where(steps.sameness < SAMENESS, steps.strength, 0), small.shape[1], steps.offset)
        )
        strengths.append(_strongest(_ridges(whole), whole.shape[1], 3))
        strengths.append(_gutter(whole))
    return max(strengths)


class _Steps(NamedTuple):
    """Of each column: how much of it is a step (0..1), the mean step over its root mean square, the first column."""

    strength: np.ndarray
    sameness: np.ndarray
    offset: int


def _steps(rgb: np.ndarray) -> _Steps:
    """Steps at each column c: between c - 1 and c + 1, against the changes from c - 3 to c - 1 and c + 1 to c + 3."""
    width, offset = rgb.shape[1], 3
    left, right = rgb[:, offset - 1 : width - offset - 1], rgb[:, offset + 1 : width - offset + 1]
    step = cv2.absdiff(right, left)
    beside = cv2.max(cv2.absdiff(left, rgb[:, : width - 2 * offset]), cv2.absdiff(rgb[:, 2 * offset :], right))
    least = np.maximum(cv2.convertScaleAbs(_of_channels(beside), alpha=RATIO), STEP)
    strength = _even_share(_of_channels(step) > least)
    means = rgb.mean(axis=0, dtype=np.float32)
    mean = means[offset + 1 : width - offset + 1] - means[offset - 1 : width - offset - 1]
    square = np.square(step, dtype=np.float32).mean(axis=0).sum(axis=1)
    return _Steps(strength, np.sqrt((mean**2).sum(axis=1) / (square + 1e-6)), offset)


def _ridges(rgb: np.ndarray) -> np.ndarray:
    """Of each column, from the fourth on: the share on which luma is more than STEP above that of three pixels to
    either side, or the share on which it is as much below."""
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    left, middle, right = grey[:, :-6], grey[:, 3:-3], grey[:, 6:]
    above = cv2.subtract(middle, cv2.max(left, right)) > STEP
    below = cv2.subtract(cv2.min(left, right), middle) > STEP
    return np.maximum(_even_share(above), _even_share(below))


def _gutter(rgb: np.ndarray) -> float:
    """The strongest band of columns of one colour: the share on which both neighbours differ from it."""
    width = rgb.shape[1]
    colours, plain = _plain_columns(rgb)
    best = 0.0
    edges = np.flatnonzero(np.diff(plain.astype(np.int8), prepend=0, append=0))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        inside = MARGIN * width <= start and end <= (1 - MARGIN) * width
        if inside and 2 <= end - start <= MARGIN * width:
            beside = np.ascontiguousarray(rgb[:, np.array([start - 2, end + 1])])
            best = max(best, float(_even_share(_differences(beside, colours[start]) > UNIFORM).min()))
    return best


def _plain_columns(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each column: its median colour, uint8 (width, 3), and whether 97 % of its pixels are of it. Columns that are
    not have no colour (0)."""
    colours = np.zeros((rgb.shape[1], 3), np.uint8)
    # Most columns are out by a few of their pixels.
    few = np.ascontiguousarray(rgb[:: max(1, len(rgb) // 24), :, 1].T)
    few.sort(axis=1)
    tenth = few.shape[1] // 10
    plain = cv2.subtract(few[:, -1 - tenth], few[:, tenth]).ravel() <= 2 * UNIFORM
    if plain.any():
        columns = np.ascontiguousarray(rgb[:, plain].transpose(1, 2, 0))
        colours[plain] = np.median(columns, axis=2).astype(np.uint8)
        columns = np.ascontiguousarray(columns.transpose(2, 0, 1))
        plain[plain] = (_differences(columns, colours[plain]) <= UNIFORM).mean(axis=0) > 0.97
    return colours, plain


def _strongest(strength: np.ndarray, width: int, offset: int) -> float:
    """The highest strength of a column that is not in the outer margins. strength: from column `offset` on."""
    first, last = int(MARGIN * width), width - int(MARGIN * width)
    inner = strength[max(0, first - offset) : last - offset]
    return float(inner.max()) if inner.size else 0.0


def _even_share(hits: np.ndarray) -> np.ndarray:
    """Share of each column that is hit, at most its second-weakest part's plus 0.25. hits: bool (rows, columns)."""
    levels = hits.view(np.uint8) * np.uint8(255)
    parts = np.sort(cv2.resize(levels, (hits.shape[1], PARTS), interpolation=cv2.INTER_AREA) / 255, axis=0)
    return np.minimum(parts.mean(axis=0), parts[1] + 0.25)


def _differences(rgb: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Of each pixel, the largest difference of a channel from a colour (3,) or from its column's (width, 3); uint8."""
    planes = cv2.split(rgb)
    rows = [np.ascontiguousarray(np.broadcast_to(colour[..., c], rgb.shape[1])) for c in range(3)]
    found = [cv2.absdiff(plane, np.tile(row, (len(rgb), 1))) for plane, row in zip(planes, rows, strict=True)]
    return cv2.max(cv2.max(found[0], found[1]), found[2])


def _of_channels(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(rgb)
    return cv2.max(cv2.max(red, green), blue)


def _without_margins(rgb: np.ndarray) -> np.ndarray:
    """The picture without outer rows and columns of the corner's colour."""
    differs = _differences(rgb, rgb[0, 0]) > UNIFORM
    rows, columns = (np.flatnonzero(differs.mean(axis=axis) > 0.02) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return rgb[:0]
    return np.ascontiguousarray(rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


# ---- frames


FRAME_DEPTH = 0.25
"""A frame is at most this share of the side deep on each side."""
FRAME_SUPPORT = 0.5
"""Share of each of its four sides that must be a step."""


def frame(rgb: np.ndarray) -> float:
    """Share of the picture outside of the rectangle that a frame leaves, 0 where there is none; 0..1.

    The frame may have any colours: what counts are its four inner edges, each a straight step (as in `collage`) along
    at least half of the middle half of its length, 1 to 25 % of the side away from the border. The innermost are taken.
    """
    side = max(rgb.shape[:2])
    if min(rgb.shape[:2]) < 64:
        return 0.0
    scale = min(1.0, SIDE / 2 / side)
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    share = 1.0
    for picture in (small, cv2.transpose(small)):
        height, width = picture.shape[:2]
        steps = _steps(picture[height // 4 : height - height // 4])
        support = np.zeros(width)
        support[steps.offset : width - steps.offset] = steps.strength
        depth = int(FRAME_DEPTH * width)
        edges = np.flatnonzero(support >= FRAME_SUPPORT)
        left = edges[(edges >= max(3, 0.01 * width)) & (edges <= depth)]
        right = edges[(edges >= width - 1 - depth) & (edges <= width - 1 - max(3, 0.01 * width))]
        if not len(left) or not len(right):
            return 0.0
        share *= (right[0] - left[-1]) / width
    return float(1 - share)


# ---- tilted canvases


AGREEMENT = 1.0
"""Degrees by which the sides of one rectangle may differ."""


def rotation(rgb: np.ndarray) -> float:
    """By how many degrees the picture was rotated inside of its canvas, either way; 0..45, and 0 where it was not.

    Found where all four corners have one and the same colour and at least three are triangles whose long sides are
    straight and belong to one rectangle: opposite ones parallel, neighbours at right angles (within 1 degree). A canvas
    that was filled otherwise (mirrored, blurred, cropped away) shows nothing. Tilts under about 2 degrees leave
    triangles that are too small at this size. A photograph that lies on its side (90 degrees) is not found: its pixels
    are as good as upright ones, and only what they show tells the difference.
    """
    corners = rgb[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.float32)
    colour = np.median(corners, axis=0)
    if min(rgb.shape[:2]) < 32 or np.abs(corners - colour).max() > UNIFORM:
        return 0.0
    near = _differences(rgb, colour.astype(np.uint8)) <= UNIFORM
    # Mirrored so that each corner is the upper left one; a mirror turns the tilt's sign, so neighbours have both.
    angles = []
    for corner, mirrored in ((near, False), (near[:, ::-1], True), (near[::-1, ::-1], False), (near[::-1], True)):
        angle = _hypotenuse(corner)
        if angle is not None:
            angles.append(90 - angle if mirrored else angle)
    if len(angles) < 3:
        return 0.0
    tilt = float(np.median(angles))
    agree = sum(abs(angle - tilt) <= AGREEMENT for angle in angles)
    return min(tilt, 90 - tilt) if agree >= 3 else 0.0


def _hypotenuse(plain: np.ndarray) -> float | None:
    """The angle in degrees, 0..90, between the upper border and the long side of a triangle in the upper left corner.

    plain: bool (height, width), True on the canvas's colour. None if that is no triangle with a straight side.
    """
    angles: list[tuple[int, float]] = []
    for mask, upright in ((plain, False), (plain.T, True)):
        runs = np.where(mask.all(axis=1), mask.shape[1], mask.argmin(axis=1))
        end = int(np.argmax(runs == 0)) if (runs == 0).any() else len(runs)
        # Next to its ends the side may touch another corner's triangle, or be rounded by compression.
        rows = np.arange(int(0.1 * end), int(0.9 * end))
        if end < 8 or len(rows) < 6:
            continue
        slope = _straight(rows, runs[rows].astype(np.float64))
        if slope is not None and slope < 0:
            angle = float(np.degrees(np.arctan2(1.0, -slope)))
            angles.append((len(rows), 90 - angle if upright else angle))
    # Seen along its longer leg, the side is known more exactly.
    return max(angles)[1] if angles else None


def _straight(x: np.ndarray, y: np.ndarray) -> float | None:
    """The slope of the line that at least 60 % of the points lie on; the others are above it (what in the photograph is
    of the canvas's colour makes a run longer, never shorter). None if there is none."""
    half = len(x) // 2
    slope = float(np.median((y[half : 2 * half] - y[:half]) / (x[half : 2 * half] - x[:half])))
    at = float(np.quantile(y - slope * x, 0.3))
    for _ in range(4):
        on = np.abs(y - slope * x - at) <= max(1.5, 0.5 * abs(slope))
        if on.mean() < 0.6:
            return None
        slope, at = (float(value) for value in np.polyfit(x[on], y[on], 1))
    return slope
