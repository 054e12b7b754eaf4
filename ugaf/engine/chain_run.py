"""One chain of stages on one unit of work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ugaf.base.errors import StopRun
from ugaf.columns.buffer import Buffer
from ugaf.columns.parts import part_schema
from ugaf.columns.verdicts import FAILED, KEPT, NAMES, judge
from ugaf.engine.alike import FailedRow
from ugaf.engine.loader import Entry, Loader, by_base
from ugaf.engine.monitor import ONWARD, Blame
from ugaf.engine.outcomes import call, died, failed_row, onward, stored, verdicts_of
from ugaf.engine.units import Unit
from ugaf.engine.workplace import Workplace
from ugaf.pipeline.config import INGEST, StageSpec
from ugaf.stage import Outcome, Row, Stage

PHOTOGRAPHS = 32
"""Most photographs in hand at once where stages are fused."""
PIXELS = 32_000_000
"""Most pixels of photographs in hand at once; a quarter where edits, each with images of its own, are in hand too."""
JOURNALLED = 128
"""Photographs that one entry of the journal covers: after a death, at most so many are taken one by one."""
LOADING = "loading"
"""Stands in the journal for a stage while a photograph's columns are read."""


def journal_name(chain: Sequence[str], lane: str | None) -> str:
    """The name of a chain in the journal."""
    return "+".join(chain) + (f"[{lane}]" if lane else "")


class ChainRun:
    """One chain on one unit. `done`: (stage, row id) of what this worker has done in it; grows."""

    def __init__(
        self,
        worker: Workplace,
        chain: tuple[str, ...],
        unit: Unit,
        skip: frozenset[str],
        blame: Blame,
        done: set[tuple[str, str]],
    ) -> None:
        self.worker = worker
        self.pipeline = worker.task.pipeline
        self.columns = worker.columns
        self.chain = chain
        self.journal_name = journal_name(chain, worker.task.lane)
        self.unit = unit
        self.fragment = fragment = unit.fragment
        self.blame = blame
        self.specs = [self.pipeline.stage(name) for name in chain]
        self.verdicts = judge(self.columns, fragment, until=chain[-1], skip=skip, fits=worker.task.fits)
        self.chosen = unit.rows(self.verdicts[INGEST].ids)
        self.stored = {spec.name: set(self.verdicts[spec.name].table.column("id").to_pylist()) for spec in self.specs}
        self.done = done
        self.met_stored = False
        self.attempts: dict[tuple[str, str], int] = {}
        self.buffer = Buffer(self.columns, fragment, chain)
        self.loader = Loader(self.columns, self.verdicts, self.specs)

    def run(self) -> bool:
        """Returns True if rows came to a stage that had done them before: they wait there for another pass."""
        entries = sorted(self._entries(), key=lambda entry: (entry.base, entry.start, entry.id))
        if not entries:
            return False
        try:
            self._together([e for e in entries if e.base not in self.blame.suspects])
            self._one_by_one([e for e in entries if e.base in self.blame.suspects])
        except StopRun:
            # The fault is no row's: what was done before it is kept.
            self.buffer.flush(force=True)
            raise
        return self.met_stored

    def _together(self, entries: Sequence[Entry]) -> None:
        # Fused stages cost less than an entry in the journal; a model's batch is worth one of its own, so that fewer
        # rows are taken one by one after a death.
        together = self._photographs(entries) if self.specs[0].own_pool and entries else JOURNALLED
        for some in by_base(entries, together):
            ids = sorted({entry.base for entry in some})
            with self.worker.turns.shared():
                self.worker.journal.begin(self.journal_name, self.unit.key, "", ids)
                parts = -(-len(ids) // self._photographs(some))
                for batch in by_base(some, -(-len(ids) // parts)):
                    self._batch(batch, alone=False)
        self.buffer.flush(force=True)

    def _one_by_one(self, entries: Sequence[Entry]) -> None:
        if entries:
            # While it waits for its turn, too, a death in another fragment counts for none of its rows.
            ids = sorted({entry.base for entry in entries})
            self.worker.journal.begin(self.journal_name, self.unit.key, "", ids)
        for batch in by_base(entries, 1):
            with self.worker.turns.alone():
                self._batch(batch, alone=True)
                self.buffer.flush(force=True)
                # Until its next turn this thread holds nothing: a death in another fragment is not this row's.
                self.worker.journal.begin(self.journal_name, self.unit.key, "", [batch[0].base])

    def _photographs(self, entries: Sequence[Entry]) -> int:
        """How many photographs to have in hand: what their pixels allow, and for a model with workers of its own at
        least what fills one of its batches."""
        sizes = self.loader.values.of(["width", "height"], sorted({entry.base for entry in entries}))
        largest = max((size["width"] or 1) * (size["height"] or 1) for size in sizes.values())
        budget = PIXELS // 4 if any(spec.level == "edit" or spec.cls.fans_out for spec in self.specs) else PIXELS
        fitting = max(1, min(PHOTOGRAPHS, budget // largest))
        spec = self.specs[0]
        if not spec.own_pool:
            return fitting
        # Edits share their photograph: as many photographs as hold one batch of them.
        rows_each = len(entries) / len(sizes) if spec.level == "edit" else 1
        return max(fitting, round(spec.batch_rows(self.worker.task.lane) / rows_each), 1)

    def _entries(self) -> Iterator[Entry]:
        """Every row that some stage of the chain has to do, at the first such stage."""
        for position, spec in enumerate(self.specs):
            given = self.verdicts[spec.name]
            new = np.flatnonzero((given.index < 0) | self._again(given.code))
            numbers = [number for number in new if self._is_chosen(given.ids[number])]
            others = self._of_other_lanes(spec, [given.ids[number] for number in numbers])
            for number in numbers:
                key = given.ids[number]
                if (spec.name, key) in self.done or key in others:
                    continue
                if given.index[number] >= 0:
                    self.attempts[spec.name, key] = 1
                yield Entry(key, self.verdicts.parents.get(key, key), position)

    def _is_chosen(self, key: str) -> bool:
        chosen = self.chosen
        return chosen is None or key in chosen or self.verdicts.parents.get(key, key) in chosen

    def _of_other_lanes(self, spec: StageSpec, ids: Sequence[str]) -> set[str]:
        """The rows that another lane does. A row that names no lane is the first one's."""
        mine = self.worker.task.lane
        if mine is None or not ids:
            return set()
        column, lanes = spec.cls.lane_column, list(spec.lanes)
        parents = self.verdicts.parents if self.pipeline.is_base_column(column) else {}
        owners = {key: parents.get(key, key) for key in ids}
        values = self.loader.values.of([column], sorted(set(owners.values())))
        named = {key: values[owner][column] for key, owner in owners.items()}
        return {key for key, lane in named.items() if (lane if lane in spec.lanes else lanes[0]) != mine}

    def _again(self, code: np.ndarray) -> np.ndarray:
        return (code == FAILED) & self.worker.task.retry_failed

    def _batch(self, entries: Sequence[Entry], alone: bool) -> None:
        """Take some photographs' rows through the chain."""
        if alone:
            if self.blame.deaths.get((LOADING, entries[0].base), 0) >= self.pipeline.settings.engine.row_crashes:
                self._give_up(entries)
                return
            self.worker.journal.begin(self.journal_name, self.unit.key, LOADING, [entries[0].base])
        self.loader.load(entries)
        flowing: list[Row] = []
        for position, spec in enumerate(self.specs):
            rows = self._not_stored(spec, flowing)
            rows += [e.row for e in entries if e.start == position and e.row is not None]
            flowing = self._stage(spec, rows, alone) if rows else []
        self.loader.forget()

    def _not_stored(self, spec: StageSpec, rows: list[Row]) -> list[Row]:
        """Rows that the stage has not done: where only a stage before it is new, its own columns are still good."""
        new = [row for row in rows if row.id not in self.stored[spec.name]]
        self.met_stored = self.met_stored or len(new) < len(rows)
        return new

    def _give_up(self, entries: Sequence[Entry]) -> None:
        """Record as failed the rows of a photograph whose columns cannot be read without dying."""
        for entry in entries:
            stage = self.chain[entry.start]
            attempt = self.attempts.get((stage, entry.id), 0)
            self.buffer.add(stage, [{"id": entry.id, "attempt": attempt, "error": str(died())}], 0.0)
            self.done.add((stage, entry.id))
            self.worker.tell(stage, {NAMES[FAILED]: 1}, 0.0)

    def _stage(self, spec: StageSpec, rows: list[Row], alone: bool) -> list[Row]:
        """Run one stage on rows, buffer its columns, and return the rows (or child rows) that go on."""
        stage, kept = self.worker.stages[spec.name], list[Row]()
        self.loader.attach(spec, rows)
        size = 1 if alone else spec.batch_rows(self.worker.task.lane)
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            began = time.perf_counter()
            outcomes = self._alone(stage, chunk[0]) if alone else call(stage, chunk)
            tries = [self.attempts.get((spec.name, row.id), 0) for row in chunk]
            records = stored(part_schema(self.pipeline, spec.name), spec, chunk, outcomes, tries)
            verdict = verdicts_of(spec, self.worker.task.fits.get(spec.name, spec.rules), records)
            seconds = time.perf_counter() - began
            self.buffer.add(spec.name, records, seconds)
            self.buffer.flush()
            self.done.update((spec.name, row.id) for row in chunk)
            counts = np.bincount(verdict, minlength=4)
            named = {NAMES[code]: int(counts[code]) for code in range(4) if counts[code]}
            before = len(kept)
            for row, record, code in zip(chunk, records, verdict, strict=True):
                if code == KEPT:
                    kept.extend(onward(spec, row, record))
            failed = self._failed(chunk, outcomes, records)
            self.worker.tell(spec.name, {**named, ONWARD: len(kept) - before}, seconds, failed)
        return kept

    def _failed(
        self, rows: Sequence[Row], outcomes: Sequence[Outcome], records: Sequence[Mapping[str, Any]]
    ) -> list[FailedRow]:
        """The rows of a batch that failed, the first of them with the file that it came from."""
        failed: list[FailedRow] = []
        for row, outcome, record in zip(rows, outcomes, records, strict=True):
            if record.get("error") is not None:
                base = self.verdicts.parents.get(row.id, row.id)
                sources = [] if failed else self.loader.values.of(["sources"], [base])[base]["sources"]
                failed.append(failed_row(self.fragment, {**record, "sources": sources}, outcome))
        return failed

    def _alone(self, stage: Stage, row: Row) -> list[Outcome]:
        if self.blame.deaths.get((stage.name, row.id), 0) >= self.pipeline.settings.engine.row_crashes:
            return [died()]
        self.worker.journal.begin(self.journal_name, self.unit.key, stage.name, [row.id])
        return list(call(stage, [row]))
