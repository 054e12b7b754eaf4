"""A worker: runs a chain of stages over one fragment, and commits their new columns.

It asks `verdicts` what is pending, loads the columns that those rows need, and takes them through the chain a few
photographs at a time, so that neighbouring stages share a photograph's decoded pixels. Rows flow on while they are
kept. Columns are committed when they reach a size, and at the fragment's end.

A row may kill the process (a crash in native code, memory). Before each batch the worker tells a `Journal` outside
its process what it is about to touch. A fragment that comes back after a death has that batch's rows taken one by one;
a row that then dies alone, more than once, is recorded as failed and left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ugaf import ingest
from ugaf.base import faults, location
from ugaf.base.errors import StopRun, UgafError
from ugaf.columns.buffer import Buffer
from ugaf.columns.code_digest import code_digest
from ugaf.columns.lease import Fence
from ugaf.columns.parts import REFS, Columns, part_schema
from ugaf.columns.tombstones import buried_in
from ugaf.columns.verdicts import FAILED, KEPT, NAMES, REJECTED, Fits, Given, judge, load_sources
from ugaf.engine.alike import AlikeError, FailedRow
from ugaf.engine.loader import Entry, Loader, by_base
from ugaf.engine.monitor import MERGED, ONWARD, Blame, Journal
from ugaf.engine.outcomes import call, died, failed_row, onward, stored, verdicts_of
from ugaf.engine.turns import Turns
from ugaf.models.servers import Servers
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec
from ugaf.stage import Failure, Outcome, Row, Stage
from ugaf.storage import Storage

PHOTOGRAPHS = 32
"""Most photographs in hand at once where stages are fused."""
PIXELS = 32_000_000
"""Most pixels of photographs in hand at once; a quarter where edits, each with images of its own, are in hand too."""
JOURNALLED = 128
"""Photographs that one entry of the journal covers: after a death, at most so many are taken one by one."""
LOADING = "loading"
"""Stands in the journal for a stage while a photograph's columns are read."""
MORE_DEATHS = 3
"""Deaths over `row_crashes` after which the run stops, since no row can be given up for them."""


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know to run chains of stages; travels to it once.

    chains: stages (by name; "ingest" may be the first) that run together, one chain after the other in the fragment.
    retry_failed: rows that failed before are done again.
    lane: the lane of the (only) stage that this worker runs, see `Stage.lanes`.
    servers: where the model servers are that its stages name.
    secrets: what opens the URLs whose public faces the pipeline holds; in memory only. fence: of the driver's lease.
    """

    url: str
    pipeline: Pipeline
    chains: tuple[tuple[str, ...], ...]
    fits: Fits
    retry_failed: bool = False
    lane: str | None = None
    servers: Servers = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=location.secrets, repr=False)
    fence: Fence | None = None


class StageWorker:
    """Sets its stages up once, then runs fragment after fragment; several at once if it is called from threads."""

    def __init__(self, task: Task, journal: Journal) -> None:
        one_thread()
        location.remember(task.secrets)
        faults.set_patience(task.pipeline.settings.engine.patience_s, journal.tell)
        self.task = task
        self.journal = journal
        self.columns = Columns(Storage(task.url), task.pipeline, task.fence)
        self.turns = Turns()
        self.stages: dict[str, Stage] = {}
        for name in (name for chain in task.chains for name in chain if name != INGEST):
            spec = task.pipeline.stage(name)
            code_digest(spec)  # Now, since the files may be changed while this process goes on with what it loaded.
            servers = {key: task.servers[key] for key in spec.demand(task.lane).servers}
            self.stages[name] = spec.build(task.pipeline.settings.seed, servers, task.lane)
            self.stages[name].setup()

    def run(self, fragment: str, skip: Sequence[str] = ()) -> None:
        """Do all that is pending in this fragment for the worker's chains."""
        for chain in self.task.chains:
            name = _journal_name(chain, self.task.lane)
            blame = self.journal.enter(name, fragment)
            self._stop_if_hopeless(fragment, blame)
            if chain == (INGEST,):
                _Ingest(self, fragment, frozenset(skip), blame).run()
            else:
                done: set[tuple[str, str]] = set()
                while _ChainRun(self, chain, fragment, frozenset(skip), blame, done).run():
                    pass
            self.journal.leave(name, fragment)

    def tell(self, stage: str, counts: Mapping[str, int], seconds: float, failed: Sequence[FailedRow] = ()) -> None:
        """Count rows that are done. Raises AlikeError where those that failed, in all workers, stop the run."""
        alike = self.journal.progress(stage, counts, seconds, failed)
        if alike is not None:
            raise AlikeError(alike)

    def _stop_if_hopeless(self, fragment: str, blame: Blame) -> None:
        """A row that kills is given up and recorded; what kills outside of a row's work would restart for ever."""
        limit = self.task.pipeline.settings.engine.row_crashes + MORE_DEATHS
        for (stage, key), deaths in blame.deaths.items():
            if deaths > limit:
                last = f"after row {key} in {stage}" if key else "before any row was in hand"
                raise UgafError(
                    f"fragment {fragment}: {deaths} processes died in it outside of a row's work, {last}: while "
                    "columns were read or written (memory: try a smaller engine.flush_mb, fewer workers)"
                )


class _Ingest:
    """The first chain: reads a fragment's sources and stores the images."""

    def __init__(self, worker: StageWorker, fragment: str, skip: frozenset[str], blame: Blame) -> None:
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


class _ChainRun:
    """One chain on one fragment. `done`: (stage, row id) of what this worker has done in it; grows."""

    def __init__(
        self,
        worker: StageWorker,
        chain: tuple[str, ...],
        fragment: str,
        skip: frozenset[str],
        blame: Blame,
        done: set[tuple[str, str]],
    ) -> None:
        self.worker = worker
        self.pipeline = worker.task.pipeline
        self.columns = worker.columns
        self.chain = chain
        self.journal_name = _journal_name(chain, worker.task.lane)
        self.fragment = fragment
        self.blame = blame
        self.specs = [self.pipeline.stage(name) for name in chain]
        self.verdicts = judge(self.columns, fragment, until=chain[-1], skip=skip, fits=worker.task.fits)
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
                self.worker.journal.begin(self.journal_name, self.fragment, "", ids)
                parts = -(-len(ids) // self._photographs(some))
                for batch in by_base(some, -(-len(ids) // parts)):
                    self._batch(batch, alone=False)
        self.buffer.flush(force=True)

    def _one_by_one(self, entries: Sequence[Entry]) -> None:
        if entries:
            # While it waits for its turn, too, a death in another fragment counts for none of its rows.
            ids = sorted({entry.base for entry in entries})
            self.worker.journal.begin(self.journal_name, self.fragment, "", ids)
        for batch in by_base(entries, 1):
            with self.worker.turns.alone():
                self._batch(batch, alone=True)
                self.buffer.flush(force=True)
                # Until its next turn this thread holds nothing: a death in another fragment is not this row's.
                self.worker.journal.begin(self.journal_name, self.fragment, "", [batch[0].base])

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
            numbers = np.flatnonzero((given.index < 0) | self._again(given.code))
            others = self._of_other_lanes(spec, [given.ids[number] for number in numbers])
            for number in numbers:
                key = given.ids[number]
                if (spec.name, key) in self.done or key in others:
                    continue
                if given.index[number] >= 0:
                    self.attempts[spec.name, key] = 1
                yield Entry(key, self.verdicts.parents.get(key, key), position)

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
            self.worker.journal.begin(self.journal_name, self.fragment, LOADING, [entries[0].base])
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
        self.worker.journal.begin(self.journal_name, self.fragment, stage.name, [row.id])
        return list(call(stage, [row]))


def _journal_name(chain: Sequence[str], lane: str | None) -> str:
    return "+".join(chain) + (f"[{lane}]" if lane else "")


def one_thread() -> None:
    """A worker is one of as many as there are cores: libraries inside it must not start threads of their own."""
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(2)
