"""Turn an object into another material: a procedural texture, shaded by the object's own light.

Each material gives an albedo and a relief for the object's window; the relief is lit from the upper left, and the
object's own shading (its lightness, smoothed a little and stretched) is multiplied in. Patterns are bent over a height
field that bulges from the object's outline, so that they do not look like flat paper. Metals look up a ramp of
reflections by the surface's direction instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ugaf.base.errors import nearest
from ugaf.imaging import blending
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates import textures
from ugaf.models.editors.templates.scene import Cutout, Scene, clouds, luminance, ramp


@dataclass(frozen=True)
class Surface:
    """The object as a surface: shade (0..1, its own light), height (0..1, bulge), x and y (pattern coordinates,
    pixels), size (pixels), colours (float32 (h, w, 3), continued beyond the edge); arrays are (h, w) float32."""

    shade: np.ndarray
    height: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: float
    colours: np.ndarray
    mask: np.ndarray


def material(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: object, material (one of MATERIALS)."""
    name = params.get("material")
    if name not in MATERIALS:
        raise EditError("BadParams", f"unknown material {name!r}{nearest(str(name), MATERIALS)}")
    cut = scene.cutout(params)
    return cut.layer(MATERIALS[name](_surface(cut), scene.rng))


def _surface(cut: Cutout) -> Surface:
    size = cut.size
    colours = blending.spread(cut.pixels.astype(np.float32), cut.mask, max(1.0, 0.01 * size))
    grey = cv2.bilateralFilter(luminance(colours), 5, 18, 3)
    low, high = np.percentile(grey[cut.mask], [2, 98])
    shade = np.clip((grey - low) / max(high - low, 40), 0, 1).astype(np.float32)
    # A material has its own albedo: a dark object must not make it dark, so the usual shade is one and the same.
    shade **= np.log(0.58) / np.log(np.clip(np.median(shade[cut.mask]), 0.15, 0.85))
    distance = cv2.distanceTransform(cut.mask.astype(np.uint8), cv2.DIST_L2, 5)
    reach = max(4.0, 0.22 * size)
    height = np.sqrt(np.clip(1 - (1 - np.clip(distance / reach, 0, 1)) ** 2, 0, 1))
    height = cv2.GaussianBlur(height, (0, 0), max(1.5, 0.025 * size))
    form = 0.65 * height + 0.35 * cv2.GaussianBlur(shade, (0, 0), max(1.0, 0.02 * size))
    dx, dy = cv2.Sobel(form, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(form, cv2.CV_32F, 0, 1, scale=0.125)
    bend = 0.55 * size * min(1.0, 0.2 * size / 10)
    columns, rows = np.meshgrid(np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32))
    reach_x = cv2.GaussianBlur(dx, (0, 0), max(1.0, 0.03 * size)) * bend
    reach_y = cv2.GaussianBlur(dy, (0, 0), max(1.0, 0.03 * size)) * bend
    return Surface(shade, height, columns + reach_x, rows + reach_y, size, colours, cut.mask)


def lit(albedo: np.ndarray, relief: np.ndarray, surface: Surface, depth: float, contrast: float = 0.75) -> np.ndarray:
    """Albedo (h, w, 3) under the object's own light, with the relief (h, w) lit from the upper left."""
    slope = cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=0.25) + cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=0.25)
    bump = np.clip(1 - depth * slope, 0.45, 1.6)
    form = cv2.GaussianBlur(surface.height, (0, 0), 2.0)
    round_off = 0.80 + 0.20 * form
    shade = (1 - contrast) + contrast * 1.35 * surface.shade**0.9
    return albedo * (shade * bump * round_off)[..., None]


def _wood(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    albedo, relief = textures.wood(surface.x, surface.y, surface.size, rng)
    return lit(albedo, relief, surface, 0.5)


def _marble(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    albedo, relief = textures.marble(surface.x, surface.y, surface.size, rng)
    return _gloss(lit(albedo, relief, surface, 0.0, 0.55), surface, 0.35)


def _brick(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    albedo, relief = textures.brick(surface.x, surface.y, surface.size, rng)
    return lit(albedo, relief, surface, 0.9, 0.6)


def _denim(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    albedo, relief = textures.denim(surface.x, surface.y, surface.size, rng)
    return lit(albedo, relief, surface, 0.35, 0.7)


def _wool(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    main = np.median(surface.colours[surface.mask], axis=0)
    albedo, relief = textures.knit(surface.x, surface.y, surface.size, main, rng)
    return lit(albedo, relief, surface, 0.8, 0.6)


def _mosaic(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    return textures.mosaic(surface.colours, surface.size, rng)


def _gold(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    stops = [
        (0.0, (48, 24, 4)), (0.18, (120, 68, 10)), (0.38, (196, 128, 24)), (0.55, (240, 186, 62)),
        (0.72, (255, 224, 120)), (0.86, (214, 150, 40)), (1.0, (255, 250, 214)),
    ]  # fmt: skip
    return _metal(surface, stops, rng, 0.72, 0.06)


def _chrome(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    stops = [
        (0.0, (14, 15, 18)), (0.16, (70, 72, 78)), (0.32, (176, 178, 182)), (0.42, (226, 228, 230)),
        (0.50, (40, 42, 50)),
        (0.58, (96, 108, 128)), (0.72, (188, 204, 222)), (0.86, (244, 249, 255)), (1.0, (255, 255, 255)),
    ]  # fmt: skip
    return _metal(surface, stops, rng, 0.95, -0.02)


def _metal(
    surface: Surface,
    stops: list[tuple[float, tuple[int, int, int]]],
    rng: np.random.Generator,
    gain: float,
    offset: float,
) -> np.ndarray:
    """Reflections by the surface's direction (how far it faces up) and the object's own light."""
    form = cv2.GaussianBlur(0.6 * surface.height + 0.55 * surface.shade, (0, 0), max(1.2, 0.012 * surface.size))
    scale = 0.02 * surface.size
    up = np.tanh(-cv2.Sobel(form, cv2.CV_32F, 0, 1, scale=0.125) * scale * 9)
    side = np.tanh(-cv2.Sobel(form, cv2.CV_32F, 1, 0, scale=0.125) * scale * 9)
    waves = clouds(form.shape, max(8.0, surface.size / 4), rng, 2)
    where = offset + gain * surface.shade + 0.24 * up + 0.08 * side + 0.035 * waves
    detail = surface.shade - cv2.GaussianBlur(surface.shade, (0, 0), max(1.0, 0.01 * surface.size))
    return _gloss(ramp(np.clip(where + 0.25 * detail, 0, 1), stops), surface, 0.5)


def _gloss(rgb: np.ndarray, surface: Surface, strength: float) -> np.ndarray:
    """A polish: bright spots where the surface is brightest and faces the light."""
    form = cv2.GaussianBlur(surface.height + 0.5 * surface.shade, (0, 0), max(1.5, 0.02 * surface.size))
    facing = -cv2.Sobel(form, cv2.CV_32F, 1, 0, scale=0.125) - cv2.Sobel(form, cv2.CV_32F, 0, 1, scale=0.125)
    spot = np.clip(surface.shade - 0.78, 0, 1) / 0.22 * 0.7 + np.clip(-facing * 0.015 * surface.size, 0, 0.3)
    return rgb + (255 - rgb) * np.clip(strength * spot, 0, 1)[..., None]


MATERIALS: dict[str, Callable[[Surface, np.random.Generator], np.ndarray]] = {
    "wood": _wood,
    "marble": _marble,
    "gold": _gold,
    "chrome": _chrome,
    "knitted wool": _wool,
    "denim": _denim,
    "brick": _brick,
    "glass mosaic": _mosaic,
}
