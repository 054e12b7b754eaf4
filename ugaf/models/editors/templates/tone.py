"""Tone of the whole photograph: light, contrast and colour cast, by curves and channel gains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from ugaf.base.errors import nearest
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates import oklab
from ugaf.models.editors.templates.scene import Scene, clouds, luminance, smoothstep


def tone(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: tone (one of TONES)."""
    name = params.get("tone")
    if name not in TONES:
        raise EditError("BadParams", f"unknown tone {name!r}{nearest(str(name), TONES)}")
    pixels = np.clip(np.rint(TONES[name](scene.picture, scene.rng)), 0, 255).astype(np.uint8)
    return Layer(scene.whole, pixels, np.ones(pixels.shape[:2], np.float32))


def _gains(rgb: np.ndarray, gains: tuple[float, float, float]) -> np.ndarray:
    """A colour cast in linear light that keeps the luminance of grey."""
    gain = np.array(gains, np.float32)
    gain /= gain @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    return oklab.encode(oklab.linear(rgb) * gain)


def _curve(rgb: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    """The same smooth curve through `points` (0..255) for each channel."""
    from scipy.interpolate import PchipInterpolator

    at, value = zip(*points, strict=True)
    return PchipInterpolator(at, value)(np.arange(256)).astype(np.float32)[rgb]


def _saturate(rgb: np.ndarray, factor: float) -> np.ndarray:
    grey = luminance(rgb)[..., None]
    return grey + (rgb.astype(np.float32) - grey) * factor


def _round(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _warmer(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return _gains(rgb, (1.28, 1.0, 0.62))


def _cooler(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return _gains(rgb, (0.70, 0.98, 1.45))


def _brighter(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return _curve(rgb, [(0, 4), (64, 104), (128, 178), (200, 233), (255, 255)])


def _darker(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return _curve(rgb, [(0, 0), (64, 30), (128, 72), (200, 136), (255, 200)])


def _black_and_white(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    grey = _round(luminance(rgb))
    curved = _curve(grey, [(0, 0), (64, 56), (128, 130), (192, 202), (255, 255)])
    return np.repeat(curved[..., None], 3, axis=2)


def _sepia(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    grey = luminance(rgb) / 255
    return np.dstack([255 * grey**0.80, 255 * grey**1.06 * 0.92, 255 * grey**1.45 * 0.74])


def _faded_film(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = _curve(rgb, [(0, 42), (64, 88), (128, 138), (192, 186), (255, 226)])
    muted = _saturate(flat, 0.62) + np.array([6, 2, -8], np.float32)
    shade = smoothstep(0, 255, luminance(muted))[..., None]
    split = (1 - shade) * np.array([-6, 3, 9], np.float32) + shade * np.array([8, 4, -8], np.float32)
    grain = clouds(rgb.shape[:2], 2.0, rng, octaves=2)[..., None] * 3.5
    return muted + split + grain


def _high_contrast(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return _saturate(_curve(rgb, [(0, 0), (50, 14), (110, 92), (150, 172), (205, 243), (255, 255)]), 1.12)


def _golden_hour(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Low sun from one side: warm light with a glow, cooler and darker shadows away from it."""
    height, width = rgb.shape[:2]
    side = 1 if rng.random() < 0.5 else -1
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] * side
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    sun = np.exp(-(((x - 0.9) / 1.1) ** 2 + ((y + 0.7) / 1.2) ** 2))[..., None]
    light = oklab.linear(rgb)
    grey = light @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    warm = light * np.array([1.32, 0.98, 0.56], np.float32) * (0.82 + 0.5 * sun)
    cool = light * np.array([1.0, 0.84, 0.80], np.float32) * 0.9
    weight = smoothstep(0.02, 0.30, grey)[..., None]
    mixed = cool + (warm - cool) * weight
    small = cv2.resize(np.maximum(mixed - 0.35, 0), None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    glow = cv2.resize(cv2.GaussianBlur(small, (0, 0), max(1.0, width / 200)), (width, height))
    haze = sun * np.array([0.16, 0.085, 0.02], np.float32)
    return oklab.encode(1 - (1 - np.clip(mixed, 0, 1)) * (1 - np.clip(0.35 * glow + haze, 0, 1)))


def _night(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Day for night: under-exposed, blue, with little colour; what shines still does."""
    light = oklab.linear(rgb)
    grey = (light @ np.array([0.15, 0.65, 0.20], np.float32))[..., None]
    moon = (0.30 * light + 0.70 * grey) * np.array([0.115, 0.165, 0.34], np.float32)
    height, width = rgb.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    corner = (1 - 0.35 * smoothstep(0.5, 1.9, x**2 + y**2))[..., None]
    return oklab.encode(moon * 1.5 * corner / (1 + 0.3 * grey))


TONES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "warmer": _warmer,
    "cooler": _cooler,
    "brighter": _brighter,
    "darker": _darker,
    "black and white": _black_and_white,
    "sepia": _sepia,
    "faded film": _faded_film,
    "high contrast": _high_contrast,
    "golden hour": _golden_hour,
    "night": _night,
}
