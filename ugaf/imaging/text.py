"""A line of text in a picture, as a reader gives it and measures take it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Line:
    """One line of text.

    Attributes:
        corners: float (4, 2), x and y in pixels of the picture that was read, in order around the line; the line may be
            tilted.
        text: what stands there.
        score: 0..1, higher is surer; None from a reader that gives none.
    """

    corners: np.ndarray
    text: str
    score: float | None
