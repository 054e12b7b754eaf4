"""Rows as stages see them: built from the stored columns that a chain's stages read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ugaf.columns.parts import Columns, heavy_columns, part_schema
from ugaf.columns.values import FragmentValues
from ugaf.columns.verdicts import FragmentVerdicts
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec
from ugaf.stage import Row


@dataclass
class Entry:
    """A row on its way through a chain: the stage it enters at, and the row once it is loaded."""

    id: str
    base: str
    start: int
    row: Row | None = None


def by_base(entries: Sequence[Entry], photographs: int) -> Iterator[list[Entry]]:
    """Batches of at most so many photographs with all their rows; entries are sorted by photograph."""
    batch: list[Entry] = []
    bases: set[str] = set()
    for entry in entries:
        if entry.base not in bases and len(bases) == photographs:
            yield batch
            batch, bases = [], set()
        batch.append(entry)
        bases.add(entry.base)
    if batch:
        yield batch


class _Peer(Row):
    """A neighbour in the fragment: its image-sized columns are read only if a stage asks, and let go with the batch."""

    __slots__ = ("_heavy", "_reader")

    def __init__(self, id: str, values: dict[str, Any], reader: FragmentValues, heavy: Sequence[str]) -> None:
        super().__init__(id, values)
        self._reader = reader
        self._heavy = frozenset(heavy)

    def __getitem__(self, column: str) -> Any:
        self._read(column)
        return super().__getitem__(column)

    def _decoded(self, column: str, side: int | None) -> np.ndarray:
        self._read(column)
        return super()._decoded(column, side)

    def _read(self, column: str) -> None:
        if column in self._heavy and column not in self.values:
            self.values.update(self._reader.of([column], [self.id])[self.id])

    def forget(self) -> None:
        self._memo.clear()
        for column in self._heavy:
            self.values.pop(column, None)


class Loader:
    """Builds rows with the columns that the chain's stages need, from the store."""

    def __init__(self, columns: Columns, verdicts: FragmentVerdicts, specs: Sequence[StageSpec]) -> None:
        self.pipeline = columns.pipeline
        self.verdicts = verdicts
        self.specs = specs
        self.order = [INGEST, *(spec.name for spec in self.pipeline.stages)]
        self.values = FragmentValues(columns, verdicts.fragment)
        self.bases: dict[str, Row] = {}
        self.peers: list[_Peer] | None = None
        self.heavy = {
            column
            for column, stage in self.pipeline.providers.items()
            if column in heavy_columns(part_schema(self.pipeline, stage))
        }

    def load(self, entries: Sequence[Entry]) -> None:
        """Give every entry its row; those of one photograph share its parent row."""
        fan_out = self.pipeline.fan_out
        for start in sorted({entry.start for entry in entries}):
            group = [entry for entry in entries if entry.start == start]
            first = self.order.index(self.specs[start].name)
            needed = {column for spec in self.specs[start:] for column in _reads(spec, self.pipeline)}
            before = [c for c in needed if self.order.index(self.pipeline.providers[c]) < first]
            is_child = fan_out is not None and first > fan_out + 1
            base_columns = [c for c in before if not is_child or self._is_base(c)]
            bases = sorted({entry.base for entry in group})
            base_values = self.values.of(base_columns, bases)
            for key in bases:
                if key not in self.bases:
                    self.bases[key] = Row(key, {})
                self.bases[key].values.update(base_values[key])
            if not is_child:
                for entry in group:
                    entry.row = self.bases[entry.id]
                continue
            own = self.values.of([c for c in before if not self._is_base(c)], [entry.id for entry in group])
            for entry in group:
                entry.row = Row(entry.id, own[entry.id], self.bases[entry.base])

    def attach(self, spec: StageSpec, rows: Sequence[Row]) -> None:
        """Peers and referenced rows, for the stages that ask for them."""
        if spec.cls.peers:
            if self.peers is None:
                ids = self.verdicts[spec.name].ids
                light = [column for column in spec.cls.peers if column not in self.heavy]
                values = self.values.of(light, ids)
                heavy = [column for column in spec.cls.peers if column in self.heavy]
                self.peers = [_Peer(key, values[key], self.values, heavy) for key in ids]
            for row in rows:
                row.peers = self.peers
        if not spec.cls.refs:
            return
        # All that the fragment holds: a photograph that another fragment speaks for can still be looked at here.
        known = set(self.verdicts[INGEST].table.column("id").to_pylist())
        found: dict[str, dict[str, Row]] = {}
        for column, wanted in spec.cls.refs.items():
            values = self.values.of(wanted, sorted(known.intersection(row[column] for row in rows)))
            found[column] = {key: Row(key, values[key]) for key in values}
        for row in rows:
            row.refs = {column: found[column].get(row[column]) for column in spec.cls.refs}

    def forget(self) -> None:
        """Let go of a batch's images."""
        self.bases.clear()
        for peer in self.peers or ():
            peer.forget()

    def _is_base(self, column: str) -> bool:
        return self.pipeline.is_base_column(column)


def _reads(spec: StageSpec, pipeline: Pipeline) -> set[str]:
    optional = {column for column in spec.optional_reads if column in pipeline.providers}
    return {column for column in {*spec.reads, *optional, *spec.cls.refs} if column != "id"}
