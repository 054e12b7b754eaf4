"""Low-level restoration: the photograph is the target, and the source is made from it by a known degradation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from ugaf.base.errors import nearest
from ugaf.imaging import images
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates.scene import Scene


def degrade(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: degradation (one of DEGRADATIONS), strength (0..1)."""
    name, strength = params.get("degradation"), params.get("strength", 0.5)
    if name not in DEGRADATIONS:
        raise EditError("BadParams", f"unknown degradation {name!r}{nearest(str(name), DEGRADATIONS)}")
    if not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
        raise EditError("BadParams", f"strength {strength!r} is not a number from 0 to 1")
    pixels = DEGRADATIONS[name](scene.picture, float(strength), scene.rng)
    return Layer(scene.whole, pixels, np.ones(pixels.shape[:2], np.float32))


def _noise(rgb: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Read noise (standard deviation 8..36 levels) and shot noise that grows with the light, a little per channel."""
    height, width = rgb.shape[:2]
    value = rgb.astype(np.float32)
    sigma = (8 + 28 * strength) * np.sqrt(0.5 + value / 255)
    shared = rng.standard_normal((height, width, 1), np.float32)
    own = rng.standard_normal((height, width, 3), np.float32)
    return np.clip(np.rint(value + sigma * (0.6 * shared + 0.8 * own)), 0, 255).astype(np.uint8)


def _blur(rgb: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Out of focus (a disc) or camera shake (a line), by seed; the size grows with the picture's."""
    reach = max(rgb.shape[:2]) * (0.004 + 0.010 * strength)
    side = 2 * max(2, int(np.ceil(reach))) + 1
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    if rng.random() < 0.5:
        kernel = np.clip(max(1.5, reach) + 0.5 - np.hypot(x, y), 0, 1)
    else:
        angle = rng.uniform(0, np.pi)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        kernel = np.clip(1.0 - np.abs(across), 0, 1) * (np.abs(along) <= max(2.0, reach))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return cv2.filter2D(rgb, -1, kernel, borderType=cv2.BORDER_REFLECT)


def _jpeg(rgb: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    """JPEG at quality 22 down to 5."""
    return images.decode(images.encode(rgb, "jpeg", quality=round(22 - 17 * strength)))


def _low_resolution(rgb: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    """Box-filtered down by 3..9, then enlarged again bicubically."""
    height, width = rgb.shape[:2]
    factor = 3 + 6 * strength
    small = cv2.resize(
        rgb, (max(8, round(width / factor)), max(8, round(height / factor))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


DEGRADATIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
    "low resolution": _low_resolution,
}
