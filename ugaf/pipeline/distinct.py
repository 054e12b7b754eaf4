"""The keep rule `distinct`: of rows that a column links with each other, keep the best one of each cluster.

A stage that compares rows (near-duplicates) stores links, a list of `{id, numbers ...}` in each row, and decides
nothing. The rule does, when the run is read, so that another distance, or another idea of the best, computes no column
again::

    keep:
      neighbours:
        distinct: {where: {similarity: {min: 0.95}}, best: [short_side, -noise]}

A link counts where its numbers lie within the bounds of `where` (a null breaks none) and both of its rows were given to
the stage: a duplicate comes back by itself when a stage before turns its better copy down. Rows that are linked,
directly or over others, are a cluster (union-find). Its best row has the largest value of the first column of `best`
(the smallest, with a minus sign), then of the second, and so on; a missing value is the worst, and the smallest id
decides what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat
from pydantic import Field, field_validator, model_validator

from ugaf.base.errors import ConfigError, nearest
from ugaf.stage import Settings


class Bounds(Settings):
    """Bounds, both inclusive, on a number of a link."""

    min: float | None = Field(None, description="smallest value of a link that counts")
    max: float | None = Field(None, description="largest value of a link that counts")

    @model_validator(mode="after")
    def _not_empty(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class Distinct(Settings):
    """What a pipeline writes for the rule."""

    where: dict[str, Bounds] = Field(
        {}, description="bounds on the links' numbers; a link outside of them does not count"
    )
    best: list[str] = Field(
        ["width"],
        min_length=1,
        description="columns that choose the kept row of a cluster; -column: the smallest",
    )

    @field_validator("where", mode="before")
    @classmethod
    def _without_nulls(cls, where: Any) -> Any:
        """A null takes a bound of the stage's default away, and stands in the pipeline for that."""
        return {name: of for name, of in where.items() if of is not None} if isinstance(where, Mapping) else where

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that `best` names."""
        return tuple(name.removeprefix("-") for name in self.best)

    def counts(self, links: pa.StructArray) -> np.ndarray:
        """Which links (n,) lie within the bounds: bool (n,)."""
        within = np.ones(len(links), dtype=bool)
        for name, bounds in self.where.items():
            values = links.field(name)
            missing = np.asarray(values.is_null())
            numbers = values.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
            inside = np.ones(len(links), dtype=bool)
            if bounds.min is not None:
                inside &= numbers >= bounds.min
            if bounds.max is not None:
                inside &= numbers <= bounds.max
            within &= inside | missing
        return within


def check_links(distinct: Distinct, type: pa.DataType, where: str) -> None:
    """Raises ConfigError where the column holds no links, or the rule names a number that they do not have."""
    if not (pat.is_list(type) and pat.is_struct(type.value_type) and type.value_type.get_field_index("id") >= 0):
        raise ConfigError(f"{where}: the column is {type}; the rule is for lists of links {{id, ...}}")
    fields = [type.value_type.field(number) for number in range(type.value_type.num_fields)]
    numbers = [field.name for field in fields if pat.is_integer(field.type) or pat.is_floating(field.type)]
    for name in distinct.where:
        if name not in numbers:
            raise ConfigError(f"{where}.where: links have no number {name!r}{nearest(name, numbers)}")


@dataclass(frozen=True)
class Losers:
    """The rows that a fitted rule turns down, sorted by id, each with the row that is kept in its place.

    ids, winners: (n,) of fixed-length bytes, see `packed`.
    """

    ids: np.ndarray
    winners: np.ndarray

    def mask(self, ids: Sequence[str]) -> np.ndarray:
        """Which of these rows are turned down: bool (n,)."""
        return is_in(packed(ids), self.ids)

    def winner(self, key: str) -> str:
        """The row that is kept in the place of this one."""
        place = int(np.searchsorted(self.ids, packed([key])[0]))
        return _text(self.winners[place])


@dataclass(frozen=True)
class Links:
    """Links that count, between rows by packed id: a (n,) has b (n,) among its neighbours."""

    a: np.ndarray
    b: np.ndarray


def links_of(distinct: Distinct, ids: pa.ChunkedArray, column: pa.ChunkedArray) -> Links:
    """The links of some rows that count."""
    lists, keys = _one(column), _one(ids)
    flat = pc.list_flatten(lists)
    chosen = np.flatnonzero(distinct.counts(flat))
    owners = keys.take(pc.list_parent_indices(lists)).take(pa.array(chosen))
    others = flat.field("id").take(pa.array(chosen))
    return Links(packed(owners.to_pylist()), packed(others.to_pylist()))


def clusters(links: Sequence[Links], given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are in a cluster of two or more, and the number of each one's cluster.

    Args:
        given: packed ids (n,) of all rows, sorted; links to others do not count.

    Returns:
        (members, labels): packed ids (m,), sorted, and int32 (m,).
    """
    a = np.concatenate([given[:0], *(part.a for part in links)])
    b = np.concatenate([given[:0], *(part.b for part in links)])
    there = (a != b) & is_in(a, given) & is_in(b, given)
    if not there.any():
        return given[:0], np.empty(0, np.int32)
    from scipy.sparse import coo_array  # slow to import, and most commands look for clusters
    from scipy.sparse.csgraph import connected_components

    a, b = a[there], b[there]
    members = np.unique(np.concatenate([a, b]))
    places = np.searchsorted(members, a), np.searchsorted(members, b)
    graph = coo_array((np.ones(len(a), dtype=np.int8), places), shape=(len(members), len(members)))
    _, labels = connected_components(graph, directed=False)
    return members, labels


def losers_of(members: np.ndarray, labels: np.ndarray, best: Sequence[np.ndarray]) -> Losers:
    """All members of clusters but the best.

    best: for each column of the rule, float64 (m,) values of which larger is better; NaN is the worst.
    """
    worst_last = [-np.where(np.isnan(values), -np.inf, values) for values in best]
    # The last key counts most: cluster, then the columns in their order, then the id.
    order = np.lexsort([members, *reversed(worst_last), labels])
    first = np.ones(len(order), dtype=bool)
    first[1:] = labels[order][1:] != labels[order][:-1]
    winners = np.empty_like(members)
    winners[order] = members[order][np.flatnonzero(first)][np.cumsum(first) - 1] if len(order) else members
    lost = members != winners
    return Losers(members[lost], winners[lost])


def packed(ids: Collection[str]) -> np.ndarray:
    """Ids as bytes of one length (n,), 32 bytes each, in the same order as the texts."""
    return np.array([key.encode() for key in ids], dtype="S32")


def _text(key: np.bytes_) -> str:
    return bytes(key).decode()


def is_in(keys: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Which of the keys (n,) are among the given ones, which are sorted and may be many more: bool (n,)."""
    if not len(given):
        return np.zeros(len(keys), dtype=bool)
    return given[np.minimum(np.searchsorted(given, keys), len(given) - 1)] == keys


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def values_of(rows: Mapping[str, Mapping[str, object]], ids: Sequence[str], name: str) -> np.ndarray:
    """float64 (n,) of one entry of `best` for these rows: larger is better, NaN where there is no value."""
    sign = -1.0 if name.startswith("-") else 1.0
    column = name.removeprefix("-")
    found = [rows[key].get(column) for key in ids]
    return np.array([np.nan if value is None else sign * float(value) for value in found], dtype=np.float64)  # type: ignore[arg-type]
