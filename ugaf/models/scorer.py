"""Interface of the models that judge a finished pair: pair -> named scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ugaf.boxes import Box
from ugaf.stage import Failure


@dataclass(frozen=True)
class Pair:
    """A pair to be scored.

    Attributes:
        source: RGB uint8 (height, width, 3).
        edited: RGB uint8, registered to the source: the same shape, the same grid.
        mask: bool (height, width), where the pair changed (`ugaf.change`).
        instruction, task: what was asked for; "" and None if unknown.
        boxes: target boxes in pixels of `source`; empty for a global edit or where unknown.
    """

    source: np.ndarray
    edited: np.ndarray
    mask: np.ndarray
    instruction: str
    task: str | None
    boxes: tuple[Box, ...]


class Scorer(Protocol):
    """Scores pairs.

    `name` and `version` enter the rows and the fingerprint. `score` answers in order, a mapping of finite floats (or a
    Failure) for each pair; it never makes a score up: what cannot be scored is a Failure. `quality` (0..10,
    higher is better) is always among the names.
    """

    name: str
    version: int

    def score(self, pairs: Sequence[Pair]) -> list[Mapping[str, float] | Failure]: ...
