"""Stages that compare the rows of the whole run, such as near-duplicates: what they see, and how they are run.

Such a stage has no workers that go from fragment to fragment. It gets a `RunRows`, reads light columns of any fragment
through it, has parts of its work done in parallel (`RunRows.map`), and gives the outcomes of the pending rows, fragment
by fragment. Rows that it measured before are there to be compared with, and are never measured again: a new
million costs its comparison with the old ten, not those among the ten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from ugaf.base.errors import UgafError
from ugaf.columns.parts import CHILDREN, Columns, children_table, part_schema
from ugaf.columns.verdicts import FAILED, Fits, judge_all
from ugaf.engine.outcomes import stored
from ugaf.pipeline.config import INGEST, StageSpec
from ugaf.stage import Row, WholeRunStage

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Mapper = Callable[["StoredRows", Callable[["StoredRows", Any], Any], Iterable[Any]], Iterator[Any]]
"""(run, function, items) -> function(run, item) of each, in order."""
Notice = Callable[[str, Mapping[str, int], float], object]
"""(stage, rows by verdict, seconds)."""


@dataclass(frozen=True)
class _Fragment:
    """Which rows of a fragment the stage sees. rows: for each stage that wrote what it reads, which rows of that
    stage's columns (sorted by id) are among them: bool (n,). pending: bool (m,) of the m rows it sees, sorted by id.
    again: those of the pending ones that failed before."""

    rows: Mapping[str, np.ndarray]
    pending: np.ndarray
    again: frozenset[str]


@dataclass
class StoredRows:
    """`ugaf.stage.RunRows` of what lies in a run's folder.

    It can be pickled: `map` takes it along to other processes.
    """

    columns: Columns
    spec: StageSpec
    found: Mapping[str, _Fragment]
    mapper: Mapper | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "mapper": None}

    @property
    def fragments(self) -> tuple[str, ...]:
        """The fragments that have such rows, in order."""
        return tuple(self.found)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Fragment -> rows in all, rows pending."""
        return {name: (len(one.pending), int(one.pending.sum())) for name, one in self.found.items()}

    def has(self, column: str) -> bool:
        """Whether the stage reads this column, and the pipeline has it (for one of its `optional_reads`)."""
        asked = (*self.spec.reads, *self.spec.optional_reads)
        return column in asked and column in self.columns.pipeline.providers

    def table(self, fragment: str, columns: Sequence[str]) -> pa.Table:
        """`id` (string), `pending` (bool) and these columns of a fragment's rows, sorted by id."""
        seen = self.found[fragment]
        out: dict[str, pa.ChunkedArray | pa.Array] = {}
        by_stage: dict[str, list[str]] = {}
        for column in columns:
            by_stage.setdefault(self.columns.pipeline.providers[column], []).append(column)
        for stage, names in by_stage.items() or [(next(iter(seen.rows)), [])]:
            table = _light(self.columns, stage, fragment, names).filter(pa.array(seen.rows[stage]))
            out.setdefault("id", table.column("id"))
            out.update({name: table.column(name) for name in names})
        return pa.table({"id": out.pop("id"), "pending": pa.array(seen.pending), **out})

    def map(self, function: Callable[[StoredRows, Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """function(run, item) of each item, in order: side by side on the CPUs of Ray, or here one after the other.

        function: of a module's top level (it travels by name), or such a one with arguments by functools.partial.
        """
        if self.mapper is None:
            return (function(self, item) for item in items)
        return self.mapper(self, function, items)


def rows_of(
    columns: Columns,
    spec: StageSpec,
    fragments: Sequence[str],
    skips: Mapping[str, set[str]],
    fits: Fits,
    retry_failed: bool,
) -> StoredRows:
    """What the stage is given now, and what it measured before."""
    optional = [column for column in spec.optional_reads if column in columns.pipeline.providers]
    providers = {columns.pipeline.providers[column] for column in (*spec.reads, *optional)}
    found: dict[str, _Fragment] = {}
    for verdicts in judge_all(columns, fragments, until=spec.name, skips=skips, fits=fits):
        given = verdicts[spec.name]
        again = set(given.where(FAILED)) if retry_failed else set[str]()
        pending = {key for key, place in zip(given.ids, given.index, strict=True) if place < 0} | again
        errors = given.table.column("error").to_pylist()
        keys = given.table.column("id").to_pylist()
        skipped = skips.get(verdicts.fragment, set())
        before = {key for key, error in zip(keys, errors, strict=True) if error is None} - pending - skipped
        ids = sorted(pending | before)
        if not ids:
            continue
        seen = frozenset(ids)
        written = {stage: _light(columns, stage, verdicts.fragment, []).column("id") for stage in sorted(providers)}
        rows = {name: np.array([key in seen for key in there.to_pylist()], bool) for name, there in written.items()}
        flags = np.array([key in pending for key in ids], dtype=bool)
        found[verdicts.fragment] = _Fragment(rows, flags, frozenset(again))
    return StoredRows(columns, spec, found)


def run_stage(run: StoredRows, seed: int, notice: Notice | None = None) -> None:
    """Have the stage do all that is pending, and store it fragment by fragment.

    Raises UgafError if the stage leaves a fragment out, or gives one that was not asked for.
    """
    stage = run.spec.build(seed)
    assert isinstance(stage, WholeRunStage)
    stage.setup()
    schema = part_schema(run.columns.pipeline, run.spec.name)
    due = {fragment for fragment, (_, pending) in run.counts.items() if pending}
    began = time.perf_counter()
    for fragment, outcomes in stage.across(run):
        if fragment not in due:
            raise UgafError(f"{run.spec.name}: gave outcomes for fragment {fragment!r}, which is not pending")
        due.remove(fragment)
        table = run.table(fragment, [])
        rows = [Row(key, {}) for key in table.filter(table.column("pending")).column("id").to_pylist()]
        if len(outcomes) != len(rows):
            raise UgafError(f"{run.spec.name}: gave {len(outcomes)} outcomes for {len(rows)} rows of {fragment}")
        again = run.found[fragment].again
        records = stored(schema, run.spec, rows, outcomes, [int(row.id in again) for row in rows])
        seconds = time.perf_counter() - began
        run.columns.write(run.spec.name, fragment, records, seconds)
        if notice is not None:
            failed = sum(record.get("error") is not None for record in records)
            counts = {"pending": len(records) - failed, "failed": failed}
            notice(run.spec.name, {name: count for name, count in counts.items() if count}, seconds)
        began = time.perf_counter()
    if due:
        raise UgafError(f"{run.spec.name}: gave no outcomes for {len(due)} fragments, such as {min(due)}")


def _light(columns: Columns, stage: str, fragment: str, names: Sequence[str]) -> pa.Table:
    """`id` and some columns of the rows of a stage, or of those that it fanned out to, sorted by id."""
    if stage != INGEST and columns.pipeline.stage(stage).cls.fans_out:
        table, _ = columns.light(stage, fragment, [CHILDREN])
        return children_table(table, columns.pipeline.stage(stage)).select(["id", *names])
    return columns.light(stage, fragment, names)[0].select(["id", *names])
