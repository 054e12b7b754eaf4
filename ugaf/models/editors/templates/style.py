"""Paint an object in an artist's style, by its own shapes and colours; the rest of the photograph stays.

Strokes follow the object's forms: colours are smeared along the smoothed structure tensor's edge direction (line
integral convolution; Kang, Lee and Chui, "Flow-Based Image Abstraction", TVCG 2009), and outlines are extended
differences of Gaussians (Winnemöller, Kyprianidis and Olsen, "XDoG", Computers & Graphics 2012).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from ugaf.base.errors import nearest
from ugaf.imaging import blending
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates.scene import Cutout, Scene, clouds, luminance, smoothstep

WORK_SIDE = 900
"""Styles are painted on windows reduced to this longer side, in pixels, then enlarged."""


def style(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: object, style (one of STYLES, or "pixel art")."""
    name = params.get("style")
    if name not in STYLES and name != "pixel art":
        raise EditError("BadParams", f"unknown style {name!r}{nearest(str(name), [*STYLES, 'pixel art'])}")
    cut = scene.cutout(params)
    if name == "pixel art":
        return _pixel_art(cut)
    height, width = cut.mask.shape
    scale = min(1.0, WORK_SIDE / max(height, width))
    small = cv2.resize(cut.pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(cut.mask.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    # The object's colours go on beyond its edge, so that strokes at the edge carry no background.
    clean = blending.spread(small.astype(np.float32), blending.erode(mask, 1.5) if mask.sum() > 400 else mask, 2.0)
    size = float(np.sqrt(mask.sum()))
    painted = STYLES[name](np.clip(clean, 0, 255).astype(np.uint8), mask, size, scene.rng)
    return cut.layer(cv2.resize(np.clip(painted, 0, 255), (width, height), interpolation=cv2.INTER_CUBIC))


def flow(grey: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (x, y) along the edges of a picture: float32 (h, w) each. grey: float32, any range."""
    gx = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    gy = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    xx, yy, xy = (cv2.GaussianBlur(t, (0, 0), sigma) for t in (gx * gx, gy * gy, gx * gy))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def smear(values: np.ndarray, along: tuple[np.ndarray, np.ndarray], length: float) -> np.ndarray:
    """Mean of `values` (h, w) or (h, w, 3) along the stream line through each pixel, `length` pixels each way."""
    height, width = values.shape[:2]
    grid = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    steps = int(np.clip(round(length), 2, 12))
    stride = float(length) / steps
    total: np.ndarray = values.astype(np.float32)
    for sign in (1.0, -1.0):
        x: np.ndarray
        y: np.ndarray
        x, y = grid
        last_x: np.ndarray = along[0] * sign
        last_y: np.ndarray = along[1] * sign
        for _ in range(steps):
            x, y = x + last_x * stride, y + last_y * stride
            total = total + cv2.remap(values.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            new_x = cv2.remap(along[0], x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
            new_y = cv2.remap(along[1], x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
            same = np.where(new_x * last_x + new_y * last_y < 0, -1, 1).astype(np.float32)
            last_x, last_y = new_x * same, new_y * same
    return total / (2 * steps + 1)


def outlines(rgb: np.ndarray, sigma: float, sharpness: float = 0.06, level: float = 0.985) -> np.ndarray:
    """Ink lines, 0 (ink) .. 1 (paper): XDoG of the luma, smeared along the edges."""
    grey = cv2.bilateralFilter(luminance(rgb), 5, 30, 3)
    near, wide = cv2.GaussianBlur(grey, (0, 0), sigma), cv2.GaussianBlur(grey, (0, 0), 1.6 * sigma)
    difference = near - level * wide
    lines = np.where(difference > 0, 1.0, 1 + np.tanh(sharpness * 4 * difference)).astype(np.float32)
    return np.clip(smear(lines, flow(grey, 2 * sigma), 2.5 * sigma), 0, 1)


def _pencil(rgb: np.ndarray, mask: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Graphite on paper: outlines, tone by hatching in two directions, paper grain."""
    grey = luminance(rgb)
    inside = grey[mask]
    low, high = np.percentile(inside, 2), np.percentile(inside, 98)
    tone = np.clip((grey - low) / max(high - low, 24), 0, 1)
    blurred = cv2.GaussianBlur(255 - tone * 255, (0, 0), max(2.0, size / 30))
    dodge = np.clip(tone * 255 / np.maximum(255 - blurred, 1), 0, 1)
    height, width = grey.shape
    hatch = np.zeros_like(grey)
    for angle, weight in ((45, 1.0), (-40, 0.55)):
        radians = np.radians(angle)
        noise = rng.standard_normal((height, width)).astype(np.float32)
        way = (np.full_like(grey, np.cos(radians)), np.full_like(grey, -np.sin(radians)))
        strokes = smear(noise, way, np.clip(size / 18, 5, 14))
        strokes = cv2.GaussianBlur(strokes, (0, 0), 0.7)
        hatch += weight * strokes / strokes.std()
    shade = np.clip((0.80 - tone) * 1.15, 0, 1)
    hatching = 1 - shade * np.clip(0.55 + 0.28 * hatch, 0, 1)
    grain = clouds(grey.shape, 2.0, rng, 2) * 0.02
    lines = outlines(rgb, max(0.8, size / 300), 0.09, 0.99)
    ink = np.clip(dodge**1.4 * hatching * (0.25 + 0.75 * lines) + grain, 0, 1)
    return np.array([44, 44, 48], np.float32) + ink[..., None] * np.array([206, 204, 196], np.float32)


def _oil(rgb: np.ndarray, _: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Broad strokes along the forms, richer colour, and the ridges of the bristles lit from the upper left."""
    grey = luminance(rgb)
    width = float(np.clip(size / 95, 1.6, 5.0))
    noise = cv2.GaussianBlur(rng.standard_normal(grey.shape).astype(np.float32), (0, 0), width * 0.8)
    way = flow(cv2.GaussianBlur(grey, (0, 0), 1.5) + 10 * noise / noise.std(), width * 1.8)
    smeared = smear(_kuwahara(rgb, round(width)), way, width * 3)
    colour = smear(_kuwahara(np.clip(smeared, 0, 255).astype(np.uint8), max(2, round(width * 0.7))), way, width * 1.5)
    bristle = smear(rng.standard_normal(grey.shape).astype(np.float32), way, width * 4)
    bristle = cv2.GaussianBlur(bristle / bristle.std(), (0, 0), 0.8)
    relief = bristle * 0.9 + luminance(colour) / 22
    light = cv2.Sobel(relief, cv2.CV_32F, 1, 1, ksize=3) * -1 + cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3) * -0.5
    mean = luminance(colour)[..., None]
    rich = mean + (colour - mean) * 1.35
    dabs = noise[..., None] / noise.std() * 5
    return (rich - 128) * 1.08 + 128 + dabs + np.clip(light, -3, 3)[..., None] * 9


def _kuwahara(rgb: np.ndarray, radius: int) -> np.ndarray:
    """Each pixel gets the mean of that of its four quadrant windows which varies least: float32 (h, w, 3)."""
    value = rgb.astype(np.float32)
    side = radius + 1
    mean = cv2.blur(value, (side, side))
    spread = (cv2.blur(value * value, (side, side)) - mean * mean).sum(axis=-1)
    best = np.full(spread.shape, np.inf, np.float32)
    result = mean.copy()
    for dy in (-1, 1):
        for dx in (-1, 1):
            move = np.array([[1, 0, dx * radius / 2], [0, 1, dy * radius / 2]], np.float32)
            size = (rgb.shape[1], rgb.shape[0])
            cost = cv2.warpAffine(spread, move, size, borderMode=cv2.BORDER_REFLECT)
            candidate = cv2.warpAffine(mean, move, size, borderMode=cv2.BORDER_REFLECT)
            better = cost < best
            best[better], result[better] = cost[better], candidate[better]
    return result


def _watercolour(rgb: np.ndarray, mask: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Pale washes with wobbling, darker rims, pigment that settles in clouds, and the paper's grain."""
    height, width = mask.shape
    wash = cv2.pyrMeanShiftFiltering(np.ascontiguousarray(rgb), max(4, size / 60), 16, maxLevel=1)
    reach = float(np.clip(size / 170, 1.0, 4.0))
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    dx, dy = (clouds(mask.shape, max(6, size / 14), rng, 3) * reach for _ in range(2))
    wash = cv2.remap(wash, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    wash = cv2.GaussianBlur(wash.astype(np.float32), (0, 0), 0.8 + size / 400)
    grey = luminance(wash)
    edges = cv2.GaussianBlur(
        np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)), (0, 0), 1.0
    )
    rim = np.clip(edges / 120, 0, 1)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    rim = np.maximum(rim, 0.9 * np.exp(-(((inside - 2.5) / 2.2) ** 2)))
    saturated = grey[..., None] + (wash - grey[..., None]) * 1.5
    pigment = clouds(mask.shape, max(12, size / 5), rng, 5)
    paper = clouds(mask.shape, 3.0, rng, 2)
    density = np.clip(0.66 + 0.13 * pigment + 0.5 * rim, 0.3, 1.4)[..., None]
    absorb = -np.log(np.clip(saturated / 255, 0.06, 0.985))
    return 252 * np.exp(-absorb * density) + paper[..., None] * 3.5


def _cartoon(rgb: np.ndarray, mask: np.ndarray, size: float, _: np.random.Generator) -> np.ndarray:
    """Flat areas of full colour in a few steps of light, with black outlines."""
    flat = cv2.pyrMeanShiftFiltering(np.ascontiguousarray(rgb), max(5, size / 32), 30, maxLevel=2)
    flat = cv2.medianBlur(flat, 2 * max(1, round(size / 120)) + 1)
    hls = cv2.cvtColor(flat.astype(np.float32) / 255, cv2.COLOR_RGB2HLS)
    step = 1 / 7
    level = hls[..., 1] / step
    whole = np.floor(level)
    hls[..., 1] = np.clip((whole + smoothstep(0.42, 0.58, level - whole)) * step, 0, 1)
    hls[..., 2] = np.clip(hls[..., 2] * 1.45 + 0.02, 0, 1)
    colour = cv2.cvtColor(hls, cv2.COLOR_HLS2RGB) * 255
    lines = outlines(rgb, max(1.1, size / 220), 0.12, 0.975)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    contour = smoothstep(0, 1, (inside - max(1.2, size / 150)) / 1.2)
    ink = np.minimum(smoothstep(0.35, 0.8, lines), np.where(mask, contour, 1))
    return (colour * 1.06 + 6) * ink[..., None] + 18 * (1 - ink[..., None])


def _pointillism(rgb: np.ndarray, mask: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Round dabs of unmixed colour on a light ground, their hues scattered around the local one."""
    height, width = mask.shape
    radius = float(np.clip(size / 68, 2.0, 8))
    smooth = cv2.GaussianBlur(rgb, (0, 0), radius * 0.6)
    factor = 4  # subpixel bits of cv2.circle are shift=2
    canvas = np.clip(smooth.astype(np.float32) * 0.55 + 90, 0, 255).astype(np.uint8)
    for scale, spacing in ((1.15, 1.75), (0.85, 1.5)):
        step = radius * spacing
        y, x = (axis.ravel() for axis in np.mgrid[0 : height + step : step, 0 : width + step : step])
        y, x = y + rng.uniform(-0.45, 0.45, y.size) * step, x + rng.uniform(-0.45, 0.45, x.size) * step
        order = rng.permutation(y.size)
        at = np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)[at]
        hls = cv2.cvtColor((smooth[at] / 255).astype(np.float32)[None], cv2.COLOR_RGB2HLS)[0]
        hls[:, 0] = (hls[:, 0] + rng.normal(0, 9, len(hls))) % 360
        hls[:, 1] = np.clip(hls[:, 1] + rng.normal(0.02, 0.06, len(hls)), 0.05, 0.97)
        hls[:, 2] = np.clip(hls[:, 2] * 1.3 + 0.06, 0, 1)
        colours = np.clip(cv2.cvtColor(hls[None], cv2.COLOR_HLS2RGB)[0] * 255, 0, 255)
        radii = radius * scale * rng.uniform(0.75, 1.1, y.size)
        for i in order[near[order]]:
            centre = round(float(x[i]) * factor), round(float(y[i]) * factor)
            cv2.circle(canvas, centre, round(float(radii[i]) * factor), colours[i].tolist(), -1, cv2.LINE_AA, 2)
    return canvas.astype(np.float32)


def _pixel_art(cut: Cutout) -> Layer:
    """Square blocks in a palette of at most 16 colours; the matte is made of whole blocks too."""
    height, width = cut.mask.shape
    block = max(3, round(cut.size / 38))
    rows, columns = -(-height // block), -(-width // block)
    pad = ((0, rows * block - height), (0, columns * block - width))
    colours = blending.spread(cut.pixels.astype(np.float32), cut.mask, 2.0)
    padded = np.pad(colours, (*pad, (0, 0)), mode="edge")
    small = padded.reshape(rows, block, columns, block, 3).mean(axis=(1, 3)).astype(np.float32)
    share = np.pad(cut.mask.astype(np.float32), pad).reshape(rows, block, columns, block).mean(axis=(1, 3))
    inside = share >= 0.5
    lab = cv2.cvtColor(small / 255, cv2.COLOR_RGB2LAB)
    cv2.setRNGSeed(1)
    samples = np.ascontiguousarray(lab[inside])
    count = min(16, len(samples))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.5)
    unset = np.zeros((len(samples), 1), np.int32)
    _, labels, palette = cv2.kmeans(samples, count, unset, stop, 2, cv2.KMEANS_PP_CENTERS)
    lab[inside] = (np.asarray(palette) * [1.0, 1.2, 1.2])[np.asarray(labels).ravel()]
    rgb = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255, 0, 255)
    edge = inside & ~cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(bool)
    rgb[edge] *= 0.6
    ones = np.ones((block, block), np.float32)
    matte = np.kron(inside.astype(np.float32), ones)[:height, :width]
    return cut.layer(np.kron(rgb, ones[..., None])[:height, :width], matte)


STYLES: dict[str, Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "pencil sketch": _pencil,
    "oil painting": _oil,
    "watercolour": _watercolour,
    "cartoon": _cartoon,
    "pointillism": _pointillism,
}
