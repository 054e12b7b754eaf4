"""Where did the edited image really change? FineEdit's first refinement step (arXiv 2604.10954, section 4.1).

A plain difference is useless on pairs made by a diffusion editor: it redraws fine texture everywhere, drifts in colour
and leaves resampling residue at every edge. So the difference of each pixel is compared with what this very pair shows
where nothing was changed:

1. register the images (`ugaf.imaging.registration`) and undo a global colour drift fitted robustly to unchanged pixels;
2. take the difference in CIE Lab, tolerant to a pixel's misplacement, plus a term for texture energy;
3. estimate the pair's own noise as a function of local activity (contrast of the surround) and threshold against it;
4. clean up: erosion, dilation, holes filled, specks dropped, near parts joined; box of the main change.

Pairs that are exact by construction (identical pixels outside the edit) are recognised and need none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box
from ugaf.imaging.planes import disk
from ugaf.imaging.registration import reduce, register

SIDE = 1024
"""Longer side, in pixels, of the images that are compared; larger ones are reduced first."""

JUST_VISIBLE = 2.3
"""CIE76 difference that is just noticeable: no threshold goes below it, unless the pair is exact."""

Drift = Literal["undo", "keep", "auto"]


@dataclass(frozen=True)
class Change:
    """What changed between source and edited image.

    Attributes:
        mask: bool, the source's height and width: True where it changed.
        box: around the main change, in pixels of the source; None if nothing changed.
        area: changed share of the image, 0..1.
        shift_x, shift_y: displacement of the edited image that was undone, in pixels of the source.
        drift: mean CIE76 difference made by the global colour drift (whether it was undone or not).
        noise: median difference of unchanged pixels, CIE76 units; 0 for an exact pair.
    """

    mask: np.ndarray
    box: Box | None
    area: float
    shift_x: float
    shift_y: float
    drift: float
    noise: float


def detect_change(source: np.ndarray, edited: np.ndarray, drift: Drift = "auto") -> Change:
    """The change between two RGB uint8 images of any sizes.

    Args:
        drift: what to do with a colour change that one smooth curve explains over the whole image. "undo" it (a local
            edit was asked for), "keep" it as part of the change (a global edit was asked for: then nothing is known to
            be unchanged, and every pixel that visibly differs counts), or "auto": undo it while it is small (under
            AUTO_DRIFT), else keep it, since what is larger is more likely to be meant.
    """
    if source.shape == edited.shape:
        step = _largest_step(source, edited)
        if is_exact(source, step):
            return _exact_change(step > 0)
    height, width = source.shape[:2]
    small = reduce(source, SIDE)
    registered = register(small, reduce(edited, SIDE))
    factor = width / small.shape[1]
    before, raw = to_lab(small), to_lab(registered.edited)
    curve = fit_drift(small, registered.edited, registered.valid)
    corrected = to_lab(unclip(apply_drift(registered.edited, curve), registered.edited, small))
    amount = float(_norm(raw - corrected).mean())
    keep = drift == "keep" or (drift == "auto" and amount > AUTO_DRIFT)
    distance, activity = difference(before, corrected)
    limit, noise = noise_limit(distance, activity, registered.valid)
    if keep:
        distance, limit = plain_difference(before, raw), np.full_like(limit, JUST_VISIBLE)
    # Beside a strong change its blur still passes the limit; it ends where it has fallen to a third.
    peak = cv2.dilate(distance, disk(4))
    ratio = np.where(registered.valid & (distance >= 0.33 * peak), distance / limit, 0)
    mask, box = clean(ratio)
    full = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    if box is not None:
        box = boxes.clip([value * factor for value in box], width, height)
    return Change(
        full, box, float(full.mean()), registered.shift_x * factor, registered.shift_y * factor, amount, noise
    )


AUTO_DRIFT = 8.0
"""CIE76 difference up to which an unexplained global colour change counts as an editor's drift."""

MAX_LIMIT = 20.0
"""CIE76 difference above which a pixel is changed whatever the pair's noise (a flat answer is all "noise")."""


def is_exact(source: np.ndarray, step: np.ndarray) -> bool:
    """True for a pair whose unchanged pixels are identical, as made by compositing or by the templates editor.

    A model or a lossy encoder never reproduces textured tiles of 8 x 8 pixels bit by bit over part of an image while
    leaving hardly a tile with tiny differences elsewhere. Identical images are exact too.

    Args:
        source: RGB uint8.
        step: uint8 (height, width), the largest channel's absolute difference to the edited image.
    """
    if not step.any():
        return True
    largest = _tiles(step, np.max)
    texture = _tiles(source[..., 1], np.max) - _tiles(source[..., 1], np.min)
    same = (largest == 0) & (texture > 6)
    faint = (largest > 0) & (largest <= 3)
    return bool(same.sum() >= max(4, 0.01 * (texture > 6).sum()) and faint.sum() <= 0.1 * (largest == 0).sum())


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """RGB uint8, or float32 0..1 -> CIE Lab float32 (L 0..100, a and b about -100..100)."""
    unit = rgb.astype(np.float32) / 255 if rgb.dtype == np.uint8 else rgb
    return cv2.cvtColor(unit, cv2.COLOR_RGB2LAB)


def fit_drift(source: np.ndarray, edited: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The smooth colour curve that takes the edited image's unchanged pixels back to the source's.

    The drift of each channel is fitted as a quadratic polynomial in the edited R, G, B (ten terms) on every n-th pixel
    of the blurred images, by reweighted least squares (Tukey). The reach of the weights shrinks from 16 % of the range
    to the scale of the pair's own residuals: colours that few pixels have, such as deep shadows, must be given the
    time to be explained before they are taken for an edit. For the same reason every lightness counts alike.

    Returns:
        coefficients (10, 3) of the drift to be added, for values 0..1: see `apply_drift`.
    """
    height, width = valid.shape
    every = max(1, int(np.sqrt(height * width / 16_000)))
    inside = valid[::every, ::every].reshape(-1)
    before, after = (
        cv2.GaussianBlur(image, (0, 0), 2.0)[::every, ::every].reshape(-1, 3)[inside].astype(np.float64) / 255
        for image in (source, edited)
    )
    curve = np.zeros((10, 3))
    if len(before) < 100:
        return curve
    terms = _terms(after)
    bins = np.minimum(after.mean(axis=1) * 16, 15).astype(int)
    count = np.bincount(bins, minlength=16)
    even = 1 / np.sqrt(np.maximum(count, 0.01 * len(bins)))[bins]
    even /= even.mean()
    pull = np.diag([1e-6, *[0.001] * 3, *[0.003] * 6]) * len(before)
    for reach in (0.16, 0.12, 0.09, 0.07, 0.05, 0.0, 0.0, 0.0):
        error = np.linalg.norm(before - after - terms @ curve, axis=1)
        reach = max(reach, 0.01, 4.0 * float(np.quantile(error, 0.4)) if reach < 0.06 else 0.0)
        weight = even * np.square(np.clip(1 - np.square(error / reach), 0, None))
        gram = terms.T @ (terms * weight[:, None]) + pull
        curve = np.linalg.solve(gram, terms.T @ ((before - after) * weight[:, None]))
    return curve


def apply_drift(rgb: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """RGB uint8 (height, width, 3) with the drift of `fit_drift` added: float32, 0..1."""
    flat = rgb.reshape(-1, 3).astype(np.float32) / 255
    return np.clip(flat + _terms(flat) @ curve.astype(np.float32), 0, 1).reshape(rgb.shape)


def unclip(corrected: np.ndarray, edited: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Where the editor clipped a channel, what lies beyond is unknown: the source's value there is no difference.

    Args:
        corrected: float32 0..1, `edited` with its drift undone. edited, source: RGB uint8.
    """
    before = source.astype(np.float32) / 255
    lifted = np.where(edited >= 252, np.maximum(corrected, before), corrected)
    return np.where(edited <= 3, np.minimum(lifted, before), lifted)


def difference(source: np.ndarray, edited: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perceptual difference and local activity of two Lab images on one grid.

    The difference joins two terms as a root of squares: the CIE76 distance of the smoothed colours, where a colour that
    the other image has within a pixel counts as no difference (both ways round), and the local change of texture
    energy. Activity is the lower of both images' local contrast: only where both are busy does redrawn texture excuse a
    difference.

    Returns:
        distance, activity: float32 (height, width), CIE76 units.
    """
    soft = [cv2.GaussianBlur(image, (0, 0), 1.0) for image in (source, edited)]
    colour = np.maximum(_outside(soft[0], soft[1]), _outside(soft[1], soft[0]))
    colour = cv2.GaussianBlur(colour, (0, 0), 1.0)
    energy = []
    for image in (source, edited):
        light = image[..., 0]
        high = light - cv2.GaussianBlur(light, (0, 0), 3.0)
        energy.append(np.sqrt(cv2.GaussianBlur(high * high, (0, 0), 4.0)))
    # Eroded by what the energy's window spread it: the mask must end where the change ends.
    texture = cv2.erode(np.abs(energy[0] - energy[1]), disk(5))
    return np.sqrt(colour * colour + texture * texture), np.minimum(energy[0], energy[1])


def plain_difference(source: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """Root mean square of the CIE76 difference over a Gaussian window (sigma 2): float32 (height, width).

    For edits of the whole image, where no pixel is known to be unchanged: nothing tells noise or drift from the edit.
    """
    step = edited - source
    return np.sqrt(cv2.GaussianBlur(np.einsum("ijk,ijk->ij", step, step), (0, 0), 2.0))


def noise_limit(distance: np.ndarray, activity: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, float]:
    """The largest difference that is still this pair's noise, at each pixel, and the noise level itself.

    Pixels are grouped by activity into bins of equal counts. In each, the noise is read from the lower part of the
    distribution (its 20 % and 50 % quantiles), which an edit of up to half of the bin leaves alone, and the limit is
    set at `median + 6 x (median - 20 % quantile)`, or three times the median. A median over three
    bins keeps a bin that the edit fills from setting its own limit.

    Returns:
        limit: float32 (height, width), CIE76, JUST_VISIBLE..MAX_LIMIT.
        noise: median difference of the pixels under the limit.
    """
    level, values = np.log1p(activity[valid]), distance[valid]
    if not values.size:
        return np.full(distance.shape, JUST_VISIBLE, np.float32), 0.0
    every = max(1, values.size // 100_000)
    level, values = level[::every], values[::every]
    edges = np.quantile(level, np.linspace(0, 1, 17))
    middle = (edges[:-1] + edges[1:]) / 2
    centre = np.empty(16)
    spread = np.empty(16)
    for index in range(16):
        inside = values[(level >= edges[index]) & (level <= edges[index + 1])]
        low, centre[index] = np.quantile(inside, (0.2, 0.5)) if inside.size else (0.0, 0.0)
        spread[index] = centre[index] - low
    centre, spread = _smooth(centre), _smooth(spread)
    limits = np.clip(np.maximum(centre + 6 * spread, 3 * centre), JUST_VISIBLE, MAX_LIMIT)
    limit = np.interp(np.log1p(activity), middle, limits).astype(np.float32)
    calm = distance[valid & (distance <= limit)]
    return limit, float(np.median(calm)) if calm.size else 0.0


def clean(ratio: np.ndarray) -> tuple[np.ndarray, Box | None]:
    """From difference / limit to the change mask and the box of the main change.

    Pixels over 1 that hang together with pixels over 1.5 are opened (erosion, dilation) and closed, holes are filled,
    specks dropped. Parts nearer than 3 % of the longer side form a group; groups with at least a tenth of the strongest
    group's evidence (sum of ratio) are the main change and give the box.

    Args:
        ratio: float32 (height, width).
    """
    height, width = ratio.shape
    unit = max(height, width) / 1024
    weak = cv2.morphologyEx((ratio > 1).astype(np.uint8), cv2.MORPH_OPEN, disk(1.5 * unit))
    weak = cv2.morphologyEx(weak, cv2.MORPH_CLOSE, disk(5 * unit))
    count, labels = cv2.connectedComponents(weak, connectivity=8)
    flat = labels.ravel()
    size = np.bincount(flat, minlength=count)
    strong = np.bincount(flat, weights=(ratio > 1.5).ravel(), minlength=count)
    evidence = np.bincount(flat, weights=np.clip(ratio, 0, 8).ravel(), minlength=count)
    keep = (size >= 60 * unit * unit) & (strong >= 0.15 * size) & (strong >= 20 * unit * unit)
    keep[0] = False
    if not keep.any():
        return np.zeros(ratio.shape, dtype=bool), None
    keep &= evidence >= 0.01 * evidence[keep].max()
    mask = fill_holes(keep[labels])
    return mask, main_box(mask, np.clip(ratio, 0, 8) * keep[labels], 0.1)


def main_box(mask: np.ndarray, evidence: np.ndarray, share: float) -> Box | None:
    """Box around the groups of parts that hold at least `share` of the strongest group's evidence."""
    if not mask.any():
        return None
    reach = max(1, round(0.015 * max(mask.shape)))
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    count, labels = cv2.connectedComponents(near, connectivity=8)
    weights = np.bincount(labels.ravel(), weights=(evidence * mask).ravel(), minlength=count)
    weights[0] = 0
    chosen = weights >= share * weights.max()
    chosen[0] = False
    return boxes.of_mask(mask & chosen[labels])


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Holes that cover less than a twentieth of the image become part of the mask (bool in, bool out)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    x, y, w, h = (stats[:, index] for index in range(4))
    border = (x == 0) | (y == 0) | (x + w == mask.shape[1]) | (y + h == mask.shape[0])
    hole = ~border & (stats[:, cv2.CC_STAT_AREA] < 0.05 * mask.size)
    hole[0] = False
    return mask | hole[labels]


def _exact_change(differs: np.ndarray) -> Change:
    mask = fill_holes(differs)
    box = main_box(mask, mask.astype(np.float32), 0.02)
    return Change(mask, box, float(mask.mean()), 0.0, 0.0, 0.0, 0.0)


def _outside(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """CIE76 distance of each pixel from the range of colours that `other` has in its 3 x 3 surround."""
    kernel = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(other, kernel), cv2.dilate(other, kernel)
    beyond = np.maximum(cv2.max(cv2.subtract(values, high), cv2.subtract(low, values)), 0)
    return _norm(beyond)


def _norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ijk,ijk->ij", values, values))


def _largest_step(source: np.ndarray, edited: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(cv2.absdiff(source, edited))
    return cv2.max(cv2.max(red, green), blue)


def _terms(rgb: np.ndarray) -> np.ndarray:
    r, g, b = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    return np.stack([np.ones_like(r), r, g, b, r * r, g * g, b * b, r * g, r * b, g * b], axis=1)


def _smooth(values: np.ndarray) -> np.ndarray:
    padded = np.concatenate([values[:1], values, values[-1:]])
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)


def _tiles(values: np.ndarray, how: Callable[..., np.ndarray], side: int = 8) -> np.ndarray:
    height, width = (length // side * side for length in values.shape)
    if not height or not width:
        return np.atleast_2d(how(values))
    cut = values[:height, :width].reshape(height // side, side, width // side, side)
    return how(how(cut, axis=3), axis=1)
