"""What a reader is: photographs in, lines of text out, each with its place (OCR).

The stage `curation.text` knows readers only by this interface; the configuration names the implementation
(`reader: {engine: rapidocr}`, see `ugaf.stage.engines`). An implementation is a class with a nested `Settings` model,
built as `cls(settings)`, so that its options are checked before a run starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ugaf.imaging.text import Line as Line
from ugaf.stage import Failure


class Reader(Protocol):
    """Reads a batch of pictures.

    Attributes:
        name: engine and model as they are written into the rows.
        version: raised when a change of code changes the result; part of the stage's fingerprint.
    """

    name: str
    version: int

    def read(self, pictures: Sequence[np.ndarray]) -> list[list[Line] | Failure]:
        """For each picture, RGB uint8 (height, width, 3), in order: its lines in reading order (from top to bottom,
        then from left to right), or why there are none to be had. A picture that cannot be read fails alone."""
        ...
