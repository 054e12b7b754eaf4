"""A source: one thing that becomes one row, and what is needed to read it again (file, tar member, table row, pair)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import pyarrow as pa

from ugaf.base.failure import RowError
from ugaf.base.location import scrub

SourceKind = Literal["file", "tar", "parquet", "pair", "record", "sample"]


class SourceError(RowError):
    """A source that cannot be read; the message says why, without the source's name."""


class RecordError(SourceError):
    """A line or table row that does not describe an image or a pair."""


@dataclass(frozen=True, slots=True)
class SourceRef:
    """One source, as plain strings so that a fragment's list of them is a small table.

    Attributes:
        uri: the file: an absolute local path, or a URL without credentials and options.
        member: what in the file: "" for all of it, a tar member's name, a table row or a line (counted from 1).
        version: changes when the file does (size and time; for a line of a list, a hash of the line).
        kind: which reader it needs.
        locator: JSON for that reader (offsets, row groups, columns, how to open the file system); {"error": ...} for
            a source whose listing already showed that it cannot be read.
    """

    uri: str
    member: str
    version: str
    kind: str
    locator: str

    @property
    def key(self) -> str:
        """`uri`, or `uri#member`: the source's name for people."""
        return f"{self.uri}#{self.member}" if self.member else self.uri

    def where(self) -> dict[str, Any]:
        """The locator, parsed."""
        return json.loads(self.locator)

    @classmethod
    def of(cls, uri: str, member: str, version: str, kind: SourceKind, locator: Mapping[str, Any]) -> SourceRef:
        # ASCII: escapes carry even names that are not UTF-8.
        text = json.dumps(locator, separators=(",", ":"), default=str)
        return cls(_storable(uri), _storable(member), version, kind, text)

    @classmethod
    def broken(cls, uri: str, member: str, version: str, kind: SourceKind, error: Exception | str) -> SourceRef:
        """A source known to be unreadable: reading it gives a failure with this error."""
        name = type(error).__name__ if isinstance(error, Exception) else SourceError.__name__
        return cls.of(uri, member, version, kind, {"error": {"type": name, "message": scrub(str(error))}})

    def of_input(self, path: str) -> SourceRef:
        """The same, with the input that named it in its locator, by which its settings are found again."""
        return replace(self, locator=f'{self.locator[:-1]},"input":{json.dumps(path)}}}')

    @staticmethod
    def to_table(refs: Sequence[SourceRef]) -> pa.Table:
        """One row a source, in order; columns as the attributes, all strings."""
        columns = {name: [getattr(ref, name) for ref in refs] for name in SOURCE_SCHEMA.names}
        return pa.table(columns, schema=SOURCE_SCHEMA)

    @staticmethod
    def from_table(table: pa.Table) -> list[SourceRef]:
        """The inverse of `to_table`."""
        return [SourceRef(**row) for row in table.select(SOURCE_SCHEMA.names).to_pylist()]


SOURCE_SCHEMA = pa.schema([pa.field(field.name, pa.string(), nullable=False) for field in fields(SourceRef)])


def _storable(name: str) -> str:
    """File names may hold bytes that are not UTF-8; tables may not. The locator keeps the exact name."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
