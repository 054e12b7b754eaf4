"""Taking rows out of a run's stored columns, so that their bytes are in no file any more.

Every part of every stage is looked at, those of settings that no longer hold too. A part that names a row which is to
go is written anew without it and takes the place of the old one in one step: whoever is killed leaves parts of both
kinds, and doing the same again finishes the work. What other rows say of one that goes (links to its neighbours) goes
with it. Of a row of ingest the place stays, with a hash for an id, since the fragment's sources have to be accounted
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pat

from ugaf.columns.parts import CHILDREN, REFS, SOURCES, heavy_columns
from ugaf.columns.tombstones import Tombstone, Tombstones, buried_id, buried_uri
from ugaf.ingest import SourceRef
from ugaf.pipeline.config import INGEST
from ugaf.storage import Storage
from ugaf.storage.store import LIGHT, light_columns, parquet_bytes


@dataclass(frozen=True)
class Gone:
    """What is to go. ids: of photographs (or pairs). edits: of edits. stones: those of the photographs, by id."""

    ids: frozenset[str]
    edits: frozenset[str]
    stones: Mapping[str, Tombstone]

    @classmethod
    def of(cls, ids: Sequence[str], edits: Sequence[str], tombstones: Tombstones) -> Gone:
        return cls(frozenset(ids), frozenset(edits), {id: tombstones.by_id[buried_id(id)] for id in ids})

    @cached_property
    def all(self) -> frozenset[str]:
        return self.ids | self.edits

    @cached_property
    def values(self) -> pa.Array:
        return pa.array(sorted(self.all), pa.string())


def parts(storage: Storage) -> Iterator[tuple[str, str]]:
    """(fragment, path) of every part of every stage, whatever settings it was made with."""
    for folder in storage.list():
        if "@" in folder:
            for name in storage.files(folder):
                fragment, _, part = name.partition("/")
                if part.endswith(".parquet"):
                    yield fragment, f"{folder}/{name}"


def edits_of(storage: Storage, ids: frozenset[str], fragments: frozenset[str]) -> set[str]:
    """Edits of these photographs, and edits of others that name one of them (a donor of pixels), of these fragments."""
    found: set[str] = set()
    for fragment, path in parts(storage):
        if fragment in fragments:
            table = storage.read_with(path, _children)
            for row in table.to_pylist() if table is not None else ():
                of_gone = row["id"] in ids
                found.update(child["id"] for child in row[CHILDREN] or () if of_gone or _names(child, ids))
    return found


def erase(storage: Storage, gone: Gone, fragments: frozenset[str]) -> int:
    """Write every part anew that names one of them; returns how many. fragments: those that hold the photographs.

    In other fragments only links can name them, so of their parts those without any are not read.
    """
    written = 0
    for fragment, path in parts(storage):
        if fragment in fragments or storage.read_with(path, _has_links):
            written += _erase_in(storage, path, gone)
    return written


def bury_sources(storage: Storage, fragment: str, places: Mapping[int, str]) -> None:
    """Take the names of these sources (position to the photograph's id) out of a fragment's list."""
    path = f"{SOURCES}/{fragment}.parquet"
    table = storage.read_with(path, pq.read_table)
    refs = SourceRef.from_table(table)
    for place, id in places.items():
        refs[place] = SourceRef.broken(buried_uri(buried_id(id)), "", "", "file", "withdrawn")
    buried = SourceRef.to_table(refs).replace_schema_metadata(table.schema.metadata)
    if not buried.equals(table.select(buried.column_names)):
        storage.write(path, parquet_bytes(buried))


def _erase_in(storage: Storage, path: str, gone: Gone) -> bool:
    def read(source: pa.NativeFile) -> pa.Table | None:
        file = pq.ParquetFile(source)
        heavy = heavy_columns(file.schema_arrow)
        light = light_columns(file, [name for name in file.schema_arrow.names if name not in heavy])
        return file.read() if any(_hits(column, gone.values) for column in light.columns) else None

    table = storage.read_with(path, read)
    if table is None:
        return False
    # The copy of the light columns in the footer is made anew, or the old one would be kept as it was.
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != LIGHT.encode()}
    heavy = heavy_columns(table.schema)
    ours = pc.is_in(table.column("id"), gone.values)
    kept = table.filter(pc.invert(ours))
    for number, name in enumerate(kept.column_names):
        if name not in heavy and _hits(kept.column(name), gone.values):
            clean = [_clean(value, gone.all) for value in kept.column(name).to_pylist()]
            kept = kept.set_column(number, kept.schema.field(name), pa.array(clean, kept.schema.field(name).type))
    if path.startswith(f"{INGEST}@"):
        kept = pa.concat_tables([kept, _buried(table.filter(ours), gone)])
        kept = kept.take(pc.sort_indices(kept.column("id")))
    if kept.num_rows:
        storage.write(path, parquet_bytes(kept.replace_schema_metadata(metadata), heavy))
    else:
        storage.remove(path)
    return True


def _buried(rows: pa.Table, gone: Gone) -> pa.Table:
    """Rows of ingest, with nothing left but which sources they stand for."""
    bare = rows.select(["id", REFS]).to_pylist()
    stones = [(gone.stones[row["id"]], row[REFS]) for row in bare]
    new = [{"id": stone.id, REFS: places, SOURCES: [], "error": stone.error} for stone, places in stones]
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in rows.column_names} for row in new],
        schema=rows.schema.remove_metadata(),
    ).replace_schema_metadata(rows.schema.metadata)


def _children(source: pa.NativeFile) -> pa.Table | None:
    file = pq.ParquetFile(source)
    return light_columns(file, ["id", CHILDREN]) if CHILDREN in file.schema_arrow.names else None


def _has_links(source: pa.NativeFile) -> bool:
    """Whether the part has lists of structs with an id: links to other rows."""
    fields = pq.read_schema(source)
    structs = [field.type.value_type for field in fields if pat.is_list(field.type) and field.name != CHILDREN]
    return any(pat.is_struct(type) and type.get_field_index("id") >= 0 for type in structs)


def _hits(column: pa.Array | pa.ChunkedArray, values: pa.Array) -> bool:
    """Whether one of the values stands anywhere in the column, however deep."""
    if pat.is_string(column.type):
        return bool(pc.any(pc.is_in(column, values)).as_py())
    if pat.is_list(column.type):
        return _hits(pc.list_flatten(column), values)
    if pat.is_struct(column.type):
        return any(_hits(pc.struct_field(column, number), values) for number in range(column.type.num_fields))
    return False


def _names(row: Mapping[str, Any], ids: frozenset[str]) -> bool:
    return any(isinstance(value, str) and value in ids for value in row.values())


def _clean(value: Any, gone: frozenset[str]) -> Any:
    """The value without what names a row that goes: links and child rows whole, a bare id as null."""
    if isinstance(value, list):
        return [_clean(item, gone) for item in value if not (isinstance(item, dict) and _names(item, gone))]
    if isinstance(value, dict):
        return {key: _clean(item, gone) for key, item in value.items()}
    return None if isinstance(value, str) and value in gone else value
