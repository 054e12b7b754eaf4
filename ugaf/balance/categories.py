"""Which category a row belongs to.

A column of texts, booleans or whole numbers gives a row its value, null and the empty text the category `(none)`. A
list (of texts, or of structs through a dotted name: `objects.label`) gives it the one of its values that the fewest
rows have: so each row counts once, and a picture that shows a rare thing among common ones counts for the rare one (as
with the repeat factors of LVIS, arXiv 1908.03195). `source` is the kind of place that its photograph was read from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ugaf.balance.settings import MISSING, category_text
from ugaf.base.errors import ConfigError, nearest

SOURCE, SOURCES = "source", "sources"


_SCHEME = re.compile(r"^(?P<kind>[A-Za-z][A-Za-z0-9+.-]+)://")
_CONTAINER = re.compile(r"\.(?P<kind>tar|parquet|jsonl|csv)(?:\.(?:gz|bz2|zst))?#")


def source_kind(source: str) -> str:
    """What a photograph was read from, without its place: "sample", "file", "s3 tar", "file parquet", ..."""
    scheme, container = _SCHEME.search(source), _CONTAINER.search(source)
    return " ".join([scheme[1] if scheme else "file", *([container[1]] if container else [])])


def source_kinds(sources: pa.ListArray) -> pa.StringArray:
    """`source_kind` of the first source of each row; null where it has none."""
    lengths = pc.list_value_length(sources).fill_null(0).to_numpy(zero_copy_only=False)
    starts = pa.array(np.cumsum(lengths) - lengths, mask=lengths == 0)
    first = pc.list_flatten(sources).cast(pa.string()).take(starts)
    scheme, container = (
        pc.struct_field(pc.extract_regex(first, pattern.pattern), "kind") for pattern in (_SCHEME, _CONTAINER)
    )
    kinds = pc.binary_join_element_wise(scheme.fill_null("file"), container, " ", null_handling="skip")
    return pc.if_else(first.is_valid(), kinds, pa.scalar(None, pa.string()))


@dataclass(frozen=True)
class Category:
    """How a category is read: `column` of the run, and for a list or struct of structs the `field` of them."""

    by: str
    column: str
    field: str | None = None

    @classmethod
    def of(cls, by: str, columns: Iterable[str]) -> Category:
        """The category that `by` names among these columns. Raises ConfigError with the nearest one."""
        known = list(columns)
        column, _, inner = by.partition(".")
        if by == SOURCE and by not in known and SOURCES in known:
            return cls(by, SOURCES)
        if column not in known:
            raise ConfigError(f"export.balance.by: the run has no column {column!r}{nearest(column, [*known, SOURCE])}")
        return cls(by, column, inner or None)

    def check(self, type: pa.DataType) -> None:
        """Raises ConfigError if a column of this type holds no categories."""
        inner, is_list = type, pat.is_list(type) or pat.is_large_list(type)
        inner = inner.value_type if is_list else inner
        if self.field is not None and pat.is_struct(inner):
            names = [inner.field(number).name for number in range(inner.num_fields)]
            if self.field not in names:
                raise ConfigError(f"export.balance.by: {self.column} has no {self.field!r}{nearest(self.field, names)}")
            inner = inner.field(self.field).type
        elif self.field is not None:
            raise ConfigError(f"export.balance.by: {self.column} is {type}, so it has no {self.field!r}")
        if not (pat.is_string(inner) or pat.is_large_string(inner) or pat.is_boolean(inner) or pat.is_integer(inner)):
            more = "; name one of its fields, as in objects.label" if pat.is_struct(inner) else ""
            raise ConfigError(f"export.balance.by: {self.by} is {type}, which holds no categories{more}")

    def values(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The column as texts, or as lists of texts; not yet categories where null or empty."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if self.by == SOURCE and self.column == SOURCES:
            return source_kinds(array)
        is_list = pat.is_list(array.type) or pat.is_large_list(array.type)
        flat = pc.list_flatten(array) if is_list else array
        flat = pc.struct_field(flat, self.field) if self.field is not None else flat
        flat = flat.cast(pa.string())
        if not is_list:
            return flat
        ends = np.cumsum(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False))
        return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), flat)


def check(by: str, columns: Collection[str], type_of: Callable[[str], pa.DataType]) -> None:
    """Raises ConfigError unless `by` names categories that a run with these columns has."""
    category = Category.of(by, columns)
    if category.by != SOURCE or category.column != SOURCES:
        category.check(type_of(category.column))


class Census:
    """Counts rows by category, table by table; holds 4 bytes for each value, not the values.

    For lists, a row's category is only known when all rows are counted.
    """

    def __init__(self, category: Category) -> None:
        self.category = category
        self._codes: dict[str, int] = {}
        self._values: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, column: pa.ChunkedArray) -> None:
        """Count the rows of one table; `column` is the category's column."""
        self.category.check(column.type)
        values = self.category.values(column)
        is_list = pat.is_list(values.type)
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False) if is_list else np.ones(len(values), int)
        flat = (pc.list_flatten(values) if is_list else values).dictionary_encode(null_encoding="encode")
        codes = [self._codes.setdefault(category_text(v), len(self._codes)) for v in flat.dictionary.to_pylist()]
        found = np.array(codes, np.int32)[flat.indices.to_numpy(zero_copy_only=False)] if len(flat) else []
        self._values.append(np.asarray(found, np.int32))
        self._lengths.append(lengths.astype(np.int32))

    @property
    def names(self) -> list[str]:
        """Categories by code."""
        return list(self._codes)

    @cached_property
    def rows(self) -> np.ndarray:
        """The code of each row's category, int32 (rows,), in the order in which they were added."""
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        values = np.concatenate([np.empty(0, np.int32), *self._values])
        if np.all(lengths == 1):
            return values
        rank = np.array([self.order[name] for name in self.names], np.int64)
        missing = self._codes.setdefault(MISSING, len(self._codes))
        out = np.full(len(lengths), missing, np.int32)
        some = np.flatnonzero(lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[some])[:-1]]).astype(np.int64)
        by_rank = np.argsort(rank)
        out[some] = by_rank[np.minimum.reduceat(rank[values], starts)] if len(some) else out[some]
        return out

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The place of each value from the rarest (0), by rows that have it, then by name; no value comes last."""
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        values = np.concatenate([np.empty(0, np.int32), *self._values])
        owners = np.repeat(np.arange(len(lengths)), lengths)
        once = np.unique(owners * len(self._codes) + values) % max(len(self._codes), 1)
        have = np.bincount(once, minlength=len(self._codes))
        found = sorted(zip(self._codes, have.tolist(), strict=True), key=lambda entry: (entry[1], entry[0]))
        return {name: place for place, (name, _) in enumerate(sorted(found, key=lambda entry: entry[0] == MISSING))}

    def counts(self) -> dict[str, int]:
        """Rows by category, of those that have any."""
        codes = self.rows
        found = np.bincount(codes, minlength=len(self._codes))
        return {name: int(count) for name, count in zip(self._codes, found, strict=True) if count}

    def of(self, column: pa.ChunkedArray) -> list[str]:
        """Categories of the rows of a table, as this census decided them; a value that it has not met is by itself."""
        values: list[Any] = self.category.values(column).to_pylist()
        return [
            min(map(category_text, value), key=lambda name: (self.order.get(name, -1), name), default=MISSING)
            if isinstance(value, list)
            else category_text(value)
            for value in values
        ]
