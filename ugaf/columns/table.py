"""The rows of a run as one table: every row with its verdict, the rule that decided, its files and its values.

It is written fragment after fragment, so memory does not grow with the run. Image-sized columns are read only where
they are named.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pat

from ugaf.base.errors import ConfigError
from ugaf.base.printing import HARMFUL
from ugaf.columns import reasons
from ugaf.columns.parts import SOURCES, heavy_columns, part_schema
from ugaf.columns.tombstones import WITHDRAWN
from ugaf.columns.view import RunView
from ugaf.pipeline.config import INGEST
from ugaf.storage import Storage

FORMATS = (".parquet", ".csv", ".jsonl")
_BATCH = 4096
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""With these a formula begins in a spreadsheet's cell, or what it may take for one."""


@dataclass(frozen=True)
class Choice:
    """Which rows and columns. level: "image" or "edit". status, stage: None for all. columns: None: all but images."""

    level: str
    status: str | None = None
    stage: str | None = None
    columns: Sequence[str] | None = None

    def takes(self, row: dict[str, Any]) -> bool:
        """Whether a row with this verdict is asked for."""
        is_withdrawn = row["stage"] == INGEST and row["status"] == "rejected"
        status = WITHDRAWN if is_withdrawn else row["status"]
        return self.status in (None, status) and self.stage in (None, row["stage"])


def write(view: RunView, choice: Choice, output: str) -> int:
    """Write the table to a file or URL, whose suffix is its format, or as JSON lines to standard output ("-").

    Returns the number of rows. Raises ConfigError for an unknown suffix, level, stage or column.
    """
    format = ".jsonl" if output == "-" else next((name for name in FORMATS if output.lower().endswith(name)), None)
    if format is None:
        raise ConfigError(f"-o {output}: the name has to end with the format: {', '.join(FORMATS)}")
    if output != "-" and _is_inside(view.storage, output):
        raise ConfigError(
            f"-o {output}: lies in the run's folder, which holds the run alone: name a place outside of it"
        )
    tables = rows(view, choice)
    table: pa.Table | None = next(tables)
    assert table is not None
    count = 0
    with _opened(output) as stream:
        writer = _WRITERS[format](stream, table.schema)
        while table is not None:
            writer.write(table)
            count += table.num_rows
            table = next(tables, None)
        writer.close()
    return count


def rows(view: RunView, choice: Choice) -> Iterator[pa.Table]:
    """The chosen rows, one table a fragment, all of one schema: see `RunView.rows`; the reason in words.

    Sources that have not been read yet are rows without an id, pending at ingest.
    """
    pipeline = view.pipeline
    if choice.level == "image" and pipeline.is_pairs:
        raise ConfigError("--level image: this is a run of edit pairs, which are rows of the level edit")
    if choice.level == "edit" and not pipeline.is_pairs and pipeline.fan_out is None:
        raise ConfigError("--level edit: this pipeline makes no edits")
    if choice.stage not in (None, INGEST):
        pipeline.stage(str(choice.stage))
    names = list(choice.columns) if choice.columns is not None else _light(view, choice.level)
    for name in names if choice.level == "image" else ():
        if name in pipeline.providers and not pipeline.is_base_column(name):
            raise ConfigError(f"--columns {name}: a column of edits, and the rows are photographs: add --level edit")
    schema = view.rows_schema(choice.level, names)
    yield _told(schema.empty_table())
    yield from map(_told, view.rows(choice.level, names, chosen=choice.takes))
    waits = {"id": None, "status": "pending", "stage": INGEST, "reason": None}
    if choice.level == pipeline.base_level and choice.takes(waits):
        for fragment in view.verdicts():
            if unread := fragment[INGEST].unread:
                places = view.columns.sources(fragment.fragment, ["uri", "member"]).take(unread).to_pylist()
                keys = [f"{row['uri']}#{row['member']}" if row["member"] else row["uri"] for row in places]
                waiting = [{**waits, SOURCES: [key]} for key in keys]
                full = [{field.name: row.get(field.name) for field in schema} for row in waiting]
                yield _told(pa.Table.from_pylist(full, schema=schema))


def _told(table: pa.Table) -> pa.Table:
    """With the status of the withdrawn (what ingest rejects), and the reasons in words."""
    status, stage = table.column("status"), table.column("stage")
    ours = pc.and_(pc.equal(stage, INGEST), pc.equal(status, "rejected"))
    place = table.column_names.index("status")
    table = table.set_column(place, table.schema.field(place), pc.if_else(ours, WITHDRAWN, status))
    words = [reasons.text(reason) for reason in table.column("reason").to_pylist()]
    return table.set_column(table.column_names.index("reason"), "reason", pa.array(words, pa.string()))


def _light(view: RunView, level: str) -> list[str]:
    """Every column of the level that is not of image size; of an edit its photograph's, too."""
    pipeline = view.pipeline
    heavy = set(heavy_columns(part_schema(pipeline, INGEST)))
    heavy |= {name for spec in pipeline.stages for name in heavy_columns(spec.cls.schema)}
    named = [name for name in pipeline.providers if name not in heavy and name != "id"]
    return [name for name in named if level == "edit" or pipeline.is_base_column(name)]


def elsewhere(view: RunView, choice: Choice) -> int:
    """How many edits there are beside the photographs of a choice, by verdict and stage."""
    if choice.level == "edit" or view.pipeline.fan_out is None:
        return 0
    return sum(table.num_rows for table in view.rows("edit", chosen=choice.takes))


def _is_inside(run: Storage, output: str) -> bool:
    """Whether a file or URL lies in the run's folder."""
    folder, name = _place(output)
    file, inside = folder.path(name), run.path("")
    if isinstance(run.filesystem, pafs.LocalFileSystem):
        file, inside = os.path.realpath(file), os.path.realpath(inside)
    return folder.filesystem.type_name == run.filesystem.type_name and file.startswith(f"{inside.rstrip('/')}/")


def _place(output: str) -> tuple[Storage, str]:
    folder, _, name = output.rpartition("/")
    return Storage(folder or ("/" if output.startswith("/") else ".")), name


@contextmanager
def _opened(output: str) -> Iterator[IO[bytes]]:
    """Standard output, or a file that is there when it is whole."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    folder, name = _place(output)
    with folder.open_output(name) as stream:
        yield stream


class _Writer(Protocol):
    def write(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


class _Parquet:
    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(stream, schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        if table.num_rows:
            self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class _Lines:
    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:  # noqa: ARG002
        self._stream = stream

    def write(self, table: pa.Table) -> None:
        for batch in table.to_batches(max_chunksize=_BATCH):
            for row in batch.to_pylist():
                line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
                # The same JSON, which a terminal may be shown.
                self._stream.write(HARMFUL.sub(_escaped, line).encode() + b"\n")

    def close(self) -> None:
        pass


class _Csv:
    """A list or struct is JSON in its cell. A text that a spreadsheet would take for a formula begins with an
    apostrophe, as OWASP advises."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._stream = stream
        self._nested = {field.name for field in schema if pat.is_nested(field.type)}
        self._put([schema.names])

    def write(self, table: pa.Table) -> None:
        for batch in table.to_batches(max_chunksize=_BATCH):
            self._put([[self._cell(name, value) for name, value in row.items()] for row in batch.to_pylist()])

    def close(self) -> None:
        pass

    def _cell(self, name: str, value: Any) -> Any:
        plain = _plain(value)
        if isinstance(value, str) and value.startswith(_FORMULA):
            return f"'{value}"
        return json.dumps(plain, ensure_ascii=False) if name in self._nested and plain is not None else plain

    def _put(self, lines: Sequence[Sequence[Any]]) -> None:
        for line in lines:
            text = io.StringIO()
            # With both in the end of a line, both are quoted in a cell.
            csv.writer(text, lineterminator="\r\n").writerow(line)
            self._stream.write(text.getvalue().removesuffix("\r\n").encode() + b"\n")


_WRITERS: dict[str, type[_Parquet] | type[_Lines] | type[_Csv]] = {
    ".parquet": _Parquet,
    ".jsonl": _Lines,
    ".csv": _Csv,
}


def _escaped(found: re.Match[str]) -> str:
    r"""A character as JSON spells it: `\u001b`."""
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def _plain(value: Any) -> Any:
    """As JSON has it: bytes in base64, what is no finite number null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
