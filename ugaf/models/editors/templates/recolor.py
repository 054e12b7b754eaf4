"""Recolour an object: its own shading and texture in another colour.

In OKLab, hues turn by the angle from the object's main colour to the new one, chroma is scaled, and lightness is
multiplied by the ratio of the two (a change of albedo under the same light). What has another colour, or none (a red
car's tyres), stays what it is. An object without a colour of its own (black, grey, white) takes the new chroma, less at
highlights and in deep shade.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates import oklab
from ugaf.models.editors.templates.scene import Cutout, Scene, smoothstep

NEUTRAL = 0.035
"""OKLab chroma under which a colour counts as black, grey or white."""


def recolor(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: object, rgb (the new colour, [r, g, b] 0..255)."""
    rgb = params.get("rgb")
    if not isinstance(rgb, (list, tuple)) or len(rgb) != 3:
        raise EditError("BadParams", f"recolor needs `rgb` as [r, g, b], got {rgb!r}")
    cut = scene.cutout(params)
    return cut.layer(tint(cut, np.clip(np.asarray(rgb), 0, 255).astype(np.uint8)))


def tint(cut: Cutout, rgb: np.ndarray) -> np.ndarray:
    """The cutout's window with the object in the new colour: float32 (h, w, 3), 0..255."""
    lab = oklab.from_rgb(cut.pixels)
    target = oklab.from_rgb(rgb[None])[0]
    inside = lab[cut.mask]
    main = main_colour(inside)
    main_chroma, new_chroma = float(np.hypot(*main[1:])), float(np.hypot(*target[1:]))
    result = lab.copy()
    if main_chroma > NEUTRAL:
        result[..., 1:], share = _turn(lab, main, target)
    else:
        keep = smoothstep(0.02, 0.35, lab[..., 0]) * (1 - 0.85 * smoothstep(0.9, 1.0, lab[..., 0]))
        result[..., 1:] = target[1:] * keep[..., None] + 0.15 * lab[..., 1:]
        # Much darker parts of a light object (tyres, windows) are other things.
        share = (
            smoothstep(0.42, 0.68, lab[..., 0] / max(float(main[0]), 0.3)) if main[0] > 0.5 else np.ones(lab.shape[:2])
        )
        share = share.astype(np.float32)
        result[..., 1:] = lab[..., 1:] + (result[..., 1:] - lab[..., 1:]) * share[..., None]
    if new_chroma < NEUTRAL:
        result[..., 1:] = target[1:] + 0.08 * (lab[..., 1:] * share[..., None]) + lab[..., 1:] * (1 - share)[..., None]
    lightness = _relight(lab[..., 0], float(main[0]), float(target[0]))
    result[..., 0] = lab[..., 0] + (lightness - lab[..., 0]) * share
    return oklab.to_rgb(result)


def main_colour(inside: np.ndarray) -> np.ndarray:
    """The colour that an object is named by, OKLab (3,), from its pixels (n, 3).

    The peak of the hue histogram, weighted by chroma, if a quarter of the pixels have a colour; else the median.
    """
    chroma = np.hypot(inside[:, 1], inside[:, 2])
    coloured = chroma > NEUTRAL
    if coloured.mean() < 0.25:
        # Windows and tyres are darker than what they belong to: the body is above the median.
        bright = np.percentile(inside[:, 0], 65)
        return np.array([bright, *np.median(inside[:, 1:], axis=0)])
    angle = np.arctan2(inside[coloured, 2], inside[coloured, 1])
    bins = 72
    histogram, _ = np.histogram(angle, bins, (-np.pi, np.pi), weights=chroma[coloured])
    kernel = np.array([1, 2, 3, 4, 3, 2, 1.0])
    smooth = np.convolve(np.concatenate([histogram[-3:], histogram, histogram[:3]]), kernel, "valid")
    peak = (smooth.argmax() + 0.5) / bins * 2 * np.pi - np.pi
    near = np.cos(angle - peak) > np.cos(np.radians(30))
    chosen = inside[coloured][near]
    strong = np.hypot(chosen[:, 1], chosen[:, 2])
    return np.median(chosen[strong >= np.median(strong) * 0.6], axis=0)


def _turn(lab: np.ndarray, main: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New (a, b) of every pixel, and how far (0..1) each pixel belongs to the main colour."""
    main_chroma, new_chroma = float(np.hypot(*main[1:])), float(np.hypot(*target[1:]))
    along = main[1:] / main_chroma
    # In the main hue's frame: u along it, v across.
    u = lab[..., 1] * along[0] + lab[..., 2] * along[1]
    v = lab[..., 2] * along[0] - lab[..., 1] * along[1]
    chroma = np.hypot(u, v)
    angle = np.abs(np.arctan2(v, u))
    share = smoothstep(0.12, 0.5, chroma / main_chroma) * (1 - smoothstep(np.radians(45), np.radians(80), angle))
    scale = new_chroma / main_chroma
    direction = target[1:] / max(new_chroma, 1e-6)
    new_u, new_v = u * scale, 0.5 * v * scale
    turned = np.stack(
        [new_u * direction[0] - new_v * direction[1], new_u * direction[1] + new_v * direction[0]], axis=-1
    )
    share = share.astype(np.float32)
    return lab[..., 1:] + (turned - lab[..., 1:]) * share[..., None], share


def _relight(lightness: np.ndarray, main: float, target: float) -> np.ndarray:
    """Lightness times the ratio of albedos, with a soft shoulder so that highlights keep their shape."""
    aim = main + 0.94 * (target - main)
    ratio = float(np.clip(aim / max(main, 0.08), 0.3, 3.0))
    scaled = lightness * ratio
    if ratio > 1:
        knee = min(0.85, aim + 0.3 * (1 - aim))
        over = np.maximum(scaled - knee, 0)
        room = 1 - knee
        return np.where(scaled > knee, knee + room * (1 - np.exp(-over / room)), scaled)
    # A darker object keeps its specular highlights.
    start = max(0.88, main + 0.5 * (1 - main))
    gloss = smoothstep(start, 1.0, lightness) * (1 - float(smoothstep(0.80, 0.92, np.asarray(main))))
    return scaled + 0.4 * gloss * (lightness - scaled)
