"""How much of the photograph is text, what does it say, and does it look like a watermark?

FireRed-Image-Edit (section 2.2.3, content validity) drops pictures with much text and with watermarks: an editor that
learns from them writes letters where none belong. The reader (OCR) is named by a setting and runs in its own workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from ugaf import stage
from ugaf.base.failure import Failure, at_once, each
from ugaf.imaging.boxes import crop
from ugaf.models.readers import Line, Reader
from ugaf.provenance import watermarks
from ugaf.stage import Outcome, Row, engines


class Text(stage.Stage):
    """Writes text_area (0..1), text, text_boxes, watermark (0..1) and reader."""

    reads = ("image", "width", "height")
    writes: ClassVar = {
        "text_area": stage.Column(pa.float32(), "share of the copy that lines of text take, 0..1", range=(0, 1)),
        "text": stage.Column(str, "the lines in reading order, one below the other", text=True),
        "text_boxes": stage.Column(pa.list_(pa.list_(pa.int32())), "box of each line, x1 y1 x2 y2, pixels"),
        "watermark": stage.Column(pa.float32(), "evidence of the strongest line, 0..1: see below", range=(0, 1)),
        "reader": stage.Column(str, "`rapidocr:PP-OCRv4`"),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"text_area": {"max": 0.15}, "watermark": {"max": 0.5}}

    class Settings(stage.Settings):
        reader: engines.ReaderSpec = Field({"engine": "rapidocr"}, description="Which reader (OCR), and its options.")
        side: int = Field(
            960,
            ge=64,
            le=4096,
            description="Longer side in pixels of the copy that is read; smaller photographs are read as they are.",
        )
        min_score: float = Field(
            0.6, ge=0, le=1, description="Lines with a lower score are left out; those without a score are not."
        )
        max_characters: int = Field(1000, ge=1, description="The text is cut off after so many characters.")
        watermark_words: list[str] = Field(
            [], description="Names that count as an agency's in `watermark`, beside those of the shipped list."
        )

    settings: Settings

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> stage.Needs:
        return super().needs(settings, lane).by_rows(8)

    def setup(self) -> None:
        self.reader: Reader = engines.build("reader", self.settings.reader, self.servers)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        pictures = each(lambda row: row.photo(self.settings.side), rows)
        sound = [picture for picture in pictures if not isinstance(picture, Failure)]
        answers = iter(at_once(self.reader.read, sound))
        return [
            picture if isinstance(picture, Failure) else self._outcome(row, picture, next(answers))
            for row, picture in zip(rows, pictures, strict=True)
        ]

    def _outcome(self, row: Row, picture: np.ndarray, found: list[Line] | Failure) -> Outcome:
        if isinstance(found, Failure):
            return found
        for line in found:
            if np.shape(line.corners) != (4, 2) or not np.isfinite(line.corners).all():
                return Failure("ValueError", f"reader {self.reader.name!r} gave no four corners: {line.corners!r:.200}")
        lines = [line for line in found if line.score is None or line.score >= self.settings.min_score]
        # Dots, dashes and rings are what a reader sees in textures.
        lines = [line for line in lines if any(character.isalnum() for character in line.text)]
        size = (row["width"], row["height"])
        scale = np.array(size) / (picture.shape[1], picture.shape[0])
        boxes = [watermarks.pixel_box(line.corners * scale, *size) for line in lines]
        return {
            "text_area": text_area([line.corners for line in lines], picture.shape[1], picture.shape[0]),
            "text": "\n".join(line.text.strip() for line in lines)[: self.settings.max_characters] or None,
            "text_boxes": [list(box) for box in boxes if box is not None],
            "watermark": watermarks.watermark(lines, picture, self.settings.watermark_words),
            "reader": self.reader.name,
        }


def text_area(quadrilaterals: Sequence[np.ndarray], width: int, height: int) -> float:
    """Share of a picture's pixels whose middle is in one of the convex quadrilaterals, each float (4, 2): x and y."""
    inside = np.zeros((height, width), bool)
    for corners in quadrilaterals:
        box = watermarks.pixel_box(corners, width, height)
        if box is None:
            continue
        x, y = np.arange(box[0], box[2]) + 0.5, (np.arange(box[1], box[3]) + 0.5)[:, None]
        hull = cv2.convexHull(corners.astype(np.float32))[:, 0].astype(np.float64)
        edges = zip(hull, np.roll(hull, -1, axis=0), strict=True)
        turns = np.stack([(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) for a, b in edges])
        # In a view of `inside`: on the same side of all edges, whichever way round they go.
        crop(inside, box)[(turns >= 0).all(axis=0) | (turns <= 0).all(axis=0)] = True
    return float(inside.mean())
