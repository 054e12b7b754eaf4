"""Boxes that were found elsewhere: a Parquet table, looked up by the image's id or source. It decodes no photograph.

So any detector can be used that runs on its own, Co-DETR in its own environment for one. A photograph that the table
does not know is an error on its row, not a photograph without objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from ugaf import stage
from ugaf.base.errors import nearest
from ugaf.base.failure import each
from ugaf.base.needs import Needs
from ugaf.models.detectors.box_table import ROLES, BoxTable, Entry, content_of
from ugaf.models.detectors.interface import Detection, DetectQuery, ranked
from ugaf.stage import Failure, RowError

SLACK = 0.02
"""How far outside of the image a box may reach, as a share of its side: detectors do so, and it is cut off. What
reaches further was measured on another size of the image."""

Format = Literal["xyxy", "xywh", "cxcywh"]


class BoxesDetector:
    """Implements `ugaf.models.detectors.interface.Detector`. Each worker reads the table once.

    A million images with four million boxes (a file of 115 MB) take 5 s and 0.5 GB in each worker, 0.8 GB while they
    are read (one row a box: 1.1 GB), and 0.4 ms a photograph. `resources: {workers: 1}` keeps one copy.
    """

    name = "boxes"
    version = 1
    reads_image = False

    class Settings(stage.Settings):
        """Options of the engine `boxes`."""

        path: str | list[str] = stage.operational(
            ..., description="The Parquet file, a folder of them, or a pattern; a path or URL."
        )
        key: Literal["id", "source", "file_name"] = Field(
            "source",
            description="What the table knows an image by: ugaf's id, its source as in `sources`, or its file's name.",
        )
        columns: dict[str, str] = Field(
            {}, description=f"The table's columns, where they have other names: {', '.join(ROLES)}."
        )
        format: Format = Field("xyxy", description="How a box is written: xyxy, xywh or cxcywh (c: centre).")
        relative: bool = Field(False, description="Boxes are shares of the image's sides, 0..1, not pixels.")
        content: str | None = Field(
            None, description="Hash of the table; filled in, so that a finished run can be read without the table."
        )

        @field_validator("path")
        @classmethod
        def _some(cls, value: str | list[str]) -> str | list[str]:
            if not value or not all(value if isinstance(value, list) else [value]):
                raise ValueError("name a Parquet file")
            return value

        @field_validator("content")
        @classmethod
        def _hashed(cls, value: str | None, info: ValidationInfo) -> str | None:
            return content_of(info.data["path"]) if value is None and "path" in info.data else value

        @model_validator(mode="after")
        def _roles(self) -> BoxesDetector.Settings:
            for role in self.columns:
                if role not in ROLES:
                    raise ValueError(f"columns: {role!r} is not known{nearest(role, ROLES)}")
            return self

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return Needs(reads=() if settings.key == "id" else ("sources",))

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._table = BoxTable.read(settings.path, settings.key, settings.columns)

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        """For each photograph: the table's boxes, best first; those without a score keep the table's order."""
        return each(self._detect, queries)

    def _detect(self, query: DetectQuery) -> list[Detection]:
        keys = [query.id] if self.settings.key == "id" else list(query.sources)
        if self.settings.key == "file_name":
            keys = [_file_name(source) for source in keys]
        entry = next((found for key in keys if (found := self._table.get(key)) is not None), None)
        if entry is None:
            raise RowError(
                f"no boxes for {', '.join(map(repr, keys))} in {self._table.place} (key: {self.settings.key}); "
                f"its {self._table.key_column!r} are like {self._table.example!r}"
            )
        return ranked(self._detections(entry, *query.size))

    def _detections(self, entry: Entry, width: int, height: int) -> Iterator[Detection]:
        corners = to_corners(entry.boxes, self.settings.format, width, height, self.settings.relative)
        for i, box in enumerate(corners.tolist()):
            score = entry.scores[i]
            if score is not None and not 0 <= score <= 1:
                raise RowError(f"box {i + 1} of {entry.key!r} has the score {score}: scores are 0..1")
            checked = check(box, width, height, f"box {i + 1} of {entry.key!r}")
            yield Detection(checked, entry.labels[i], score, None)


def to_corners(given: np.ndarray, form: Format, width: int, height: int, relative: bool) -> np.ndarray:
    """Boxes (n, 4) of a format as x1 y1 x2 y2 in pixels, float64."""
    values = np.asarray(given, np.float64).reshape(-1, 4)
    if relative:
        values = values * (width, height, width, height)
    if form == "xyxy":
        return values
    first, size = values[:, :2], values[:, 2:]
    if form == "cxcywh":
        first = first - size / 2
    return np.concatenate([first, first + size], axis=1)


def check(corners: Sequence[float], width: int, height: int, what: str) -> tuple[int, int, int, int]:
    """The box to the nearest pixels, at least one each way. Raises RowError for one that cannot be this image's."""
    x1, y1, x2, y2 = corners
    slack_x, slack_y = max(1.0, SLACK * width), max(1.0, SLACK * height)
    wrong = ""
    if not all(map(math.isfinite, corners)):
        wrong = "is not of numbers"
    elif x1 >= x2 or y1 >= y2:
        wrong = "is empty or inverted: expected x1 < x2 and y1 < y2"
    elif min(x1 / slack_x, y1 / slack_y, (width - x2) / slack_x, (height - y2) / slack_y) < -1:
        wrong = f"lies outside of the image of {width} x {height} pixels"
    if wrong:
        raise RowError(f"{what}, {' '.join(f'{value:g}' for value in corners)}, {wrong}")
    left, top = min(max(round(x1), 0), width - 1), min(max(round(y1), 0), height - 1)
    return left, top, max(left + 1, min(round(x2), width)), max(top + 1, min(round(y2), height))


def _file_name(source: str) -> str:
    """The file's name in a source: `/data/a.jpg`, `s3://b/c.tar#d/e.jpg` (a tar's member), `t.parquet#7 (f.png)`."""
    place = source.partition("#")[2] or source
    if place.endswith(")") and " (" in place:
        place = place.rpartition(" (")[2][:-1]
    return place.rpartition("/")[2]
