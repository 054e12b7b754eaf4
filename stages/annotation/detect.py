"""Finds the objects of a photograph: boxes, scores, and masks where the detector has them.

The detector is named by a setting; the embedded one, `proposals`, is class-agnostic and needs no weights. Boxes that no
local edit could use are left out here: too small, too large (FineEdit, section 4.1, drops extreme box ratios; ImgEdit
keeps objects of 1 to 60 % of the image), too elongated, of classes that are not wanted, or scored below the threshold,
which belongs to the detector: FineEdit's 0.7 is on the scale of Co-DETR.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, model_validator

from ugaf import stage
from ugaf.base.errors import ConfigError, nearest
from ugaf.base.failure import Failure, at_once, each
from ugaf.base.needs import Needs, together
from ugaf.imaging import boxes, images
from ugaf.models.detectors.interface import Detection, Detector, DetectQuery, phrases
from ugaf.stage import Outcome, Row, engines

OBJECT = pa.struct(
    [
        ("box", pa.list_(pa.int32())),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("mask", pa.large_binary()),
    ]
)
"""One object: box x1 y1 x2 y2 in full-resolution pixels; label: null from a class-agnostic detector; score: 0..1, null
from a detector that gives none; mask: `images.encode_mask` of a mask of the box's size."""


class Detect(stage.Stage):
    """Writes `objects` (best first), `n_objects` and `detector`."""

    version = 2
    reads = ("width", "height")
    writes: ClassVar = {
        "objects": stage.Column(pa.list_(OBJECT), "`box`: x1 y1 x2 y2. `label`: class name"),
        "n_objects": stage.Column(pa.int32(), "how many there are"),
        "detector": stage.Column(str, "the engine's name"),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"n_objects": {"min": 1}}

    class Settings(stage.Settings):
        detector: engines.DetectorSpec = Field(
            {"engine": "proposals"},
            description="Which detector finds the objects, and its options.",
        )
        min_score: float = Field(
            0.3,
            ge=0,
            le=1,
            description="Drop boxes scored lower; on the scale of the detector that is named. No score is not dropped.",
        )
        min_area: float = Field(0.01, ge=0, le=1, description="Drop boxes smaller than this share of the image.")
        max_area: float = Field(0.6, gt=0, le=1, description="Drop boxes larger than this share of the image.")
        max_aspect: float = Field(
            10.0, ge=1, description="Drop boxes whose longer side is more than this many times the shorter."
        )
        classes: list[str] = Field([], description="Keep boxes with these labels only, in any case; empty keeps all.")
        exclude_classes: list[str] = Field([], description="Drop boxes with these labels, in any case.")
        max_overlap: float | None = Field(
            None,
            gt=0,
            le=1,
            description="Of two boxes with a higher IoU, whatever their labels, drop the worse; null keeps both.",
        )
        max_per_class: int | None = Field(
            None, ge=1, description="At most this many boxes of one label, the best ones; null sets no limit."
        )
        max_objects: int | None = Field(
            None, ge=1, description="At most this many boxes an image, the best ones; null sets no limit."
        )

        @model_validator(mode="after")
        def _areas_in_order(self) -> Detect.Settings:
            if self.min_area >= self.max_area:
                raise ValueError(f"min_area ({self.min_area}) must be below max_area ({self.max_area})")
            return self

        @model_validator(mode="after")
        def _labels_are_had(self) -> Detect.Settings:
            engine = engines.engine_class("detector", self.detector)
            if not getattr(engine, "labels", True) and (self.classes or self.exclude_classes):
                raise ValueError(f"the detector {self.detector['engine']!r} knows no classes to choose by")
            return self

    settings: Settings

    @classmethod
    def needs(cls, settings: Settings, lane: str | None = None) -> Needs:
        """Those of the engine, and the photographs unless it does without them."""
        decodes = getattr(engines.engine_class("detector", settings.detector), "reads_image", True)
        return together([Needs(reads=("image",) if decodes else ()), super().needs(settings, lane)]).by_rows(8)

    def setup(self) -> None:
        self.detector: Detector = engines.build("detector", self.settings.detector, self.servers)
        known = {name.casefold(): name for name in getattr(self.detector, "class_names", ())}
        for setting in ("classes", "exclude_classes"):
            for name in getattr(self.settings, setting) if known else ():
                if name.casefold() not in known:
                    raise ConfigError(
                        f"{setting}: {name!r} is no class of this detector{nearest(name, known.values())}"
                    )

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        asked = each(self._query, rows)
        queries = [query for query in asked if isinstance(query, DetectQuery)]
        found = iter(at_once(self.detector.detect, queries))
        return [query if isinstance(query, Failure) else self._outcome(next(found), query) for query in asked]

    def _query(self, row: Row) -> DetectQuery:
        column = self.settings.detector.get("vocabulary_column")
        return DetectQuery(
            id=row.id,
            size=(row["width"], row["height"]),
            load=row.photo,
            sources=tuple(row.get("sources") or ()),
            caption=row.get("caption"),
            vocabulary=phrases(row[column]) if column else (),
        )

    def _outcome(self, found: list[Detection] | Failure, query: DetectQuery) -> Outcome:
        if isinstance(found, Failure):
            return found
        objects = [_as_row(detection) for detection in self._chosen(found, *query.size)]
        return {"objects": objects, "n_objects": len(objects), "detector": self.detector.name}

    def _chosen(self, found: Iterable[Detection], width: int, height: int) -> list[Detection]:
        """What the limits leave, best first: each box by itself, then against better ones, then the caps."""
        limits = self.settings
        chosen: list[Detection] = []
        of_class: Counter[str | None] = Counter()
        for detection in found:
            if not self._usable(detection, width, height) or self._covered(detection, chosen):
                continue
            if limits.max_per_class is not None and of_class[detection.label] >= limits.max_per_class:
                continue
            if limits.max_objects is not None and len(chosen) >= limits.max_objects:
                break
            of_class[detection.label] += 1
            chosen.append(detection)
        return chosen

    def _usable(self, detection: Detection, width: int, height: int) -> bool:
        box, limits = detection.box, self.settings
        share = boxes.area(box) / (width * height)
        sides = box[2] - box[0], box[3] - box[1]
        return (
            (detection.score is None or detection.score >= limits.min_score)
            and limits.min_area <= share <= limits.max_area
            and max(sides) <= limits.max_aspect * min(sides)
            and (not limits.classes or _among(detection.label, limits.classes))
            and not _among(detection.label, limits.exclude_classes)
        )

    def _covered(self, detection: Detection, better: Iterable[Detection]) -> bool:
        limit = self.settings.max_overlap
        return limit is not None and any(boxes.iou(detection.box, other.box) > limit for other in better)


def _among(label: str | None, names: Iterable[str]) -> bool:
    return label is not None and label.casefold() in {name.casefold() for name in names}


def _as_row(detection: Detection) -> dict[str, Any]:
    return {
        "box": list(detection.box),
        "label": detection.label,
        "score": None if detection.score is None else float(detection.score),
        "mask": None if detection.mask is None else images.encode_mask(detection.mask),
    }
