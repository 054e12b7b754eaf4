"""Refinement 4: quality of the edited image, against artifacts (FineEdit, arXiv 2604.10954, section 4.1: EditScore).

The embedded scorer "measures" measures seams, artifacts and lost sharpness; "editscore" asks a served model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from ugaf import stage
from ugaf.base.failure import through
from ugaf.models.judging.pairs import Pair, prepare, unshared
from ugaf.models.scorers.interface import Scores
from ugaf.stage import Failure, Outcome, Row, Stage, engines
from ugaf.stage.engines import ScorerSpec


class Score(Stage):
    """Scores each pair: `quality` 0..10, and what it is made of, as the scorer gives it."""

    version = 2
    reads = ("image", "edited_image", "task", "instruction", "boxes", "change_mask", "shift_x", "shift_y")
    optional_reads = ("source_image",)
    writes = pa.schema(
        [
            ("scorer", pa.string()),
            ("quality", pa.float64()),
            ("artifacts", pa.float64()),
            ("seams", pa.float64()),
            ("sharpness_loss", pa.float64()),
            ("semantic_consistency", pa.float64()),
            ("perceptual_quality", pa.float64()),
            ("quality_spread", pa.float64()),
            ("quality_reason", pa.string()),
            ("scorer_tokens_in", pa.int32()),
            ("scorer_tokens_out", pa.int32()),
            ("scorer_thinking", pa.string()),
        ]
    )
    ranges: ClassVar[Mapping[str, stage.Range]] = {
        "quality": (0, 10),
        "artifacts": (0, 1),
        "seams": (0, 1),
        "sharpness_loss": (0, None),
        "semantic_consistency": (0, 10),
        "perceptual_quality": (0, 10),
    }
    keep: ClassVar[dict[str, dict[str, Any]]] = {"quality": {"min": 5.0}}

    settings: Settings

    class Settings(stage.Settings):
        scorer: ScorerSpec = Field({"engine": "measures"}, description="which scorer judges the pairs, and its options")
        side: int = Field(1024, ge=256, description="longer side in pixels at which pairs are scored")

    def setup(self) -> None:
        self.scorer = engines.build("scorer", self.settings.scorer, self.servers)
        self.alone = self.needs(self.settings).own_pool

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        return [self._columns(scores) for scores in through(self._pair, rows, self.scorer.score)]

    def _pair(self, row: Row) -> Pair:
        # In a pool of its own no other stage wants the decoded images.
        return prepare(unshared(row) if self.alone else row, self.settings.side)

    def _columns(self, scores: Scores | Failure) -> Outcome:
        if isinstance(scores, Failure):
            return scores
        return {name: scores.get(name) for name in self.writes.names} | {"scorer": self.scorer.name}
