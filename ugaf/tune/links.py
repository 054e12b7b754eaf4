"""`distinct` rules for tuning: which rows are linked, and how good each is, so that clusters can be made again.

Which row of a cluster is kept depends on the rows that earlier stages let through. So tuning keeps the links themselves
and an order of the linked rows from best to worst, and finds clusters and winners for each choice of thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ugaf.columns.values import FragmentValues
from ugaf.pipeline import distinct
from ugaf.pipeline.rules import Rule

if TYPE_CHECKING:
    from ugaf.columns.view import RunView


@dataclass(frozen=True)
class Links:
    """The links of one rule that count.

    rows: int64 (m,), the linked rows (places in their level), ascending. rank: int64 (m,), 0 for the best of all.
    a, b: int64 (n,), the ends of each link as places in `rows`.
    """

    rows: np.ndarray
    rank: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def losers(self, given: np.ndarray) -> np.ndarray:
        """Rows (places in the level) that the rule turns down if these are given: bool (rows of the level,)."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        here = given[self.rows]
        counts = here[self.a] & here[self.b]
        size = len(self.rows)
        edges = (np.ones(int(counts.sum()), dtype=np.int8), (self.a[counts], self.b[counts]))
        number, labels = connected_components(coo_array(edges, shape=(size, size)), directed=False)
        best = np.full(number, size)
        np.minimum.at(best, labels[here], self.rank[here])
        out = np.zeros(len(given), dtype=bool)
        out[self.rows[here & (self.rank > best[labels])]] = True
        return out


@dataclass
class GatheredLinks:
    """Collects the links of a rule, fragment after fragment."""

    rule: Rule
    parts: list[distinct.Links] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        """Measured rows: `id` and the rule's column."""
        self.parts.append(distinct.links_of(self.rule.bound, rows.column("id"), rows.column(self.rule.column)))

    def links(self, view: RunView, ids: Sequence[pa.Array]) -> Links:
        """`ids`: the level's rows, by fragment."""
        empty = distinct.packed([])
        a = np.concatenate([empty, *(part.a for part in self.parts)])
        b = np.concatenate([empty, *(part.b for part in self.parts)])
        linked = np.unique(np.concatenate([a, b]))
        places, keys = [], []
        start = 0
        values: list[list[np.ndarray]] = [[] for _ in self.rule.bound.best]
        for fragment, chunk in zip(view.fragments, ids, strict=True):
            names = distinct.packed(chunk.to_pylist())
            here = np.flatnonzero(np.isin(names, linked))
            if len(here):
                texts = [key.decode() for key in names[here].tolist()]
                found = FragmentValues(view.columns, fragment).of(self.rule.bound.columns, texts)
                for number, name in enumerate(self.rule.bound.best):
                    values[number].append(distinct.values_of(found, texts, name))
                places.append(here + start)
                keys.append(names[here])
            start += len(names)
        rows = np.concatenate([np.empty(0, dtype=np.int64), *places])
        known = np.concatenate([empty, *keys])
        worst_last = [np.concatenate([np.empty(0), *parts]) for parts in values]
        worst_last = [-np.where(np.isnan(column), -np.inf, column) for column in worst_last]
        rank = np.empty(len(rows), dtype=np.int64)
        rank[np.lexsort([known, *reversed(worst_last)])] = np.arange(len(rows))
        return _between(rows, rank, known, a, b)


def _between(rows: np.ndarray, rank: np.ndarray, known: np.ndarray, a: np.ndarray, b: np.ndarray) -> Links:
    """The links whose ends are both known, each pair once."""
    if not len(known):
        return Links(rows, rank, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    order = np.argsort(known)

    def place(keys: np.ndarray) -> np.ndarray:
        found = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
        return np.where(known[found] == keys, found, -1)

    ends = np.sort(np.stack([place(a), place(b)], axis=1), axis=1)
    ends = np.unique(ends[(ends[:, 0] >= 0) & (ends[:, 0] != ends[:, 1])], axis=0)
    return Links(rows, rank, ends[:, 0], ends[:, 1])
