"""A stage's account: what became of the rows that it was given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 20
"""Kinds of failures of a stage of which the first is told."""


@dataclass
class StageCounts:
    """One stage of the funnel: given = kept + sum(rejected) + failed + pending.

    rejected: by rule (`rgb_entropy < 5.5`). errors: failed rows by error type. seconds: of work, over all workers.
    rows: rows that the stage has measured, those too that it would not be given now. examples: by error type, the first
    failure's `message`, `id` and `source` (the file that the row came from; "" where it is not known).
    """

    name: str
    level: str
    given: int = 0
    kept: int = 0
    failed: int = 0
    pending: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    rows: int = 0
    examples: dict[str, dict[str, str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        rounded = {"rejected": dict(self.rejected), "errors": dict(self.errors), "seconds": round(self.seconds, 3)}
        return {**vars(self), **rounded}

    def check(self) -> None:
        """Raises AssertionError if a row was lost or counted twice."""
        total = self.kept + sum(self.rejected.values()) + self.failed + self.pending
        if total != self.given:
            raise AssertionError(f"{self.name}: {self.given} rows given, {total} accounted for")
