"""Object masks: from a rough region to a clean outline by GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004).

The cut is made on a small crop around the region, cleaned (main parts kept, small holes filled), fitted to the image's
edges with a guided filter (He, Sun and Tang, PAMI 2013) at a moderate size, and enlarged smoothly to the box.
"""

from __future__ import annotations

import cv2
import numpy as np

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box

CUT_SIDE = 176
"""Longer side in pixels of the crop on which the cut is made."""
MARGIN = 0.15
"""How far around the region the crop reaches, in shares of the region's longer side."""
MIN_AGREEMENT = 0.4
"""A cut whose IoU with its region is lower has lost the object."""


def cut_out(image: np.ndarray, region: np.ndarray, width: int, height: int) -> tuple[Box, np.ndarray] | None:
    """The object that a region roughly covers, at full resolution.

    Args:
        image: RGB uint8 (h, w, 3), the photograph at a moderate size.
        region: bool (h, w), roughly the object.
        width, height: the photograph's full size in pixels.

    Returns:
        Its tight box in full-resolution pixels, and the mask, bool of the box's size; None where the cut degenerates
        (it has little in common with the region).
    """
    tight = boxes.of_mask(region)
    if tight is None:
        return None
    around = boxes.grow(tight, MARGIN, region.shape[1], region.shape[0])
    crop, rough = boxes.crop(image, around), boxes.crop(region, around)
    scale = min(1.0, CUT_SIDE / max(rough.shape))
    size = max(1, round(rough.shape[1] * scale)), max(1, round(rough.shape[0] * scale))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    start = cv2.resize(rough.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    cut = _grab_cut(small, start)
    if cut is None:
        return None
    mask = clean(cut, start)
    if (mask & start).sum() < MIN_AGREEMENT * (mask | start).sum():
        return None
    return _enlarged(_guided(small, mask.astype(np.float32)), around, region.shape, width, height)


def _enlarged(
    opacity: np.ndarray, around: Box, shape: tuple[int, ...], width: int, height: int
) -> tuple[Box, np.ndarray] | None:
    """The opacity of the box `around` of an image of `shape`, at full size: (tight box, mask)."""
    sx, sy = width / shape[1], height / shape[0]
    x1, y1, x2, y2 = boxes.clip((around[0] * sx, around[1] * sy, around[2] * sx, around[3] * sy), width, height)
    mask = cv2.resize(opacity, (x2 - x1, y2 - y1), interpolation=cv2.INTER_CUBIC) > 0.5
    tight = boxes.of_mask(mask)
    if tight is None:
        return None
    return (x1 + tight[0], y1 + tight[1], x1 + tight[2], y1 + tight[3]), boxes.crop(mask, tight)


def _grab_cut(image: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    height, width = start.shape
    inner = cv2.distanceTransform(np.pad(start, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    outer = cv2.distanceTransform((~start).astype(np.uint8), cv2.DIST_L2, 3)
    reach = 0.12 * np.sqrt(float(start.sum())) + 3
    trimap = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    trimap[start] = cv2.GC_PR_FGD
    trimap[inner > max(3.0, 0.5 * float(inner.max()))] = cv2.GC_FGD
    trimap[outer > reach] = cv2.GC_BGD
    if (start.sum() < 20) or ((~start).sum() < 20):
        return None
    cv2.setRNGSeed(1)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    try:
        cv2.grabCut(lab, trimap, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None  # too few colours for five Gaussians: the region has no cut
    return (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)


def clean(mask: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The parts of a mask that belong to the object, bool (height, width): smoothed, without crumbs and small holes.

    Parts below a tenth of the largest, or outside the region that the cut started from, go; holes below 3 % of the
    object are filled, larger ones (between the legs of a stool) stay.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    smooth = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    smooth = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, kernel)
    smooth = (cv2.GaussianBlur(smooth.astype(np.float32), (0, 0), 1.2) > 0.5).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(smooth, connectivity=8)
    kept = np.zeros(mask.shape, bool)
    if count == 1:
        return kept
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    for c in range(1, count):
        part = labels == c
        if areas[c] >= 0.1 * areas.max() and (part & start).sum() > 0.3 * areas[c]:
            kept |= part
    return _without_small_holes(kept, 0.03 * kept.sum())


def _without_small_holes(mask: np.ndarray, limit: float) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    filled = mask.copy()
    height, width = mask.shape
    for c in range(1, count):
        x, y, w, h, area = stats[c]
        if area < limit and x > 0 and y > 0 and x + w < width and y + h < height:
            filled |= labels == c
    return filled


def _guided(image: np.ndarray, mask: np.ndarray, radius: int = 4, epsilon: float = 1e-3) -> np.ndarray:
    """The mask with its edge moved onto the image's: guided filter on lightness, float32 0..1."""
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    size = (2 * radius + 1, 2 * radius + 1)
    mean_guide, mean_mask = cv2.blur(guide, size), cv2.blur(mask, size)
    covariance = cv2.blur(guide * mask, size) - mean_guide * mean_mask
    variance = cv2.blur(guide * guide, size) - mean_guide * mean_guide
    slope = covariance / (variance + epsilon)
    offset = mean_mask - slope * mean_guide
    return np.clip(cv2.blur(slope, size) * guide + cv2.blur(offset, size), 0, 1)


def outline_support(image: np.ndarray, box: Box, mask: np.ndarray, width: int, height: int) -> float:
    """Share (0..1) of a mask's outline across which the colour clearly changes: CIE76 at least 10 between the means
    of what lies just inside and just outside. An object ends where its mask does; a patch of fur or wall does not.

    Args:
        image: RGB uint8 (h, w, 3), a copy of any size. box, mask: in an image of `width` x `height`, as from `cut_out`.

    Returns:
        1 where no outline lies inside the image.
    """
    rows, columns = image.shape[:2]
    x1, x2 = (round(x * columns / width) for x in (box[0], box[2]))
    y1, y2 = (round(y * rows / height) for y in (box[1], box[3]))
    x2, y2 = min(columns, max(x2, x1 + 1)), min(rows, max(y2, y1 + 1))
    canvas = np.zeros((rows, columns), np.uint8)
    canvas[y1:y2, x1:x2] = cv2.resize(mask.astype(np.uint8), (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
    near, at = np.ones((11, 11), np.uint8), np.ones((3, 3), np.uint8)
    outside = 1 - canvas
    inner = (cv2.dilate(outside, near) > 0) & (cv2.dilate(outside, at) == 0)
    outer = (cv2.dilate(canvas, near) > 0) & (cv2.dilate(canvas, at) == 0)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    inside, count_inside = _local_mean(lab, inner)
    beyond, count_beyond = _local_mean(lab, outer)
    outline = (canvas > 0) & (cv2.erode(canvas, at) == 0) & (count_inside > 4) & (count_beyond > 4)
    if not outline.any():
        return 1.0
    return float((np.linalg.norm(inside - beyond, axis=2)[outline] >= 10).mean())


def _local_mean(lab: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the chosen pixels in a 15 x 15 window around each pixel, and how many they are."""
    chosen = where.astype(np.float32)
    count = cv2.boxFilter(chosen, -1, (15, 15), normalize=False)
    total = cv2.boxFilter(lab * chosen[..., None], -1, (15, 15), normalize=False)
    return total / np.maximum(count, 1)[..., None], count
