"""Parquet shards: `train-00000-of-00003.parquet`, with images that `datasets`, pandas and the Hub's viewer show.

Row groups are small, so that a reader gets at a few rows without the file, and a writer never holds more than one of
them. Images are stored as they are; only the light columns are compressed and have statistics and dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ugaf.export.columns import Column, schema
from ugaf.export.folder import Folder
from ugaf.export.products import Exported

GROUP_ROWS = 100
GROUP_BYTES = 32_000_000
_GROUP_OVERHEAD = 200
"""Bytes that a row group's metadata takes for each column chunk, about."""


class ParquetShards:
    """Writes the shards of one split; a context manager. Records come in order through `add`."""

    def __init__(self, folder: Folder, split: str, columns: Sequence[Column], limit: float) -> None:
        self.folder = folder
        self.split = split
        self.limit = limit
        self.schema = schema(columns)
        self.shards: list[str] = []
        light = [column.name for column in columns if not column.is_image]
        names = [f"{column.name}.bytes" for column in columns if column.is_image]
        scalars = [column.name for column in columns if column.kind in ("string", "int", "float", "bool")]
        leaves = [name for name in _leaves(self.schema) if name not in names]
        self._options: dict[str, Any] = {
            "compression": {**dict.fromkeys(leaves, "SNAPPY"), **dict.fromkeys(names, "NONE")},
            "use_dictionary": [name for name in light if name in scalars],
            "write_statistics": scalars,
        }
        self._overhead = _GROUP_OVERHEAD * len(leaves + names)
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._shard_bytes = 0

    def __enter__(self) -> ParquetShards:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._close_shard()
            for number, path in enumerate(self.shards):
                self.folder.rename(path, f"{self.split}-{number:05d}-of-{len(self.shards):05d}.parquet")
        else:
            self._writer = None
            self._stack.__exit__(*error)

    def add(self, record: Exported) -> None:
        size = record.image_bytes + len(record.json())
        pending = self._shard_bytes + self._group_bytes + self._overhead
        if self._rows and pending + size > self.limit:
            self._flush()
        if self._writer is not None and self._shard_bytes + size + self._overhead > self.limit:
            self._close_shard()
        self._rows.append(record.cells())
        self._group_bytes += size
        if len(self._rows) >= GROUP_ROWS or self._group_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Write the rows at hand as one row group, into a new shard if none is open."""
        if not self._rows:
            return
        if self._writer is None:
            path = f"{self.split}-{len(self.shards):05d}.parquet"
            stream = self._stack.enter_context(self.folder.open_output(path))
            self._writer = pq.ParquetWriter(stream, self.schema, **self._options)
            self.shards.append(path)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema), row_group_size=len(self._rows))
        self._shard_bytes += self._group_bytes + self._overhead
        self._rows, self._group_bytes = [], 0

    def _close_shard(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._stack.close()
        self._writer, self._shard_bytes = None, 0


def _leaves(arrow: pa.Schema) -> list[str]:
    """Parquet's own paths of the leaf columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(arrow.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [parquet.column(number).path for number in range(len(parquet))]
