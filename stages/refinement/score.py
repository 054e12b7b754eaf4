"""Refinement 4: quality of the edited image, against artifacts (FineEdit, arXiv 2604.10954, section 4.1: EditScore).

The embedded scorer "measures" measures seams, artifacts and lost sharpness; "editscore" asks a served model.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    writes: ClassVar = {
        "scorer": stage.Column(str, "`measures`, `editscore:MODEL`"),
        "quality": stage.Column(float, "0..10, higher is better; by the scorer's own formula, below", range=(0, 10)),
        "artifacts": stage.Column(float, "of `measures`, 0..1", range=(0, 1)),
        "seams": stage.Column(float, "of `measures`, 0..1", range=(0, 1)),
        "sharpness_loss": stage.Column(float, "of `measures`: octaves, 0 or more", range=(0, None)),
        "semantic_consistency": stage.Column(float, "of `editscore`: mean of SC over the passes, 0..10", range=(0, 10)),
        "perceptual_quality": stage.Column(float, "of `editscore`: mean of PQ over the passes, 0..10", range=(0, 10)),
        "quality_spread": stage.Column(float, "of `editscore`: sample standard deviation of the passes' scores"),
        "quality_reason": stage.Column(str, "of `editscore`: the reasoning of the pass with the lowest score"),
        "scorer_tokens_in": stage.Column(pa.int32(), "tokens of all requests about the pair"),
        "scorer_tokens_out": stage.Column(pa.int32(), "the same of the answers"),
        "scorer_thinking": stage.Column(str, "what a reasoning model thought, by pass, or null", text=True),
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
        return {name: scores.get(name) for name in self.schema.names} | {"scorer": self.scorer.name}
