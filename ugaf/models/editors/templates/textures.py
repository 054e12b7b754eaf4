"""Procedural textures: functions of pattern coordinates (pixels, float32 (h, w)), a size in pixels, and a generator.

Those with a relief return (albedo float32 (h, w, 3) 0..255, relief float32 (h, w) about 0..1).
"""

from __future__ import annotations

import cv2
import numpy as np

from ugaf.models.editors.templates.scene import clouds, luminance, ramp, smoothstep

Texture = tuple[np.ndarray, np.ndarray]


def wood(x: np.ndarray, y: np.ndarray, size: float, rng: np.random.Generator) -> Texture:
    """Planed boards cut along the trunk: growth rings as stretched, wavering bands, with pores."""
    shape = x.shape
    wobble = clouds(shape, size / 1.6, rng, 3, stretch=2.2)
    rings = (y + 0.16 * size * wobble + 0.10 * x) / max(5.0, size / 11)
    rings = rings + 0.10 * clouds(shape, max(3.0, size / 25), rng, 3, stretch=8.0)
    phase = rings - np.floor(rings)
    band = np.where(phase < 0.86, (phase / 0.86) ** 2, (1 - phase) / 0.14)
    fibre = clouds(shape, max(1.5, size / 160), rng, 2, stretch=22.0)
    tone = np.clip(0.22 + 0.38 * band + 0.09 * fibre + 0.08 * clouds(shape, size / 3, rng, 2, stretch=3.0), 0, 1)
    albedo = ramp(tone, [(0, (236, 192, 136)), (0.4, (208, 152, 92)), (0.75, (160, 104, 54)), (1, (112, 66, 32))])
    return albedo * 1.04, (0.35 * fibre - 0.4 * band).astype(np.float32)


def marble(x: np.ndarray, y: np.ndarray, size: float, rng: np.random.Generator) -> Texture:
    """White stone with branching grey veins (ridges of turbulence) and faint warm clouds."""
    shape = x.shape
    angle = rng.uniform(0.5, 1.1)
    along = x * np.cos(angle) + y * np.sin(angle)
    tone = 0.10 * clouds(shape, size / 2, rng, 4) + 0.08
    for period, width, weight in ((0.55, 0.16, 0.75), (0.30, 0.07, 0.45), (0.21, 0.035, 0.40)):
        warp = clouds(shape, size * 0.6, rng, 6)
        vein = np.abs(np.sin(np.pi * (along / (period * size) + 0.55 * warp)))
        strength = smoothstep(-0.6, 1.4, clouds(shape, size / 2, rng, 3))
        tone = tone + weight * strength * np.exp(-((vein / width) ** 1.2))
    tone = np.clip(tone, 0, 1)
    albedo = ramp(tone, [(0, (247, 245, 241)), (0.3, (214, 213, 212)), (0.7, (146, 148, 153)), (1, (92, 96, 104))])
    return albedo, np.zeros(shape, np.float32)


def brick(x: np.ndarray, y: np.ndarray, size: float, rng: np.random.Generator) -> Texture:
    """Running bond: half-offset courses, a colour a brick, rough faces, sunk mortar."""
    tall = max(7.0, size / 11)
    wide = tall * 2.6
    rough = clouds(x.shape, max(3.0, tall / 3), rng, 4)
    y = y + 0.03 * tall * rough
    course = np.floor(y / tall).astype(np.int64)
    shifted = x / wide + 0.5 * (course % 2) + 0.012 * rough
    column = np.floor(shifted).astype(np.int64)
    from_y = np.abs(y / tall - course - 0.5) * tall
    from_x = np.abs(shifted - column - 0.5) * wide
    gap = max(1.0, 0.075 * tall)
    edge = np.minimum(tall / 2 - from_y, wide / 2 - from_x)
    face = smoothstep(gap * 0.6, gap * 1.6, edge)
    shade = _per_cell(course, column, rng)
    hue = _per_cell(course, column, rng)
    colour = ramp(np.clip(shade, 0, 1), [(0, (112, 46, 34)), (0.5, (168, 74, 52)), (1, (204, 112, 78))])
    colour += (hue[..., None] - 0.5) * np.array([10, 18, 20], np.float32)
    colour *= (1 + 0.07 * rough)[..., None]
    mortar = np.array([188, 180, 168], np.float32) * (1 + 0.04 * rough)[..., None]
    relief = (1.4 * face + 0.16 * rough).astype(np.float32)
    return (mortar + (colour - mortar) * face[..., None]).astype(np.float32), relief


def denim(x: np.ndarray, y: np.ndarray, size: float, rng: np.random.Generator) -> Texture:
    """Indigo twill: diagonal ribs of blue warp over white weft, uneven dye and slubs."""
    step = max(3.0, size / 110)
    shape = x.shape
    slub = clouds(shape, step * 3, rng, 3)
    rib = np.sin(2 * np.pi * (x + y + 0.35 * step * slub) / (step * 1.4142 * 1.3))
    thread = np.sin(2 * np.pi * (y - 0.2 * x) / (step * 1.25) + 1.2 * slub)
    worn = clouds(shape, size / 3, rng, 4)
    streaks = _streaks(x, step * 1.5, rng)
    tone = np.clip(0.42 + 0.20 * rib + 0.09 * thread + 0.07 * worn + 0.07 * streaks + 0.05 * slub, 0, 1)
    albedo = ramp(tone, [(0, (16, 28, 62)), (0.35, (38, 62, 116)), (0.65, (78, 108, 164)), (1, (176, 194, 222))])
    return albedo * 1.08, (0.5 * rib + 0.3 * thread).astype(np.float32)


def knit(x: np.ndarray, y: np.ndarray, size: float, colour: np.ndarray, rng: np.random.Generator) -> Texture:
    """Stocking stitch: columns of V-shaped loops of yarn with its twist and fuzz, in a wool dye near `colour`."""
    wide = float(np.clip(size / 22, 7, 40))
    tall = wide * 0.82
    shape = x.shape
    jitter = clouds(shape, wide * 2, rng, 3)
    u = x / wide + 0.035 * jitter
    column = np.floor(u)
    across = u - column - 0.5
    lean = np.abs(across) * 2
    v = y / tall - 0.95 * lean + 0.05 * jitter
    row = np.floor(v)
    along = v - row
    arm = np.clip(1 - ((lean - 0.52) / 0.54) ** 2, 0, 1)
    yarn = np.sqrt(np.clip(1 - ((along - 0.5) / 0.52) ** 2, 0, 1)) * np.sqrt(arm)
    twist = np.sin(2 * np.pi * (1.6 * along + 2.4 * lean * np.sign(across)))
    fuzz = clouds(shape, 2.5, rng, 2)
    grey = float(luminance(colour[None])[0])
    dye = np.clip(grey + (colour - grey) * 1.35, 20, 235) * 0.55 + np.array([150, 128, 112]) * 0.45
    light = 0.38 + 0.72 * yarn + 0.07 * twist * yarn + 0.05 * fuzz
    flecks = 1 + 0.05 * _per_cell(row.astype(np.int64), column.astype(np.int64), rng)[..., None]
    return (dye.astype(np.float32) * 1.25 * light[..., None] * flecks).astype(np.float32), (1.1 * yarn).astype(
        np.float32
    )


def mosaic(colours: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Glass tesserae: cells of a jittered grid in the picture's own, fuller colours, with grout and glints.

    Returns float32 (h, w, 3), 0..255.
    """
    height, width = colours.shape[:2]
    step = max(6.0, size / 20)
    rows, columns = int(height / step) + 3, int(width / step) + 3
    j, i = np.meshgrid(np.arange(columns), np.arange(rows))
    centre_x = (j - 0.5 + rng.uniform(-0.3, 0.3, i.shape)) * step
    centre_y = (i - 0.5 + rng.uniform(-0.3, 0.3, i.shape)) * step
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    near_i, near_j = np.rint(y / step + 0.5).astype(int), np.rint(x / step + 0.5).astype(int)
    first = np.full((height, width), np.inf, np.float32)
    second = first.copy()
    cell = np.zeros((height, width), np.int64)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            a, b = np.clip(near_i + di, 0, rows - 1), np.clip(near_j + dj, 0, columns - 1)
            far = np.hypot(x - centre_x[a, b], y - centre_y[a, b]).astype(np.float32)
            closer = far < first
            second = np.where(closer, first, np.minimum(second, far))
            cell = np.where(closer, a * columns + b, cell)
            first = np.minimum(first, far)
    count = np.maximum(np.bincount(cell.ravel(), minlength=rows * columns), 1)
    means = [np.bincount(cell.ravel(), colours[..., c].ravel(), rows * columns) / count for c in range(3)]
    tile = np.stack(means, axis=-1).astype(np.float32)
    grey = luminance(tile)[:, None]
    tile = (
        (grey + (tile - grey) * 1.6 - 128) * 1.12
        + 136
        + rng.normal(0, 9, (len(tile), 1))
        + rng.normal(0, 5, tile.shape)
    )
    tilt = rng.uniform(-1, 1, (2, len(tile)))
    slope = (x - centre_x.ravel()[cell]) * tilt[0][cell] + (y - centre_y.ravel()[cell]) * tilt[1][cell]
    edge = (second - first) / 2
    grout = smoothstep(0.045 * step, 0.11 * step, edge)[..., None]
    bevel = smoothstep(0.09 * step, 0.24 * step, edge)
    glass = tile[cell] * (0.86 + 0.14 * bevel + 0.20 * slope / step)[..., None]
    glint = np.clip(
        1 - np.hypot(x - centre_x.ravel()[cell] + 0.18 * step, y - centre_y.ravel()[cell] + 0.2 * step) / (0.2 * step),
        0,
        1,
    )
    glass = glass + (255 - glass) * (0.5 * glint * bevel)[..., None]
    return np.array([58, 56, 54], np.float32) * (1 - grout) + np.clip(glass, 0, 255) * grout


def _per_cell(rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uniform value 0..1 for each cell of a grid, the same for all its pixels."""
    rows, columns = rows - rows.min(), columns - columns.min()
    table = rng.random((int(rows.max()) + 1, int(columns.max()) + 1)).astype(np.float32)
    return table[rows, columns]


def _streaks(x: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """Vertical streaks, mean 0 and standard deviation about 1, each about `step` pixels wide."""
    low, high = float(x.min()), float(x.max())
    knots = rng.standard_normal(int((high - low) / step) + 3)
    return np.interp((x - low) / step, np.arange(len(knots)), knots).astype(np.float32)


def star_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Light of stars, float32 (h, w), 0..1: many faint, a few bright with a soft glow."""
    height, width = shape
    result = np.zeros(shape, np.float32)
    unit = np.sqrt(height * width) / 1000
    count = 900
    y, x = rng.integers(0, height, count), rng.integers(0, width, count)
    result[y, x] = rng.pareto(2.2, count).clip(0.08, 3) * 0.5
    result = cv2.GaussianBlur(result, (0, 0), max(0.6, 0.7 * unit)) * 3.2
    big = np.zeros(shape, np.float32)
    y, x = rng.integers(0, height, 40), rng.integers(0, width, 40)
    big[y, x] = rng.uniform(0.4, 1.0, 40)
    glow = (
        cv2.GaussianBlur(big, (0, 0), max(0.9, 1.3 * unit)) * 9 + cv2.GaussianBlur(big, (0, 0), max(2, 5 * unit)) * 22
    )
    return np.clip(result + glow, 0, 1)
