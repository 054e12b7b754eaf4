"""What a detector is: images in, scored boxes out, best first.

The stage `annotation.detect` knows detectors only by this interface; the configuration names the implementation
(`detector: {engine: proposals}`, see `ugaf.models.registry`). An implementation is a class with a nested `Settings`
model, built as `cls(settings)`, so that its options are checked before a run starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ugaf.boxes import Box


@dataclass(frozen=True, eq=False)
class Detection:
    """One object found in an image.

    Attributes:
        box: absolute pixels (x1, y1, x2, y2), half-open, inside the image, not empty.
        label: the class name, or None from a class-agnostic detector.
        score: 0..1, higher is surer. Its calibration is the detector's own: a threshold belongs to one detector.
        mask: bool (y2 - y1, x2 - x1), True on the object's pixels; None where the detector has no mask.
    """

    box: Box
    label: str | None
    score: float
    mask: np.ndarray | None


class Detector(Protocol):
    """Finds objects in a batch of images.

    Attributes:
        name: the engine's name as it is written into the rows.
        version: raised when a change of code changes the result; part of the stage's fingerprint.
    """

    name: str
    version: int

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """For each RGB uint8 image (height, width, 3), in order: its detections, sorted by score, best first."""
        ...
