"""What a scorer is: a finished pair in, named scores out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ugaf.models.judging.pairs import Pair
from ugaf.stage import Failure

__all__ = ["Pair", "Scorer", "Scores"]

Scores = Mapping[str, float | int | str | None]
"""Columns of `refinement.score` by name; what is not named is null. `quality` (0..10, higher is better) always is."""


class Scorer(Protocol):
    """Scores pairs.

    `name` enters the rows, `version` of the class the fingerprint. `score` answers in order, finite scores (or a
    Failure) for each pair; it never makes a score up: what cannot be scored is a Failure. A pair is decoded when it is
    taken from the iterable: take the next one when it is needed, and keep none.
    """

    name: str
    version: int

    def score(self, pairs: Iterable[Pair]) -> Sequence[Scores | Failure]: ...
