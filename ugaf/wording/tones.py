"""Which tones and restorations make sense for a photograph: what it already is cannot be asked of it."""

from __future__ import annotations

import cv2
import numpy as np

from ugaf.wording import colours

GREY_CHROMA = 6.0
"""A photograph whose 95th percentile of CIELAB chroma is below is black and white already."""
SIDE = 512
"""Longer side, pixels, at which sharpness is measured."""
SHARP = 60.0
"""Variance of the Laplacian of luma at 512 px below which a photograph is too soft to be a deblurring target."""


def already(photo: np.ndarray) -> dict[str, str]:
    """Tones that would change nothing, or nothing for the better, each with the measurement that says so.

    photo: RGB uint8 (h, w, 3), of any size; 256 px are enough.
    """
    values = colours.lab(photo).reshape(-1, 3)
    lightness, a, b = values.T
    mean, contrast = float(lightness.mean()), float(lightness.std())
    chroma, warmth = float(np.percentile(np.hypot(a, b), 95)), float(b.mean())
    found: dict[str, str] = {}
    if chroma < GREY_CHROMA:
        found["black and white"] = f"chroma {chroma:.1f} < {GREY_CHROMA:g}: the photograph is grey already"
    if mean > 78:
        found["brighter"] = f"mean lightness {mean:.0f} > 78"
    if mean < 25:
        found["darker"] = found["night"] = f"mean lightness {mean:.0f} < 25"
    if contrast > 33:
        found["high contrast"] = f"standard deviation of lightness {contrast:.0f} > 33"
    if warmth > 26:
        found["warmer"] = found["golden hour"] = found["sepia"] = f"mean CIELAB b {warmth:.0f} > 26"
    if warmth < -18:
        found["cooler"] = f"mean CIELAB b {warmth:.0f} < -18"
    return found


def unrestorable(photo: np.ndarray) -> dict[str, str]:
    """Degradations that a photograph cannot be the clean target of, with the reason. photo: about 512 px."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    if sharpness < SHARP:
        reason = f"variance of the Laplacian {sharpness:.0f} < {SHARP:g}: the photograph is soft itself"
        return {"blur": reason, "low resolution": reason}
    return {}
