"""What can be measured on a pair of images without a model: fidelity, seams, artifacts, sharpness.

Pure functions on arrays. Images are RGB uint8 (height, width, 3), masks bool (height, width), light is CIE L (0..100).
None of these is an opinion on whether an edit looks good; each is one quantity with one definition.
"""

from __future__ import annotations

import cv2
import numpy as np

from ugaf.imaging.planes import disk

PSNR_CAP = 100.0
"""Peak signal-to-noise ratio, in dB, that stands for identical pixels."""


def psnr(source: np.ndarray, edited: np.ndarray, region: np.ndarray) -> float | None:
    """Peak signal-to-noise ratio over the region, all channels; dB, at most PSNR_CAP; None if the region is empty."""
    if not region.any():
        return None
    error = float(np.square(source[region].astype(np.float32) - edited[region]).mean())
    return PSNR_CAP if error == 0 else min(PSNR_CAP, float(10 * np.log10(255**2 / error)))


def ssim(source: np.ndarray, edited: np.ndarray, region: np.ndarray) -> float | None:
    """Mean structural similarity of luma over the region, -1..1; None if it is empty.

    Wang et al. 2004: Gaussian window (sigma 1.5), K1 = 0.01, K2 = 0.03, population covariance.
    """
    return float(ssim_map(source, edited)[region].mean()) if region.any() else None


def ssim_map(source: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """Structural similarity of luma at each pixel: float32 (height, width). See `ssim`."""
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (source, edited))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = _window(x), _window(y)
    vx, vy, vxy = _window(x * x) - mx * mx, _window(y * y) - my * my, _window(x * y) - mx * my
    return ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L: float32 (height, width), 0..100."""
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 0]


def fine_detail(light: np.ndarray, region: np.ndarray) -> float:
    """Fine detail in a region: root mean square of L minus its Gaussian blur (sigma 1); L units, 0 if it is empty."""
    if not region.any():
        return 0.0
    high = light - cv2.GaussianBlur(light, (0, 0), 1.0)
    return float(np.sqrt(np.square(high[region]).mean()))


def noise_sigma(light: np.ndarray, region: np.ndarray) -> float:
    """Standard deviation of fine noise in L units: Immerkaer 1996's operator, by the median (against edges)."""
    if not region.any():
        return 0.0
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(light, -1, kernel)
    return float(np.median(np.abs(response[region])) / (6 * 0.6745))


def blockiness(light: np.ndarray) -> float:
    """How much stronger steps are on an 8-pixel grid than off it: 0 (no grid) .. about 1 (heavy JPEG).

    Mean absolute step in L across the lines of the best of eight offsets, over the mean of the other lines, minus 1;
    the mean over rows and columns, floored at 0. Steps over 20 L are scene edges and count as 20.
    """
    values = []
    for axis in (0, 1):
        steps = np.minimum(np.abs(np.diff(light, axis=axis)), 20.0).mean(axis=1 - axis)
        if len(steps) < 32:
            continue
        means = np.array([steps[offset::8].mean() for offset in range(8)])
        best = int(means.argmax())
        # The median of the others: one strong scene edge in a column must not pass for a grid.
        rest = float(np.median(np.delete(means, best)))
        values.append(max(0.0, float(np.median(steps[best::8])) / max(rest, 0.05) - 1.0))
    return float(np.mean(values)) if values else 0.0


def clipped(rgb: np.ndarray, region: np.ndarray) -> float:
    """Share of the region's pixels with all channels at 0..1 or any two channels at 254..255: 0..1."""
    if not region.any():
        return 0.0
    pixels = rgb[region]
    return float(((pixels <= 1).all(axis=1) | ((pixels >= 254).sum(axis=1) >= 2)).mean())


def hard_steps(light: np.ndarray) -> np.ndarray:
    """Step edges narrower than a lens makes them: the share of a step over 8 pixels that happens within 2.

    Returns:
        hardness: float32 (height, width), 0..1, of the stronger of the horizontal and the vertical step; 0 where the
        step over 8 pixels is below 6 L.
    """
    best, hardness = np.zeros_like(light), np.zeros_like(light)
    for axis in (0, 1):
        narrow = np.abs(_step(light, 1, axis))
        wide = np.abs(_step(light, 4, axis))
        share = np.where(wide >= 6.0, np.minimum(narrow / np.maximum(wide, 6.0), 1.0), 0.0)
        stronger = wide > best
        hardness = np.where(stronger, share, hardness)
        best = np.maximum(best, wide)
    return hardness


def seams(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> float:
    """Share of the change's border that is a hard step which the source lacks: 0..1.

    A pasted patch ends in a step of one or two pixels; a photographed outline is spread by the lens and the
    demosaicing. A pixel is a new hard step if its hardness (`hard_steps`) exceeds the 90 % quantile of the source's own
    edges, and by 0.25 the source's own hardness there. Their density in a band of 3 pixels around the border, less that
    in the parallel band 6 to 12 pixels inside (textures have steps everywhere), is the first measure. The second finds
    the outline of a pasted rectangle under any texture: the share of the border where the change itself (edited minus
    source) is a hard step along a horizontal or vertical line of 15 pixels or more, on a side of a part's bounding box.
    The greater of both is the result.

    Args:
        before, after: lightness of source and edited image (`lightness`). mask: where the pair changed.
    """
    border = _band(mask, -3, 3)
    if not border.any() or mask.all():
        return 0.0
    own, new = hard_steps(before), hard_steps(after)
    edges = own[own > 0]
    usual = max(0.5, float(np.quantile(edges, 0.9))) if edges.size > 100 else 0.5
    # A step's own neighbourhood: the source may have the same edge a pixel away.
    hard = (new > usual) & (new > cv2.dilate(own, np.ones((3, 3), np.uint8)) + 0.25)
    length = max(1, _contour_length(mask))
    at_border = (hard & border).sum() / 2 / length
    inner = _band(mask, 6, 12)
    inside = (hard & inner).sum() / max(1, inner.sum()) * border.sum() / 2 / length if inner.any() else 0.0
    return float(
        np.clip(max(at_border - inside, _straight_steps(after - before, border & _sides(mask)) / length), 0, 1)
    )


def _sides(mask: np.ndarray) -> np.ndarray:
    """Within 4 pixels of the sides of the bounding boxes of the mask's larger parts: bool (height, width)."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sides = np.zeros(mask.shape, np.uint8)
    for x, y, width, height, area in stats[1:]:
        if area >= 0.05 * mask.sum():
            cv2.rectangle(sides, (int(x), int(y)), (int(x + width - 1), int(y + height - 1)), 1, 9)
    return sides.astype(bool)


def _straight_steps(change: np.ndarray, border: np.ndarray) -> float:
    """Length in pixels of the hard, straight, axis-aligned steps of the change (in L) within the border band."""
    total = 0.0
    for axis in (0, 1):
        narrow, wide = np.abs(_step(change, 1, axis)), np.abs(_step(change, 4, axis))
        hard = ((wide >= 4.0) & (narrow >= 0.8 * wide) & border).astype(np.uint8)
        gap, run = ((1, 5), (1, 15)) if axis == 0 else ((5, 1), (15, 1))
        joined = cv2.morphologyEx(hard, cv2.MORPH_CLOSE, np.ones(gap, np.uint8))
        total += float(cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones(run, np.uint8)).sum())
    return total / 2


def sharpness_loss(before: np.ndarray, after: np.ndarray, mask: np.ndarray, inside_counts: bool = True) -> float:
    """How much fine detail the edited image lost, in octaves (log2 of amplitude ratio), >= 0; sharper is 0.

    Outside the change: detail of the source over that of the edited image. Inside (half weight): the lower of the
    source's detail there and the edited surround's, over the edited image's detail there, so that a removed object that
    gives way to a smooth sky lost nothing, while a smear on grass did. Details below 0.4 L count as 0.4.

    Args:
        before, after: lightness of source and edited image (`lightness`). mask: where the pair changed.
        inside_counts: False where smoothness inside can be what was asked for.
    """
    floor = 0.4
    outside = ~_grown(mask, 4)
    loss = 0.0
    if outside.mean() > 0.02:
        loss += max(0.0, np.log2(max(fine_detail(before, outside), floor) / max(fine_detail(after, outside), floor)))
    core = mask & ~_band(mask, -2, 2)
    if inside_counts and core.sum() >= 64:
        ring = _grown(mask, 24) & ~_grown(mask, 4)
        wanted = fine_detail(before, core)
        if ring.sum() >= 64:
            wanted = min(wanted, fine_detail(after, ring))
        loss += 0.5 * max(0.0, np.log2(max(wanted, floor) / max(fine_detail(after, core), floor)))
    return float(loss)


def artifacts(source: np.ndarray, edited: np.ndarray, light: tuple[np.ndarray, np.ndarray], mask: np.ndarray) -> float:
    """Flaws that the edited image has beyond its source's: 0..1.

    1 - (1 - grid)(1 - clip)(1 - noise), each 0..1: excess blockiness (of the whole image; from 0.05 to 0.55), excess
    share of clipped pixels (inside the change, where its area is over 1 %, else everywhere; from 0.1 to 0.6), excess
    noise outside the change (from 0.25 to 4.25 L).
    """
    before, after = light
    grid = np.clip((blockiness(after) - blockiness(before) - 0.05) / 0.5, 0, 1)
    where = mask if mask.mean() > 0.01 else np.ones_like(mask)
    clip = np.clip((clipped(edited, where) - clipped(source, where) - 0.1) / 0.5, 0, 1)
    outside = ~_grown(mask, 4)
    noise = 0.0
    if outside.mean() > 0.02:
        noise = np.clip((noise_sigma(after, outside) - noise_sigma(before, outside) - 0.25) / 4, 0, 1)
    return float(1 - (1 - grid) * (1 - clip) * (1 - noise))


def _window(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (11, 11), 1.5)


def _step(light: np.ndarray, reach: int, axis: int) -> np.ndarray:
    padding = [(reach, reach) if index == axis else (0, 0) for index in range(2)]
    padded = np.pad(light, padding, mode="edge")
    if axis == 0:
        return padded[2 * reach :] - padded[: -2 * reach]
    return padded[:, 2 * reach :] - padded[:, : -2 * reach]


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), disk(by)).astype(bool)


def _band(mask: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Pixels from `start` to `stop` pixels inside the mask's border (negative: outside)."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    depth = inside - outside
    return (depth >= start) & (depth <= stop)


def _contour_length(mask: np.ndarray) -> int:
    return int((mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)).sum())
