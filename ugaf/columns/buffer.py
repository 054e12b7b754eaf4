"""New columns of a fragment on their way to its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ugaf.columns.parts import Columns


class Buffer:
    """New columns waiting to be committed, in stage order; flushed when they reach the pipeline's flush size."""

    def __init__(self, columns: Columns, fragment: str, stages: Sequence[str]) -> None:
        self.columns = columns
        self.fragment = fragment
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in stages}
        self.seconds: dict[str, float] = dict.fromkeys(stages, 0.0)
        self.bytes = 0
        self.limit = columns.pipeline.settings.engine.flush_mb << 20
        self.seconds_limit = columns.pipeline.settings.engine.flush_s

    def add(self, stage: str, rows: Sequence[dict[str, Any]], seconds: float) -> None:
        self.rows[stage].extend(rows)
        self.seconds[stage] += seconds
        self.bytes += sum(len(v) for row in rows for v in row.values() if isinstance(v, bytes))

    def flush(self, force: bool = False) -> None:
        if not force and self.bytes < self.limit and max(self.seconds.values()) < self.seconds_limit:
            return
        for stage, rows in self.rows.items():
            if rows:
                self.columns.write(stage, self.fragment, rows, self.seconds[stage])
        self.rows = {name: [] for name in self.rows}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self.bytes = 0
