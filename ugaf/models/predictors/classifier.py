"""The engine `classifier`: a classifier of the transformers library, and the probability of one of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ugaf.base.errors import ConfigError, nearest
from ugaf.base.needs import Needs
from ugaf.models.encoders import Photo, shared, vision
from ugaf.models.predictors import Backbone
from ugaf.stage import Failure


class ClassifierPredictor(Backbone):
    """Implements `ugaf.models.predictors.interface.Predictor` with any AutoModelForImageClassification checkpoint.

    The score is the sum of the probabilities of the named labels, 0..1: by softmax, or by sigmoid (and then of one
    label) where the checkpoint says that its labels do not exclude each other or has only one. Predictors that differ
    in their labels alone share a forward pass.
    """

    name = "classifier"
    version = 1

    class Settings(vision.CheckpointSettings):
        """Options of the engine `classifier`."""

        labels: list[str] = Field(
            min_length=1, description="The label whose probability is the score, or several, which are added up."
        )

        @field_validator("labels", mode="before")
        @classmethod
        def _several(cls, value: Any) -> Any:
            return [value] if isinstance(value, str) else value

        @field_validator("labels")
        @classmethod
        def _once(cls, value: list[str]) -> list[str]:
            if len(set(value)) < len(value):
                raise ValueError("a label is named twice")
            return value

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return vision.needs_of(settings, vision.PACKAGES, settings.model, "classifier")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = f"classifier:{settings.label}"
        model = settings.model_dump(exclude={"labels"})
        self.backbone: Classifier = shared("classifier", model, lambda: Classifier(settings))
        self._labels = [self._number(label) for label in settings.labels]
        if len(self._labels) > 1 and not self.backbone.exclusive:
            raise ConfigError(f"labels: those of {settings.model} do not exclude each other: name one of them")

    def _number(self, label: str) -> int:
        known = {name.casefold(): number for number, name in self.backbone.labels.items()}
        if label.casefold() not in known:
            raise ConfigError(
                f"labels: {label!r} is no label of {self.settings.model}{nearest(label, self.backbone.labels.values())}"
            )
        return known[label.casefold()]

    def features(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """The classifier's probabilities."""
        return self.backbone.probabilities(photos)

    def score(self, features: np.ndarray) -> float:
        return min(1.0, float(features[self._labels].sum()))


class Classifier(vision.Checkpoint):
    """A checkpoint that gives the probabilities of its labels.

    labels: number -> name. exclusive: whether a photograph has one of them (softmax) or any number (sigmoid).
    """

    def __init__(self, settings: ClassifierPredictor.Settings) -> None:
        super().__init__(settings, "AutoModelForImageClassification", "classifier")
        config = self._model.config
        if config.problem_type == "regression":
            raise ConfigError(f"classifier.model: {settings.model} gives a number, not probabilities of labels")
        self.labels: dict[int, str] = {int(number): name for number, name in config.id2label.items()}
        self.exclusive = config.problem_type != "multi_label_classification" and len(self.labels) > 1
        self._model.to(settings.device)

    def probabilities(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """For each photograph: float64 (labels,), 0..1."""
        return self._look(photos)

    def _run(self, tensors: Mapping[str, Any]) -> np.ndarray:
        with vision.forward(self._torch, self.settings):
            logits = self._model(**self._moved(tensors)).logits.double().cpu()
        if not self._torch.isfinite(logits).all():
            raise ValueError("the classifier gave values that are not finite numbers; dtype: float32 may help")
        return (logits.softmax(1) if self.exclusive else logits.sigmoid()).numpy()
