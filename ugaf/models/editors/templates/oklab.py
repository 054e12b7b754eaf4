"""OKLab, a perceptual colour space whose hue stays put when lightness or chroma change (Björn Ottosson, 2020).

https://bottosson.github.io/posts/oklab/. L is 0..1, a and b about -0.4..0.4. Arrays are float32 (..., 3).
"""

from __future__ import annotations

import numpy as np

TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
FROM_LAB = np.linalg.inv(TO_LAB.astype(np.float64)).astype(np.float32)
FROM_LMS = np.linalg.inv(TO_LMS.astype(np.float64)).astype(np.float32)

_LEVELS = np.arange(256) / 255
LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
_FINE = np.linspace(0, 1, 4097)
_ENCODED = (255 * np.where(_FINE <= 0.0031308, 12.92 * _FINE, 1.055 * _FINE ** (1 / 2.4) - 0.055)).astype(np.float32)


def linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB uint8 -> linear light 0..1."""
    return LINEAR[rgb]


def encode(light: np.ndarray) -> np.ndarray:
    """Linear light (clipped to 0..1) -> sRGB, float32 0..255. Raises ValueError for what is not a number."""
    clipped = np.clip(light, 0, 1)
    if np.isnan(clipped).any():
        raise ValueError("a colour is not a number (NaN)")
    coarse = _ENCODED[np.rint(clipped * 4096).astype(np.int32)]
    dark = clipped < 0.02  # where the table's steps would show
    if dark.any():
        low = clipped[dark]
        coarse[dark] = 255 * np.where(low <= 0.0031308, 12.92 * low, 1.055 * low ** (1 / 2.4) - 0.055)
    return coarse


def from_rgb(rgb: np.ndarray) -> np.ndarray:
    """sRGB uint8 -> OKLab."""
    return np.cbrt(linear(rgb) @ TO_LMS.T) @ TO_LAB.T


def to_linear(lab: np.ndarray) -> np.ndarray:
    """OKLab -> linear light, not clipped."""
    return (lab @ FROM_LAB.T) ** 3 @ FROM_LMS.T


def to_rgb(lab: np.ndarray) -> np.ndarray:
    """OKLab -> sRGB float32 0..255; a colour outside the gamut keeps lightness and hue, and loses chroma."""
    lab = lab.copy()
    lab[..., 0] = np.clip(lab[..., 0], 0, 1)
    light = to_linear(lab)
    outside = ((light < -1e-3) | (light > 1.001)).any(axis=-1)
    if outside.any():
        colours = lab[outside]
        low, high = np.zeros(len(colours), np.float32), np.ones(len(colours), np.float32)
        for _ in range(7):
            middle = (low + high) / 2
            trial = to_linear(np.column_stack([colours[:, 0], colours[:, 1:] * middle[:, None]]))
            fits = ((trial >= -1e-3) & (trial <= 1.001)).all(axis=-1)
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        light[outside] = to_linear(np.column_stack([colours[:, 0], colours[:, 1:] * low[:, None]]))
    return encode(light)
