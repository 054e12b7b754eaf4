"""What a predictor is: a photograph in, one number out. Aesthetics, technical quality, NSFW, made by a model or not.

It is the sibling of `scorers.interface.Scorer`, which judges finished pairs. The stage `curation.predict` knows
predictors only by this interface; the configuration names the implementation (`aesthetic: {engine: head, ...}`, see
`ugaf.stage.engines`). None has weights of its own or a default score: what cannot be scored is a Failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ugaf.models.encoders.interface import Photo
from ugaf.stage import Failure


class Predictor(Protocol):
    """Scores photographs.

    `name` is for messages, `version` of the class enters the fingerprint. The scale is the model's own.
    """

    name: str
    version: int

    def predict(self, photos: Sequence[Photo]) -> list[float | Failure]:
        """For each photograph, in order: its score, a finite number, or why there is none to be had."""
        ...
