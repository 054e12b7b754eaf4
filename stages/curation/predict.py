"""What do models that people trained for it say of the photograph? Aesthetics, technical quality, NSFW, generated.

FireRed-Image-Edit filters by quality and aesthetics (section 2.2.4) and by what is generated (2.2.5). ugaf ships no
weights: each score is null until a predictor is named for it, and its scale is that predictor's own, so that there are
no default limits. Published ones: aesthetic > 4.75 (ImgEdit, on LAION's scale), nsfw < 0.5 (NeMo Curator).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from ugaf import stage
from ugaf.base.errors import nearest
from ugaf.base.needs import Needs, together
from ugaf.models.encoders import photo_of
from ugaf.models.predictors import predict_all
from ugaf.stage import Failure, Outcome, Row, engines

SCORES = ("aesthetic", "iqa", "nsfw", "generated")


class Predict(stage.Stage):
    """Writes one score for each predictor that is named, null for the others."""

    reads = ("image",)
    writes: ClassVar = {
        "aesthetic": stage.Column(pa.float32(), "by the predictor of this name, on its scale; null without one"),
        "iqa": stage.Column(pa.float32(), "the same: technical quality"),
        "nsfw": stage.Column(pa.float32(), "the same: not safe for work"),
        "generated": stage.Column(pa.float32(), "the same: made by a model"),
    }

    class Settings(stage.Settings):
        predictors: engines.PredictorSpecs = Field(
            {}, description=f"Score ({', '.join(SCORES)}) -> its predictor and options; at least one."
        )
        side: int | None = Field(
            None,
            ge=64,
            le=8192,
            description="Longer side in pixels to which photographs are decoded first, which is faster; null: all of "
            "them, as the models' own preparation has it.",
        )

        @field_validator("predictors", mode="before")
        @classmethod
        def _named(cls, value: Any) -> Any:
            if not isinstance(value, dict) or not value:
                raise ValueError(
                    "name at least one predictor, such as aesthetic: {engine: head, path: ..., encoder: {engine: "
                    "transformers, model: ...}}: ugaf ships no weights"
                )
            for name in value:
                if name not in SCORES:
                    raise ValueError(f"{name!r} is no score of this stage{nearest(str(name), SCORES)}")
            return value

    settings: Settings

    @classmethod
    def needs(cls, settings: Settings, lane: str | None = None) -> Needs:  # noqa: ARG003
        """Those of the engines; models that several of them use are there once, and they run one after the other."""
        every = {name: engines.needs("predictor", spec) for name, spec in settings.predictors.items()}
        once = {(need.models or (name,)): need for name, need in every.items()}
        both = together([*every.values()])
        return replace(
            both,
            own_pool=True,
            cpus=max(need.cpus for need in every.values()),
            gpus=min(1.0, sum(need.gpus for need in once.values())),
            without_gpu=_without_gpu(settings.predictors) if both.without_gpu else "",
        )

    def setup(self) -> None:
        self.predictors = {
            name: engines.build("predictor", spec, self.servers) for name, spec in self.settings.predictors.items()
        }

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        found = predict_all(self.predictors, [photo_of(row, self.settings.side) for row in rows])
        empty = dict.fromkeys(SCORES)
        return [one if isinstance(one, Failure) else {**empty, **one} for one in found]


def _without_gpu(predictors: dict[str, dict[str, Any]]) -> str:
    """The settings that put the models on the CPU."""
    places = {
        name: "encoder.device" if "encoder" in spec else "device"
        for name, spec in predictors.items()
        if engines.needs("predictor", spec).without_gpu
    }
    return ", ".join(f"predictors.{name}.{place}=cpu" for name, place in places.items())
