"""Predictors that read their score from what a larger model says: each photograph is looked at once for all of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ugaf.base.failure import attempt
from ugaf.models.encoders import Photo
from ugaf.models.predictors.interface import Predictor
from ugaf.stage import Failure


class Backbone(ABC):
    """Base of the predictors that read a score from what a larger model says of the photograph.

    Where several predictors have one backbone (the same object, see `ugaf.models.encoders.shared`), it looks at each
    photograph once: see `predict_all`.

    Attributes:
        backbone: the model itself.
    """

    name: str
    version: int
    backbone: Any

    @abstractmethod
    def features(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """For each photograph, in order: what the backbone says of it, or why it says nothing."""

    @abstractmethod
    def score(self, features: np.ndarray) -> float:
        """The score of one photograph by its features. Raises ValueError if there is none."""

    def predict(self, photos: Sequence[Photo]) -> list[float | Failure]:
        """For each photograph, in order: its score."""
        return self.scores(self.features(photos))

    def scores(self, features: Sequence[np.ndarray | Failure]) -> list[float | Failure]:
        """The scores of photographs by their features."""
        return [one if isinstance(one, Failure) else attempt(self._finite, one) for one in features]

    def _finite(self, features: np.ndarray) -> float:
        score = self.score(features)
        if not math.isfinite(score):
            raise ValueError(f"{self.name} gave the score {score}, which is no number to be compared")
        return score


def predict_all(predictors: Mapping[str, Predictor], photos: Sequence[Photo]) -> list[dict[str, float] | Failure]:
    """All scores of each photograph by name, in order; a Failure where one of them cannot be had.

    Predictors with one backbone share its look at the photographs.
    """
    seen: dict[int, list[np.ndarray | Failure]] = {}
    columns: dict[str, list[float | Failure]] = {}
    for name, predictor in predictors.items():
        if isinstance(predictor, Backbone):
            key = id(predictor.backbone)
            if key not in seen:
                seen[key] = predictor.features(photos)
            found = predictor.scores(seen[key])
        else:
            found = predictor.predict(photos)
        if len(found) != len(photos):
            raise TypeError(f"predictor {predictor.name!r} gave {len(found)} scores for {len(photos)} photographs")
        columns[name] = list(found)
    return [_row({name: column[i] for name, column in columns.items()}) for i in range(len(photos))]


def _row(scores: Mapping[str, float | Failure]) -> dict[str, float] | Failure:
    """A photograph that could not be decoded says so as it is; what one predictor alone could not do names it."""
    failures = {name: one for name, one in scores.items() if isinstance(one, Failure)}
    good = {name: float(one) for name, one in scores.items() if not isinstance(one, Failure)}
    if not failures:
        return good
    if not good and len(set(failures.values())) == 1:
        return next(iter(failures.values()))
    kinds = {one.type for one in failures.values()}
    text = "; ".join(f"{name}: {one.message}" for name, one in failures.items())
    return Failure(kinds.pop() if len(kinds) == 1 else "PredictorError", text)
