"""Mattes and layers: what makes a local edit end at the object's edge and nowhere else.

A *mask* is bool; a *matte* is its soft version, float32 0..1, that follows the image's own edges (guided filter: He,
Sun and Tang, "Guided Image Filtering", TPAMI 2013, subsampled as in He and Sun, "Fast Guided Filter", 2015). A `Layer`
is a rectangle of pixels with a matte. `overlay` mixes it in, and leaves every pixel where the matte is 0 as it was, bit
for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box

GUIDE_SIDE = 512
"""The guided filter's coefficients are computed on crops reduced to this longer side, in pixels."""

GRABCUT_SIDE = 280
"""GrabCut runs on crops reduced to this longer side, in pixels."""


@dataclass(frozen=True)
class Layer:
    """Pixels to lay over an image. box: where (half-open). pixels: uint8 (h, w, 3). matte: float32 (h, w), 0..1."""

    box: Box
    pixels: np.ndarray
    matte: np.ndarray


def overlay(image: np.ndarray, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """The image with the layer mixed in, and the bool mask of the pixels that the layer could change.

    Args:
        image: RGB uint8 (height, width, 3); not modified.
    """
    matte = quantise(layer.matte)
    result, mask = image.copy(), np.zeros(image.shape[:2], dtype=bool)
    boxes.crop(mask, layer.box)[:] = matte > 0
    window = boxes.crop(result, layer.box)
    mixed = mix(window, layer.pixels, matte)
    window[matte > 0] = mixed[matte > 0]
    return result, mask


def mix(below: np.ndarray, above: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """below * (1 - matte) + above * matte, uint8 (h, w, 3)."""
    weight = matte[..., None]
    return np.rint(below * (1 - weight) + above * weight).astype(np.uint8)


def quantise(matte: np.ndarray) -> np.ndarray:
    """The matte with weights too small to see (under 1/128) set to 0, and nearly full ones to 1."""
    return np.where(matte < 1 / 128, 0, np.where(matte > 127 / 128, 1, matte)).astype(np.float32)


def place(mask: np.ndarray, box: Box, window: Box) -> np.ndarray:
    """An array of `box`'s size in one of `window`'s size, 0 elsewhere; both boxes in the same image's pixels."""
    result = np.zeros((window[3] - window[1], window[2] - window[0], *mask.shape[2:]), dtype=mask.dtype)
    x1, y1 = max(box[0], window[0]), max(box[1], window[1])
    x2, y2 = min(box[2], window[2]), min(box[3], window[3])
    if x2 > x1 and y2 > y1:
        part = mask[y1 - box[1] : y2 - box[1], x1 - box[0] : x2 - box[0]]
        result[y1 - window[1] : y2 - window[1], x1 - window[0] : x2 - window[0]] = part
    return result


def disc(radius: float) -> np.ndarray:
    """A round structuring element of that radius in pixels."""
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """bool mask grown by `radius` pixels (Euclidean)."""
    if not mask.any():
        return mask.copy()
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) <= radius


def erode(mask: np.ndarray, radius: float) -> np.ndarray:
    """bool mask shrunk by `radius` pixels (Euclidean); what lies on the image's border is not eroded from there."""
    if mask.all():
        return mask.copy()
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) > radius


def tidy(mask: np.ndarray) -> np.ndarray:
    """A mask without specks (under 3 % of its area), pinholes (under 1 %) and stair-steps."""
    area = int(mask.sum())
    if area == 0:
        return mask.copy()
    sigma = max(0.8, 0.006 * np.sqrt(area))
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) > 0.5
    kept = _drop_small(smooth, 0.03 * area)
    return ~_drop_small(~kept, 0.01 * area)


def _drop_small(mask: np.ndarray, least: float) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= least
    keep[0] = False
    return keep[labels]


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: float, eps: float = 1e-4) -> np.ndarray:
    """`values` smoothed so that its edges are those of the guide.

    Args:
        guide: RGB uint8 (h, w, 3). values: float32 (h, w). radius: of the window, in pixels of the guide.
        eps: regulariser, in squared units of a guide scaled to 0..1.
    """
    height, width = values.shape
    scale = min(1.0, GUIDE_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(guide, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    target = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    side = 2 * max(1, round(radius * scale)) + 1

    def mean(array: np.ndarray) -> np.ndarray:
        return cv2.blur(array, (side, side), borderType=cv2.BORDER_REFLECT)

    centre, level = mean(small), mean(target)
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    rr, gg, bb, rg, rb, gb = (mean(small[..., i] * small[..., j]) - centre[..., i] * centre[..., j] for i, j in pairs)
    rr, gg, bb = rr + eps, gg + eps, bb + eps
    cross = [mean(small[..., i] * target) - centre[..., i] * level for i in range(3)]
    # The inverse of the symmetric 3 x 3 covariance, by its adjugate.
    inverse = [[gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb]]
    inverse += [[inverse[0][1], rr * bb - rb * rb, rb * rg - rr * gb]]
    inverse += [[inverse[0][2], inverse[1][2], rr * gg - rg * rg]]
    determinant = rr * inverse[0][0] + rg * inverse[0][1] + rb * inverse[0][2]
    slope = np.dstack([sum(inverse[i][j] * cross[j] for j in range(3)) / determinant for i in range(3)])
    offset = level - (slope * centre).sum(axis=-1)
    full = (width, height)
    slope = cv2.resize(mean(slope), full, interpolation=cv2.INTER_LINEAR)
    offset = cv2.resize(mean(offset), full, interpolation=cv2.INTER_LINEAR)
    return (slope * (guide.astype(np.float32) / 255)).sum(axis=-1) + offset


def matte_of(rgb: np.ndarray, mask: np.ndarray, band: float | None = None) -> np.ndarray:
    """A soft matte along the image's edges near the mask's outline.

    Args:
        rgb: uint8 (h, w, 3). mask: bool (h, w).
        band: how far from the outline, in pixels, the matte may differ from the mask; by default 2 % of sqrt(area),
            2..10.

    Returns:
        float32 (h, w): exactly 1 inside the band, exactly 0 outside it.
    """
    if band is None:
        band = float(np.clip(0.02 * np.sqrt(mask.sum()), 2, 10))
    soft = guided_filter(rgb, mask.astype(np.float32), max(2, band), 1e-4)
    feather = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.7, band / 4), borderType=cv2.BORDER_REPLICATE)
    inner, outer = erode(mask, band), dilate(mask, band)
    matte = np.clip((0.7 * soft + 0.3 * feather - 0.5) * 1.5 + 0.5, 0, 1).astype(np.float32)
    matte[inner], matte[~outer] = 1, 0
    # Fade to 0 before the band ends, so that an edge that the guide misses leaves no hard line.
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return matte * np.clip((band + 1 - distance) / max(1.0, band / 2), 0, 1).astype(np.float32)


def grabcut(photo: np.ndarray, box: Box) -> np.ndarray | None:
    """The object's mask from its box alone: bool of the box's size, or None where GrabCut finds none.

    Rother, Kolmogorov and Blake, "GrabCut", SIGGRAPH 2004 (OpenCV's), on the box with a margin of 25 %.
    """
    height, width = photo.shape[:2]
    window = boxes.grow(box, 0.25, width, height)
    crop = boxes.crop(photo, window)
    scale = min(1.0, GRABCUT_SIDE / max(crop.shape[:2]))
    size = (max(8, round(crop.shape[1] * scale)), max(8, round(crop.shape[0] * scale)))
    small = cv2.cvtColor(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    inside = np.full((box[3] - box[1], box[2] - box[0]), cv2.GC_PR_FGD, np.uint8)
    labels = cv2.resize(place(inside, box, window), size, interpolation=cv2.INTER_NEAREST)
    if not (labels == cv2.GC_BGD).any():
        return None
    cv2.setRNGSeed(1)
    try:
        cv2.grabCut(small, labels, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.float32)
    full = cv2.resize(found, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return place(full, window, box)


def spread(values: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """`values` (h, w, 3) continued from where `known` into the rest: known pixels stay, others get a local mean.

    Normalised convolution at doubling scales, so that no pixel is left without a value.
    """
    result = np.zeros(values.shape, np.float32)
    weight = known.astype(np.float32)
    filled = np.zeros(known.shape, bool)
    source = values.astype(np.float32) * weight[..., None]
    while not filled.all():
        near = cv2.GaussianBlur(weight, (0, 0), sigma)
        mean = cv2.GaussianBlur(source, (0, 0), sigma) / np.maximum(near, 1e-6)[..., None]
        fresh = (near > 1e-3) & ~filled
        result[fresh] = mean[fresh]
        filled |= fresh
        sigma *= 2
        if sigma > 4 * max(known.shape):
            result[~filled] = values[known].mean(axis=0) if known.any() else values.mean(axis=(0, 1))
            break
    result[known] = values[known]
    return result
