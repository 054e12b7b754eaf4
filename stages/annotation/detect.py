"""Finds the objects of a photograph: boxes, scores, and masks where the detector has them.

The detector is named by a setting; the embedded one, `proposals`, is class-agnostic and needs no weights. Boxes that no
local edit could use are left out here: too small, too large (FineEdit, section 3.1, drops extreme box ratios; ImgEdit
keeps objects of 1 to 60 % of the image), too elongated, or scored below the threshold, which belongs to the detector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from ugaf import boxes, images, stage
from ugaf.models import registry
from ugaf.models.detector import Detection, Detector
from ugaf.stage import Failure, Outcome, Row

OBJECT = pa.struct(
    [
        ("box", pa.list_(pa.int32())),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("mask", pa.large_binary()),
    ]
)
"""One object: box x1 y1 x2 y2 in full-resolution pixels; mask: `images.encode_mask` of a mask of the box's size."""


class Detect(stage.Stage):
    """Writes `objects` (best first), `n_objects` and `detector`."""

    version = 1
    reads = ("image",)
    writes = pa.schema(
        [
            ("objects", pa.list_(OBJECT)),
            ("n_objects", pa.int32()),
            ("detector", pa.string()),
        ]
    )
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"n_objects": {"min": 1}}
    batch_rows = 8

    class Settings(stage.Settings):
        detector: dict[str, Any] = Field(
            {"engine": "proposals"},
            validate_default=True,
            description="Which detector finds the objects, and its options.",
        )
        min_score: float = Field(
            0.3, ge=0, le=1, description="Drop boxes scored lower; on the scale of the detector that is named."
        )
        min_area: float = Field(0.01, ge=0, le=1, description="Drop boxes smaller than this share of the image.")
        max_area: float = Field(0.6, gt=0, le=1, description="Drop boxes larger than this share of the image.")
        max_aspect: float = Field(
            10.0, ge=1, description="Drop boxes whose longer side is more than this many times the shorter."
        )

        @field_validator("detector")
        @classmethod
        def _known_detector(cls, value: dict[str, Any]) -> dict[str, Any]:
            return registry.check("detector", value)

        @model_validator(mode="after")
        def _areas_in_order(self) -> Detect.Settings:
            if self.min_area >= self.max_area:
                raise ValueError(f"min_area ({self.min_area}) must be below max_area ({self.max_area})")
            return self

    settings: Settings

    def setup(self) -> None:
        self.detector: Detector = registry.build("detector", self.settings.detector)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(rows)
        photos: dict[int, np.ndarray] = {}
        for i, row in enumerate(rows):
            try:
                photos[i] = row.photo()
            except Exception as error:
                outcomes[i] = Failure.of(error)
        for i, found in self._detect(photos).items():
            outcomes[i] = found if isinstance(found, Failure) else self._columns(found, photos[i])
        return [outcome for outcome in outcomes if outcome is not None]

    def _detect(self, photos: dict[int, np.ndarray]) -> dict[int, list[Detection] | Failure]:
        """The batch at once; where that raises, image by image, so that only the one that cannot be done fails."""
        try:
            return dict(zip(photos, self.detector.detect(list(photos.values())), strict=True))
        except Exception as error:
            if len(photos) == 1:
                return dict.fromkeys(photos, Failure.of(error))
        found: dict[int, list[Detection] | Failure] = {}
        for i, photo in photos.items():
            found.update(self._detect({i: photo}))
        return found

    def _columns(self, found: Sequence[Detection], photo: np.ndarray) -> dict[str, Any]:
        objects = [_as_row(detection) for detection in found if self._usable(detection, photo.shape[1], photo.shape[0])]
        return {"objects": objects, "n_objects": len(objects), "detector": self.detector.name}

    def _usable(self, detection: Detection, width: int, height: int) -> bool:
        box, limits = detection.box, self.settings
        share = boxes.area(box) / (width * height)
        sides = box[2] - box[0], box[3] - box[1]
        return (
            detection.score >= limits.min_score
            and limits.min_area <= share <= limits.max_area
            and max(sides) <= limits.max_aspect * min(sides)
        )


def _as_row(detection: Detection) -> dict[str, Any]:
    return {
        "box": list(detection.box),
        "label": detection.label,
        "score": float(detection.score),
        "mask": None if detection.mask is None else images.encode_mask(detection.mask),
    }
