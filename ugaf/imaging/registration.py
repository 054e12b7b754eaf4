"""Bring an edited image back onto its source's pixel grid.

A diffusion editor answers at its own preferred size (about one megapixel, sides rounded to multiples of 16), sometimes
crops instead of stretching, and often shifts the picture by a few pixels. A difference taken without undoing this sees
every edge of the photograph as an edit.

Three steps, each of which the edit itself must not disturb:

1. **Frame.** If the aspect ratios differ, the edited image was stretched, cropped or padded: the hypothesis under which
   the two images correlate best wins.
2. **Displacement.** Both images are cut into tiles; phase correlation gives each tile's sub-pixel displacement. A
   robust fit (iteratively reweighted, Tukey's biweight) of shift and scale to all tiles ignores those that the edit
   covers.
3. **Proof.** The transform is kept only if it brings the images closer together; otherwise the plain resize stands.

Images are RGB uint8 (height, width, 3); displacements are pixels of the source.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ugaf.imaging import images

TILE = 128
"""Side of a tile in pixels of the working image; displacements up to a quarter of it are measured reliably."""

MIN_RESPONSE = 0.08
"""Tiles whose phase correlation peak holds less than this share of the energy say nothing about displacement."""

Frame = tuple[float, float, float, float]


@dataclass(frozen=True)
class Registration:
    """The edited image on the source's grid.

    Attributes:
        edited: RGB uint8, the source's height and width.
        valid: bool (height, width): False where the edited image shows nothing of the source (cropped or shifted away).
        shift_x, shift_y: how far the edited image's content lies right of and below the source's, at the centre, in
            pixels of the source, beyond the plain resize (or crop).
        scale_x, scale_y: residual scale beyond it; 1.0 = none.
    """

    edited: np.ndarray
    valid: np.ndarray
    shift_x: float = 0.0
    shift_y: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0


def register(source: np.ndarray, edited: np.ndarray, start: tuple[float, float] = (0.0, 0.0)) -> Registration:
    """Resample `edited` onto `source`'s grid, undoing size, crop, shift and small scale.

    Two images of the same size that do not move against each other come back unresampled, pixel for pixel.
    Shifts up to 32 px and scales within 5 % (at images of up to 1024 px) are recovered; a larger one is a change.

    Args:
        source, edited: RGB uint8, any sizes.
        start: shift (x, y) in pixels of `source` where the search begins, if it is known already.
    """
    height, width = source.shape[:2]
    frame = find_frame(source, edited)
    plain = to_frame(edited, frame, width, height)
    valid = frame_mask(frame, width, height)
    # (scale_x, scale_y, shift_x, shift_y) around the image centre: where source content lies in `plain`.
    motion = np.array([1.0, 1.0, *start])
    reference = _gray(source)
    still = _gray(plain)
    for _ in range(3):
        moved = _warp(still, motion)
        centres, shifts, weights = tile_displacements(reference, moved)
        step = fit_motion(centres, shifts, weights, width, height)
        motion = np.array([motion[0] * step[0], motion[1] * step[1], *(motion[2:] + motion[:2] * step[2:])])
        if np.abs(step[2:]).max() < 0.05 and _stretch(step, width, height) < 0.1:
            break
    negligible = np.abs(motion[2:]).max() < 0.1 and _stretch(motion, width, height) < 0.25
    if negligible or not _closer(reference, still, _warp(still, motion)):
        return Registration(plain, valid)
    area = _warp(valid.astype(np.float32), motion, border=cv2.BORDER_CONSTANT) > 0.999
    aligned = _warp(plain, motion, interpolation=cv2.INTER_CUBIC)
    return Registration(aligned, area, float(motion[2]), float(motion[3]), float(motion[0]), float(motion[1]))


def on_one_grid(
    source: np.ndarray, edited: np.ndarray, side: int, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Both images on the source's grid with the longer side reduced to `side`: RGB uint8 of one shape.

    Args:
        shift: displacement in pixels of `source` as the change mask found it (columns shift_x, shift_y); images of one
            shape without any are not registered again.
    """
    if source.shape == edited.shape and shift == (0.0, 0.0):
        return reduce(source, side), reduce(edited, side)
    small = reduce(source, side)
    factor = small.shape[1] / source.shape[1]
    return small, register(small, reduce(edited, side), (shift[0] * factor, shift[1] * factor)).edited


def reduce(rgb: np.ndarray, side: int) -> np.ndarray:
    """The image with its longer side reduced to `side` by area averaging; never enlarged, itself if small enough."""
    height, width = rgb.shape[:2]
    small = images.fit(width, height, side)
    return rgb if small == (width, height) else cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)


def find_frame(source: np.ndarray, edited: np.ndarray) -> Frame:
    """The rectangle of the source (x1, y1, x2, y2, pixels, may reach outside) that the edited image shows.

    The whole source (a stretch) unless the aspect ratios differ and a centred crop or padding correlates better.
    """
    height, width = source.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    ratio = (edited.shape[1] / edited.shape[0]) / (width / height)
    if abs(np.log(ratio)) < 0.004:
        return whole
    crop_w, crop_h = width * min(1.0, ratio), height * min(1.0, 1 / ratio)
    pad_w, pad_h = width * max(1.0, ratio), height * max(1.0, 1 / ratio)
    frames = [whole]
    for w, h in ((crop_w, crop_h), (pad_w, pad_h)):
        frames.append(((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2))
    scale = min(1.0, 256 / max(height, width))
    small_w, small_h = max(1, round(width * scale)), max(1, round(height * scale))
    reference = _edges(cv2.resize(source, (small_w, small_h), interpolation=cv2.INTER_AREA))
    scores = []
    for frame in frames:
        small = (frame[0] * scale, frame[1] * scale, frame[2] * scale, frame[3] * scale)
        inside = frame_mask(small, small_w, small_h)
        scores.append(_correlation(reference, _edges(to_frame(edited, small, small_w, small_h)), inside))
    scores[0] += 0.01  # a stretch is the commonest: another hypothesis must be clearly better
    return frames[int(np.argmax(scores))]


def to_frame(edited: np.ndarray, frame: Frame, width: int, height: int) -> np.ndarray:
    """Resample `edited` so that it covers `frame` of a (height, width) grid; borders repeat outside it.

    The same size and a whole frame return `edited` itself.
    """
    frame_w, frame_h = frame[2] - frame[0], frame[3] - frame[1]
    if edited.shape[:2] == (height, width) and abs(frame_w - width) < 0.5 and abs(frame_h - height) < 0.5:
        return edited
    size = (max(1, round(frame_w)), max(1, round(frame_h)))
    smaller = size[0] < edited.shape[1]
    scaled = cv2.resize(edited, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    if size == (width, height):
        return scaled
    move = np.array([[1.0, 0.0, frame[0]], [0.0, 1.0, frame[1]]])
    return cv2.warpAffine(scaled, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def frame_mask(frame: Frame, width: int, height: int) -> np.ndarray:
    """True inside the frame: bool (height, width)."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((y > frame[1]) & (y < frame[3]))[:, None] & ((x > frame[0]) & (x < frame[2]))[None, :]


def tile_displacements(reference: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far each tile of `moved` lies from its place in `reference`, by phase correlation.

    Args:
        reference, moved: float32 (height, width), the same size.

    Returns:
        centres (n, 2) and displacements (n, 2) as (x, y) in pixels, and weights (n,) 0..1; tiles without texture or
        without a clear peak are left out.
    """
    height, width = reference.shape
    side = min(TILE, height, width)
    window = cv2.createHanningWindow((side, side), cv2.CV_32F) if side > 1 else np.ones((side, side), np.float32)
    centres, shifts, weights = [], [], []
    for y in _positions(height, side):
        for x in _positions(width, side):
            a, b = reference[y : y + side, x : x + side], moved[y : y + side, x : x + side]
            (mean_a, std_a), (mean_b, std_b) = cv2.meanStdDev(a), cv2.meanStdDev(b)
            if min(std_a.item(), std_b.item()) < 2.0:
                continue
            (dx, dy), response = cv2.phaseCorrelate(a - mean_a.item(), b - mean_b.item(), window)
            if response < MIN_RESPONSE or max(abs(dx), abs(dy)) > side / 4:
                continue
            centres.append((x + side / 2, y + side / 2))
            shifts.append((dx, dy))
            weights.append(min(1.0, response))
    return np.array(centres).reshape(-1, 2), np.array(shifts).reshape(-1, 2), np.array(weights)


def fit_motion(centres: np.ndarray, shifts: np.ndarray, weights: np.ndarray, width: int, height: int) -> np.ndarray:
    """Robust (scale_x, scale_y, shift_x, shift_y) around the image centre from tile displacements.

    Fewer than three tiles fix nothing (identity); scale is fitted from twelve tiles on, else shift alone.
    """
    identity = np.array([1.0, 1.0, 0.0, 0.0])
    if len(shifts) < 3:
        return identity
    position = (centres - (width / 2, height / 2)) / (width / 2, height / 2)
    offset = np.array([_weighted_median(shifts[:, axis], weights) for axis in (0, 1)])
    slope = np.zeros(2)
    for _ in range(8):
        error = np.linalg.norm(shifts - offset - slope * position, axis=1)
        reach = 4.685 * max(1.4826 * _weighted_median(error, weights), 0.05)
        robust = weights * np.square(np.clip(1 - np.square(error / reach), 0, None))
        if robust.sum() < 1e-6:
            break
        for axis in (0, 1):
            design = np.stack([np.ones(len(shifts)), position[:, axis]], axis=1)
            if len(shifts) < 12:
                design = design[:, :1]
            # A little ridge on the slope: tiles in one row or column must not invent a scale.
            normal = (
                design.T @ (design * robust[:, None])
                + np.diag([0.0, 0.05 * robust.sum()])[: design.shape[1], : design.shape[1]]
            )
            solved = np.linalg.solve(normal, design.T @ (robust * shifts[:, axis]))
            offset[axis], slope[axis] = solved[0], solved[1] if len(solved) > 1 else 0.0
    scale = 1 + slope / (width / 2, height / 2)
    return np.array([*np.clip(scale, 0.95, 1.05), *offset])


def _warp(
    image: np.ndarray, motion: np.ndarray, interpolation: int = cv2.INTER_LINEAR, border: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """Undo `motion`: the output at p shows the input at centre + scale * (p - centre) + shift."""
    height, width = image.shape[:2]
    if np.allclose(motion, (1, 1, 0, 0), atol=1e-6):
        return image
    cx, cy = width / 2, height / 2
    sx, sy, dx, dy = (float(value) for value in motion)
    matrix = np.array([[sx, 0.0, cx + dx - sx * cx], [0.0, sy, cy + dy - sy * cy]])
    return cv2.warpAffine(image, matrix, (width, height), flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=border)


def _closer(reference: np.ndarray, before: np.ndarray, after: np.ndarray) -> bool:
    """True if the typical difference at edges (where displacement shows) falls by a twentieth or more."""
    edges = cv2.morphologyEx(reference, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    strong = edges > max(8.0, float(np.quantile(edges, 0.7)))
    if strong.sum() < 64:
        return False
    old, new = (float(np.median(np.abs(reference - image)[strong])) for image in (before, after))
    return new < 0.95 * old


def _stretch(motion: np.ndarray, width: int, height: int) -> float:
    """How many pixels the motion's scale moves the image's border."""
    return max(abs(motion[0] - 1) * width / 2, abs(motion[1] - 1) * height / 2)


def _positions(length: int, side: int) -> list[int]:
    count = max(1, int(np.ceil(length / side)))
    return sorted({round(value) for value in np.linspace(0, length - side, count)})


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _gray(rgb: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)


def _edges(rgb: np.ndarray) -> np.ndarray:
    gray = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    return gray - cv2.GaussianBlur(gray, (0, 0), 4.0)


def _correlation(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
    a, b = a[inside], b[inside]
    return float((a * b).sum() / max(float(np.sqrt((a * a).sum() * (b * b).sum())), 1e-9)) if a.size else 0.0
