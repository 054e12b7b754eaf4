"""The columns of a run: one folder a stage, one folder in it a fragment, part files in that.

A part holds new columns of some rows of one fragment, and is written in one atomic step: it is the only record that the
work was done. Its name is derived from the ids in it, so the same work written twice is one file, the first. A
fragment's name is derived from its sources (`fragments`), so a part speaks for those that it was read from alone. A
stage that fans out has one row for each it was given, with child rows in a list column: one without is known.

Where a row stands in several parts (a retry), the later attempt wins over the earlier, and success over failure.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ugaf.base.errors import UgafError
from ugaf.base.location import scrub
from ugaf.columns.code_digest import FACT, code_digest
from ugaf.columns.fragments import fragment_order, is_fragment
from ugaf.columns.lease import Fence
from ugaf.columns.origins import Runs, runs_of
from ugaf.columns.remembered import Light, Remembered
from ugaf.columns.tombstones import Tombstones
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec
from ugaf.storage import Storage
from ugaf.storage.store import light_columns, open_parquet, parquet_bytes

Result = TypeVar("Result")

CHILDREN = "children"
SOURCES = "sources"
SUCCESS = 1_000_000
"""Rank of a success over every attempt that failed."""
REFS = "refs"
"""Ingest's own record of which of the fragment's sources (by position) a row was read from."""


def part_schema(pipeline: Pipeline, stage: str) -> pa.Schema:
    """The columns of a stage's part files, `id` first and `error` last."""
    id_field, error = pa.field("id", pa.string(), nullable=False), pa.field("error", pa.string())
    if stage == INGEST:
        fields = [field for field in pipeline.ingest_schema if field.name != "id"]
        return pa.schema([id_field, *fields, pa.field(REFS, pa.list_(pa.int32())), error])
    cls = pipeline.stage(stage).cls
    if cls.fans_out:
        child = pa.struct([id_field, *cls.schema])
        return pa.schema([id_field, pa.field(CHILDREN, pa.list_(child)), error])
    return pa.schema([id_field, *cls.schema, error])


def heavy_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Columns of image size, which are read only for the rows that need them."""
    return tuple(field.name for field in schema if pa.types.is_large_binary(field.type))


class GoneError(UgafError):
    """A file was there when it was listed, and is not any more: parts were joined, or somebody deleted it."""


class Columns:
    """Reads and writes the parts of one run as one pipeline sees them (its fingerprints say which folders).

    fence: of the lease under which is written, see `ugaf.columns.lease`; None: nobody else is looked for. remembers:
    see `Remembered`.
    """

    def __init__(
        self, storage: Storage, pipeline: Pipeline, fence: Fence | None = None, remembers: bool = False
    ) -> None:
        self.storage = storage
        self.pipeline = pipeline
        self.fence = fence
        self._remembered = Remembered() if remembers else None

    @functools.cached_property
    def tombstones(self) -> Tombstones:
        """What was withdrawn from the run, as it was when this was first asked."""
        return Tombstones.read(self.storage)

    def folder(self, stage: str) -> str:
        """The folder of a stage's columns, relative to the run."""
        if stage == INGEST:
            return f"{INGEST}@{self.pipeline.ingest_fingerprint}"
        return self.pipeline.stage(stage).folder

    def fragments(self) -> list[str]:
        """Names of all fragments, in the order of their arrival."""
        names = (name.removesuffix(".parquet") for name in self.storage.list(SOURCES) if name.endswith(".parquet"))
        return sorted((name for name in names if is_fragment(name)), key=fragment_order)

    def sources(self, fragment: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The sources that were cut into a fragment, or some columns of them (see `SourceRef.to_table`)."""
        path, names = f"{SOURCES}/{fragment}.parquet", None if columns is None else list(columns)
        return read_part(self.storage, path, lambda file: file.read(columns=names, use_threads=False))

    def origins(self, fragment: str) -> Runs:
        """The inputs of the sources that were cut into a fragment, and how many are of each, in their order."""
        path = f"{SOURCES}/{fragment}.parquet"
        return read_part(self.storage, path, lambda f: runs_of(f.schema_arrow.metadata, f.metadata.num_rows))

    def parts(self, stage: str, fragment: str) -> list[str]:
        folder = f"{self.folder(stage)}/{fragment}"
        return [f"{folder}/{name}" for name in self.storage.list(folder) if name.endswith(".parquet")]

    def parts_of_all(self, stage: str) -> dict[str, list[str]]:
        """Every part of a stage by fragment, in one listing."""
        folder = self.folder(stage)
        out: dict[str, list[str]] = {}
        for name in self.storage.files(folder):
            fragment, _, part = name.partition("/")
            if part.endswith(".parquet"):
                out.setdefault(fragment, []).append(f"{folder}/{name}")
        return out

    def write(
        self, stage: str, fragment: str, rows: Sequence[Mapping[str, Any]], seconds: float, code: str | None = None
    ) -> str:
        """Write one part; `rows` hold the columns of `part_schema` (absent ones become null). Returns its path.

        Where the same work was done before, that part stays. Rows that were tried again get a further attempt.

        `seconds` of work is kept in the file, for the report's rates, and so is the digest of the `code` that made the
        columns: by default that of this process, "" if it is not known.
        """
        schema = part_schema(self.pipeline, stage)
        # Sorted, because workers take rows in this order: a few photographs at a time are a few row groups.
        ordered = sorted(rows, key=lambda row: row["id"])
        table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in ordered], schema=schema)
        attempt = max((int(row.get("attempt") or 0) for row in rows), default=0)
        if code is None and stage != INGEST:
            code = code_digest(self.pipeline.stage(stage))
        return self.put(stage, fragment, table, attempt, seconds, code or "")

    def put(self, stage: str, fragment: str, table: pa.Table, attempt: int, seconds: float, code: str) -> str:
        """Write a table of `part_schema`, sorted by id, as one part; see `write`."""
        facts = {"ugaf.seconds": f"{seconds:.3f}", "ugaf.rows": str(table.num_rows)}
        if code:
            facts[FACT.decode()] = code
        data = parquet_bytes(table.replace_schema_metadata(facts), heavy_columns(table.schema))
        self.check()
        while True:
            path = self.part_path(stage, fragment, table, attempt)
            if self.storage.create(path, data) or not attempt:
                return path
            attempt += 1

    def part_path(self, stage: str, fragment: str, table: pa.Table, attempt: int) -> str:
        """The name of a part with these rows: of the attempt and of their ids."""
        # Ingest's rows with their sources: one photograph may come twice, from a source in one part and another later.
        keys = table.column("id").to_pylist()
        if stage == INGEST:
            keys = [f"{key} {refs or ''}" for key, refs in zip(keys, table.column(REFS).to_pylist(), strict=True)]
        digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        return f"{self.folder(stage)}/{fragment}/part-{attempt:03d}-{digest}.parquet"

    def check(self) -> None:
        """Raises StopRun if the run was given to another driver."""
        if self.fence is not None:
            self.fence.check(self.storage)

    def take_back(self, stage: str, fragment: str, is_wrong: Callable[[str], bool]) -> int:
        """Make rows pending again whose `error` is no fault of theirs. Returns how many.

        What is left of a part is written before the part goes, so that a break in between loses nothing.
        """
        taken = 0
        self.check()
        for path in self.parts(stage, fragment):
            errors = read_part(self.storage, path, lambda file: light_columns(file, ["error"])).column("error")
            stays = [error is None or not is_wrong(error) for error in errors.to_pylist()]
            if all(stays):
                continue
            if any(stays):
                table = read_part(self.storage, path, lambda file: file.read(use_threads=False))
                facts = table.schema.metadata or {}
                seconds, code = float(facts.get(b"ugaf.seconds", b"0")), facts.get(FACT, b"").decode()
                rows = table.filter(pa.array(stays)).to_pylist()
                self.write(stage, fragment, [{**row, "attempt": attempt_of(path)} for row in rows], seconds, code)
            self.storage.remove(path)
            taken += len(stays) - sum(stays)
        return taken

    def _light(self, path: str, names: tuple[str, ...]) -> Light:
        def read(file: pq.ParquetFile) -> Light:
            return light_columns(file, names), file.schema_arrow.metadata or {}

        def whole() -> Light:
            return read_part(self.storage, path, read)

        return whole() if self._remembered is None else self._remembered.light(path, names, whole)

    def light(
        self, stage: str, fragment: str, columns: Iterable[str], parts: Sequence[str] | None = None
    ) -> tuple[pa.Table, list[Mapping[bytes, bytes]]]:
        """One row for each id that the stage has done in a fragment, sorted by id, and the parts' own facts.

        Columns: `id`, `error`, and the asked ones. `parts`: the part files where the caller has listed them.
        """
        names = ["id", *dict.fromkeys(name for name in columns if name not in ("id", "error")), "error"]
        tables, attempts, facts = [], [], []
        for path in self.parts(stage, fragment) if parts is None else parts:
            table, fact = self._light(path, tuple(names))
            facts.append(fact)
            tables.append(table.replace_schema_metadata(None))
            attempts.append(pa.array([attempt_of(path)] * table.num_rows, pa.int32()))
        if not tables:
            schema = part_schema(self.pipeline, stage)
            return pa.schema([schema.field(name) for name in names]).empty_table(), []
        table = pa.concat_tables(tables)
        if len(tables) == 1:
            return table.take(pc.sort_indices(table.column("id"))), facts
        return winning(stage, table, pa.chunked_array(attempts)), facts


def children_table(table: pa.Table, spec: StageSpec) -> pa.Table:
    """The child rows of a fan-out stage's table: `id`, `parent` (its id), and the child columns, sorted by id."""
    lists = table.column(CHILDREN).combine_chunks()
    parents = pc.take(table.column("id").combine_chunks(), pc.list_parent_indices(lists))
    flat = pc.list_flatten(lists)
    columns = {name: pc.struct_field(flat, name) for name in ("id", *spec.cls.schema.names)}
    out = pa.table({**columns, "parent": parents})
    return out.take(pc.sort_indices(out.column("id")))


def read_part(storage: Storage, path: str, read: Callable[[pq.ParquetFile], Result]) -> Result:
    """What `read` makes of an open Parquet file of the run."""

    def opened(source: pa.NativeFile) -> Result:
        with open_parquet(source) as file:
            return read(file)

    return readable(storage, path, lambda: storage.read_with(path, opened))


def readable(storage: Storage, path: str, read: Callable[[], Result]) -> Result:
    """What `read` gives. Raises UgafError for a file that is damaged or gone; a store at fault is none of that."""
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        again = "delete it, and the same command computes its rows again"
        if path.startswith(f"{SOURCES}/"):
            fragment = path.removeprefix(f"{SOURCES}/").removesuffix(".parquet")
            again = f"delete it and every folder named {fragment} in the run, and its photographs are taken in again"
        if isinstance(error, FileNotFoundError):
            again = "is the folder the same one on every node? If a file of it was deleted, run the same command again"
            raise GoneError(f"{storage.where(path)}: it was listed and is not there: {again}") from error
        raise UgafError(
            f"{storage.where(path)}: cannot be read: {scrub(str(error))}\nIf the file is damaged, {again}."
        ) from error


def winning(stage: str, table: pa.Table, attempts: pa.ChunkedArray) -> pa.Table:
    """One row of each id, of several parts with these attempts: sorted by id."""
    winners = table.take(_winners(table, attempts))
    for name in (SOURCES, REFS):
        if stage == INGEST and name in table.column_names:
            winners = _merge_lists(winners, table, name)
    return winners


def attempt_of(path: str) -> int:
    return int(path.rsplit("/", 1)[-1].split("-")[1])


def _winners(table: pa.Table, attempts: pa.ChunkedArray) -> pa.Array:
    """Row numbers of the winning row of each id, sorted by id."""
    best: dict[str, tuple[int, int]] = {}
    ok = pc.is_null(table.column("error")).to_pylist()
    for number, (key, good, attempt) in enumerate(
        zip(table.column("id").to_pylist(), ok, attempts.to_pylist(), strict=True)
    ):
        rank = attempt + (SUCCESS if good else 0)
        if key not in best or rank > best[key][0]:
            best[key] = (rank, number)
    return pa.array([best[key][1] for key in sorted(best)], pa.int64())


def _merge_lists(winners: pa.Table, table: pa.Table, name: str) -> pa.Table:
    """The same photograph in two parts is one row that remembers the sources of both."""
    merged: dict[str, list[Any]] = {}
    for key, values in zip(table.column("id").to_pylist(), table.column(name).to_pylist(), strict=True):
        merged[key] = sorted({*merged.get(key, ()), *(values or ())})
    field = winners.schema.field(name)
    column = pa.array([merged[key] for key in winners.column("id").to_pylist()], field.type)
    return winners.set_column(winners.schema.get_field_index(name), field, column)
