"""Refinement 4: quality of the edited image, against artifacts (FineEdit, arXiv 2604.10954, sec. 3: EditScore).

The embedded scorer "measures" measures seams, artifacts and lost sharpness; a model such as EditScore takes its place
by configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from ugaf import boxes, images, stage
from ugaf.models import registry
from ugaf.models.scorer import Pair
from ugaf.registration import on_one_grid
from ugaf.stage import Failure, Outcome, Row, RowError, Stage


class Score(Stage):
    """Scores each pair: `quality` 0..10, and the measures it is made of where the scorer gives them."""

    version = 1
    reads = ("image", "edited_image", "task", "instruction", "boxes", "change_mask", "shift_x", "shift_y")
    optional_reads = ("source_image",)
    writes = pa.schema(
        [
            ("scorer", pa.string()),
            ("quality", pa.float64()),
            ("artifacts", pa.float64()),
            ("seams", pa.float64()),
            ("sharpness_loss", pa.float64()),
        ]
    )
    keep: ClassVar[dict[str, dict[str, Any]]] = {"quality": {"min": 5.0}}

    settings: Settings

    class Settings(stage.Settings):
        scorer: dict[str, Any] = Field(
            default={"engine": "measures"}, description="which scorer judges the pairs, and its options"
        )
        side: int = Field(default=1024, ge=256, description="longer side in pixels at which pairs are scored")

        @field_validator("scorer")
        @classmethod
        def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
            return registry.check("scorer", value)

    def setup(self) -> None:
        self.scorer = registry.build("scorer", self.settings.scorer)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        prepared: list[Pair | Failure] = []
        for row in rows:
            try:
                prepared.append(prepare(row, self.settings.side))
            except Exception as error:
                prepared.append(Failure.of(error))
        pairs = [pair for pair in prepared if isinstance(pair, Pair)]
        answers = iter(self.scorer.score(pairs) if pairs else ())
        return [item if isinstance(item, Failure) else self._columns(next(answers)) for item in prepared]

    def _columns(self, scores: Any) -> Outcome:
        if isinstance(scores, Failure):
            return scores
        names = ("quality", "artifacts", "seams", "sharpness_loss")
        return {"scorer": self.scorer.name, **{name: scores.get(name) for name in names}}


def prepare(row: Row, side: int) -> Pair:
    """The row's pair on one grid, its longer side reduced to `side`, for a scorer."""
    source, edited = row.source(), row.edited()
    height, width = source.shape[:2]
    mask = images.decode_mask(row["change_mask"])
    if mask.shape != (height, width):
        raise RowError(
            f"change_mask is {mask.shape[1]} x {mask.shape[0]}, the source {width} x {height}: run change_mask again"
        )
    source, edited = on_one_grid(source, edited, side, shift=(row["shift_x"], row["shift_y"]))
    small_h, small_w = source.shape[:2]
    if mask.shape != source.shape[:2]:
        mask = cv2.resize(mask.astype(np.uint8), (small_w, small_h), interpolation=cv2.INTER_NEAREST).astype(bool)
    fx, fy = small_w / width, small_h / height
    targets = tuple(
        boxes.clip((b[0] * fx, b[1] * fy, b[2] * fx, b[3] * fy), small_w, small_h) for b in row["boxes"] or ()
    )
    return Pair(source, edited, mask, row["instruction"] or "", row["task"], targets)
