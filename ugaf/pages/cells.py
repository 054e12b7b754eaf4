"""Values of columns as a page shows them: JSON values, cut where they are long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ugaf.base.printing import harmless

IMAGES = ("image", "source_image", "edited_image")
"""Columns of pictures."""
MAX_TEXT = 2000
MAX_ITEMS = 50


def plain(value: Any) -> Any:
    """A value as JSON takes it: short, floats to 6 significant digits, NaN and infinities as text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        more = [f"… {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else []
        return [plain(inner) for inner in value[:MAX_ITEMS]] + more
    return clip(str(value))


def clip(text: str) -> str:
    """The text without control characters, cut at MAX_TEXT characters with a mark."""
    text = harmless(text[: MAX_TEXT + 1])
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
