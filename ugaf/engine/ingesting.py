"""The first chain of a worker: reads a fragment's sources and stores the images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ugaf import ingest
from ugaf.columns.buffer import Buffer
from ugaf.columns.parts import REFS
from ugaf.columns.tombstones import buried_in
from ugaf.columns.verdicts import FAILED, KEPT, NAMES, REJECTED, Given, judge, load_sources
from ugaf.engine.monitor import MERGED, ONWARD, Blame
from ugaf.engine.outcomes import died, failed_row
from ugaf.engine.workplace import Workplace
from ugaf.pipeline.config import INGEST
from ugaf.stage import Failure


class IngestRun:
    """Ingest on one fragment."""

    def __init__(self, worker: Workplace, fragment: str, skip: frozenset[str], blame: Blame) -> None:
        self.worker = worker
        self.fragment = fragment
        self.skip = skip
        self.blame = blame
        self.places: dict[ingest.SourceRef, int] = {}
        self.buffer = Buffer(worker.columns, fragment, [INGEST])

    def run(self) -> None:
        given = judge(self.worker.columns, self.fragment, until=INGEST, skip=self.skip)[INGEST]
        again = self._failed(given) if self.worker.task.retry_failed else []
        todo = [*given.unread, *again]
        if not todo:
            return
        refs = load_sources(self.worker.columns, self.fragment)
        self.places = {refs[place]: place for place in todo}
        suspects = [ref for ref in self.places if ref.key in self.blame.suspects]
        self._read([ref for ref in self.places if ref.key not in self.blame.suspects], len(again) > 0)
        self.buffer.flush(force=True)
        for ref in suspects:
            if self.blame.deaths.get((INGEST, ref.key), 0) >= self.worker.task.pipeline.settings.engine.row_crashes:
                self._record(ingest.IngestedRow(ingest.failed_id(ref), died(), [ref.key], [ref]), 0, 0.0)
            else:
                self._read([ref], len(again) > 0, alone=True)
            self.buffer.flush(force=True)

    def _failed(self, given: Given) -> list[int]:
        """Positions of the sources whose rows failed."""
        table, _ = self.worker.columns.light(INGEST, self.fragment, [REFS])
        failed = set(given.where(FAILED))
        return sorted(place for row in table.to_pylist() if row["id"] in failed for place in row[REFS])

    def _read(self, refs: Sequence[ingest.SourceRef], attempt: int, alone: bool = False) -> None:
        """All at once through `produce`, which merges exact duplicates."""
        if not refs:
            return
        self.worker.journal.begin(INGEST, self.fragment, INGEST if alone else "", [ref.key for ref in refs])
        start = time.perf_counter()
        inputs = self.worker.task.pipeline.settings.inputs
        for produced in ingest.produce(refs, inputs, lambda _, error: self.worker.journal.put_off(str(error))):
            now = time.perf_counter()
            self._record(produced, attempt, now - start)
            self.buffer.flush()
            start = time.perf_counter()

    def _record(self, produced: ingest.IngestedRow, attempt: int, seconds: float) -> None:
        places = sorted(self.places[ref] for ref in produced.refs)
        row: dict[str, Any] = {"id": produced.id, "attempt": int(attempt), REFS: places}
        stones = self.worker.columns.tombstones
        stone = stones.of_id(buried_in(ref.uri for ref in produced.refs) or produced.id)
        if stone is not None:
            row.update(id=stone.id, error=stone.error, sources=[])
        elif isinstance(produced.values, Failure):
            row.update(error=str(produced.values), sources=produced.sources)
        else:
            row.update(produced.values, sources=produced.sources)
        self.buffer.add(INGEST, [row], seconds)
        if stone is not None:
            self.worker.tell(INGEST, {NAMES[REJECTED]: 1, MERGED: len(places) - 1}, seconds, [])
            return
        counts = {NAMES[FAILED]: 1} if "error" in row else {NAMES[KEPT]: 1, ONWARD: 1}
        failed = [failed_row(self.fragment, row, produced.values)] if "error" in row else []
        self.worker.tell(INGEST, {**counts, MERGED: len(places) - 1}, seconds, failed)
