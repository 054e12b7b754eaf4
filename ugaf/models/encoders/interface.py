"""What an encoder is: photographs in, unit vectors out, so that the cosine of two is their dot product.

The stage `curation.embed` and the predictors with a head know encoders only by this interface; the configuration names
the implementation (`encoder: {engine: transformers, model: ...}`, see `ugaf.stage.engines`). An implementation is a
class with a nested `Settings` model, built as `cls(settings)`.

An encoder gets functions that load photographs, not pixels: it holds the decoded pixels of one photograph at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ugaf.stage import Failure

Photo = Callable[[], np.ndarray]
"""Gives a photograph, RGB uint8 (height, width, 3). Raises ImageError if it cannot be decoded."""


class Encoder(Protocol):
    """Embeds photographs.

    Attributes:
        name: engine and model as they are written into the rows, without folders of this machine.
        version: raised when a change of code changes the result; part of the stage's fingerprint.
        dim: how many numbers an embedding has.
    """

    name: str
    version: int
    dim: int

    def encode(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """For each photograph, in order: its embedding, float32 (dim,) of length 1, or why there is none to be had."""
        ...
