"""Superpixels, contours and saliency: what the embedded detector sees of an image.

Everything after the superpixels is done on their adjacency graph: a region is a set of superpixels (a boolean vector),
so that thousands of regions can be measured at once by matrix products. Lengths are in pixels of the working image,
colours in CIE L*a*b* units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

TEXTURE_GAIN = 8.0


@dataclass(frozen=True)
class Regions:
    """An image cut into n superpixels.

    Attributes:
        labels: int32 (height, width), 0..n-1.
        features: float32 (n, 4): mean L*, a*, b* and texture (log of the local contrast, on the scale of L*).
        sizes: float64 (n,), pixels.
        centres: float64 (n, 2), x and y in pixels.
        rims: float64 (n,), pixels on the image's border.
        words: float32 (n, k), each row a histogram over the image's k colour words; rows sum to `sizes`.
        lengths: float64 (n, n), symmetric: length of the common boundary, 0 where two do not touch.
        walls: float64 (n, n), symmetric: mean contour strength (0..1) along the common boundary.
        focus: float64 (n, n), symmetric: sharpness of the common boundary, 0 (blurred over pixels) .. 1.
        corners: int64 (n, 4), the tightest box (x1, y1, x2, y2), half-open, of each superpixel.
    """

    labels: np.ndarray
    features: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray
    rims: np.ndarray
    words: np.ndarray
    lengths: np.ndarray
    walls: np.ndarray
    focus: np.ndarray
    corners: np.ndarray

    @property
    def count(self) -> int:
        return len(self.sizes)

    @cached_property
    def neighbours(self) -> list[list[int]]:
        """For each superpixel, those that touch it."""
        return [np.flatnonzero(row).tolist() for row in self.lengths]


def planes(rgb: np.ndarray) -> np.ndarray:
    """L*, a*, b* (CIE units) and texture: float32 (height, width, 4) from RGB uint8."""
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light = lab[..., 0]
    fine = light - cv2.GaussianBlur(light, (0, 0), 2)
    energy = cv2.GaussianBlur(fine * fine, (0, 0), 4)
    texture = TEXTURE_GAIN * np.log1p(np.sqrt(np.maximum(energy, 0)))
    return np.dstack([lab, texture])


def contours(features: np.ndarray) -> np.ndarray:
    """Contour strength 0..1, float32 (height, width), from planes (height, width, 4).

    At each pixel, eight orientations and two scales: the difference of the means of two windows on either side, over
    the variation inside them, so that texture is weak and the edge of a texture is strong (a cheap relative of the
    half-disc gradients of Martin, Fowlkes and Malik, PAMI 2004). The largest response counts.
    """
    strongest = np.zeros(features.shape[:2], np.float32)
    for radius in (2, 5):
        size = (2 * radius + 1, 2 * radius + 1)
        mean = cv2.blur(features, size, borderType=cv2.BORDER_REFLECT_101)
        spread = cv2.blur(features * features, size, borderType=cv2.BORDER_REFLECT_101) - mean * mean
        step = radius + 1
        for dx, dy in ((step, 0), (0, step), (step, step), (step, -step)):
            near, far = _shifted(mean, dx, dy), _shifted(mean, -dx, -dy)
            noise = _shifted(spread, dx, dy) + _shifted(spread, -dx, -dy)
            gap = near - far
            response = (gap * gap / (0.6 * np.maximum(noise, 0) + 60)).sum(axis=2)
            np.maximum(strongest, response, out=strongest)
    return 1 - np.exp(-0.1 * strongest)


def _shifted(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    padded = cv2.copyMakeBorder(image, max(-dy, 0), max(dy, 0), max(-dx, 0), max(dx, 0), cv2.BORDER_REPLICATE)
    y, x = max(dy, 0), max(dx, 0)
    return padded[y : y + image.shape[0], x : x + image.shape[1]]


def superpixels(rgb: np.ndarray, count: int, words: int = 48) -> Regions:
    """Cut RGB uint8 (height, width, 3) into about `count` superpixels (SLIC, Achanta et al., PAMI 2012)."""
    features = planes(rgb)
    strength = contours(features)
    smooth = cv2.bilateralFilter(rgb, 5, 20, 3)
    from skimage.segmentation import slic  # slow to import, and each command imports this module

    labels = slic(
        smooth,
        n_segments=max(1, min(count, rgb.shape[0] * rgb.shape[1] // 30)),
        compactness=8,
        sigma=0,
        start_label=0,
        max_num_iter=6,
    ).astype(np.int32)
    n = int(labels.max()) + 1
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=n).astype(np.float64)
    mean = np.stack([np.bincount(flat, features[..., c].ravel(), n) / sizes for c in range(4)], axis=1)
    ys, xs = np.mgrid[: labels.shape[0], : labels.shape[1]]
    centres = np.stack([np.bincount(flat, xs.ravel(), n), np.bincount(flat, ys.ravel(), n)], axis=1) / sizes[:, None]
    rim = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    rims = np.bincount(rim, minlength=n).astype(np.float64)
    lengths, (walls, fine, coarse) = _boundaries(labels, (strength, *_gradients(features[..., 0])), n)
    focus = np.clip((fine / np.maximum(coarse, 1e-6) - 1) / 1.2, 0, 1)
    return Regions(
        labels,
        mean,
        sizes,
        centres,
        rims,
        _colour_words(features, labels, n, words),
        lengths,
        walls,
        focus,
        _corners(labels, n),
    )


def _gradients(light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of lightness at a fine and at a coarse scale, the largest within a pixel: float32 (height, width) each.

    Their ratio tells a sharp edge from one out of focus (Zhuo and Sim, Pattern Recognition 2011).
    """
    maps = []
    for sigma in (0.8, 2.4):
        smooth = cv2.GaussianBlur(light, (0, 0), sigma)
        size = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
        maps.append(cv2.dilate(size, np.ones((3, 3), np.uint8)))
    return maps[0], maps[1]


def _boundaries(labels: np.ndarray, maps: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Length of the boundary between each two superpixels, and the mean of each map along it: (n, n) each."""
    lengths = np.zeros(n * n)
    totals = [np.zeros(n * n) for _ in maps]
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = labels[here], labels[there]
        differ = a != b
        pairs = a[differ].astype(np.int64) * n + b[differ]
        lengths += np.bincount(pairs, minlength=n * n)
        for total, values in zip(totals, maps, strict=True):
            total += np.bincount(pairs, np.maximum(values[here], values[there])[differ], n * n)
    lengths = _both_ways(lengths, n)
    return lengths, [_both_ways(total, n) / np.maximum(lengths, 1) for total in totals]


def _both_ways(flat: np.ndarray, n: int) -> np.ndarray:
    square = flat.reshape(n, n)
    return square + square.T


def _colour_words(features: np.ndarray, labels: np.ndarray, n: int, k: int) -> np.ndarray:
    """Histograms (n, k) of the image's own k colour-and-texture words."""
    points = features.reshape(-1, 4).astype(np.float32)
    cv2.setRNGSeed(1)
    sample = np.ascontiguousarray(points[:: max(1, len(points) // 4000)])
    k = min(k, len(np.unique(sample, axis=0)))
    if k == 1:
        return np.bincount(labels.ravel(), minlength=n).astype(np.float32)[:, None]
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 8, 0.5)
    _, _, words = cv2.kmeans(sample, k, None, stop, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    distances = (words * words).sum(axis=1)[None] - 2 * points @ words.T
    nearest = distances.argmin(axis=1)
    counts = np.bincount(labels.ravel().astype(np.int64) * k + nearest, minlength=n * k)
    return counts.reshape(n, k).astype(np.float32)


def saliency(regions: Regions) -> np.ndarray:
    """How much each superpixel stands out from what reaches the image's border: float64 (n,), 0..1.

    Robust background detection (Zhu, Liang, Wei and Sun, CVPR 2014): a region is background in so far as it is widely
    connected to the border; contrast is weighted with that, and a smooth map is solved for.
    """
    n = regions.count
    lab = regions.features[:, :3].astype(np.float64)
    gap = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    on_border = regions.rims > 0
    touching = regions.lengths > 0
    linked = touching | (on_border[:, None] & on_border[None])
    graph = np.where(linked, np.maximum(gap, 1e-3), 0)
    np.fill_diagonal(graph, 0)
    from scipy.sparse.csgraph import shortest_path  # slow to import, too

    geodesic = shortest_path(graph, method="D", directed=False)
    near = np.exp(-(geodesic**2) / (2 * 10.0**2))
    area = near.sum(axis=1)
    connection = near[:, on_border].sum(axis=1) / np.sqrt(area)
    background = 1 - np.exp(-(connection**2) / 2)
    height, width = regions.labels.shape
    apart = np.linalg.norm((regions.centres[:, None] - regions.centres[None]) / max(height, width), axis=2)
    contrast = (gap * np.exp(-(apart**2) / (2 * 0.25**2)) * background[None]).sum(axis=1)
    contrast /= max(contrast.max(), 1e-9)
    smooth = np.where((touching @ touching) > 0, np.exp(-(gap**2) / (2 * 10.0**2)) + 0.1, 0)
    np.fill_diagonal(smooth, 0)
    system = np.diag(background + contrast + smooth.sum(axis=1)) - smooth
    return np.clip(np.linalg.solve(system + 1e-9 * np.eye(n), contrast), 0, 1)


def _corners(labels: np.ndarray, n: int) -> np.ndarray:
    """Tightest box (x1, y1, x2, y2) of each label: int (n, 4)."""
    height, width = labels.shape
    ys, xs = np.mgrid[:height, :width]
    flat = labels.ravel()
    out = np.empty((n, 4), dtype=np.int64)
    out[:, :2], out[:, 2:] = max(height, width), 0
    np.minimum.at(out[:, 0], flat, xs.ravel())
    np.minimum.at(out[:, 1], flat, ys.ravel())
    np.maximum.at(out[:, 2], flat, xs.ravel() + 1)
    np.maximum.at(out[:, 3], flat, ys.ravel() + 1)
    return out
