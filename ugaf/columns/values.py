"""Values of a fragment's rows: light columns of all rows at once, image-sized ones of the rows that are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ugaf.base.errors import StopRun, UgafError
from ugaf.columns.parts import SUCCESS, Columns, attempt_of, children_table, heavy_columns, part_schema, readable
from ugaf.ingest import image_id, pair_id
from ugaf.pipeline.config import INGEST
from ugaf.storage.store import light_columns, open_parquet

Result = TypeVar("Result")


class _ImageReader:
    """Reads image-sized columns of single rows of one stage in one fragment: each part is opened once, and of it only
    the row groups that hold a wanted row are read."""

    def __init__(self, columns: Columns, stage: str, fragment: str) -> None:
        self._storage = columns.storage
        self._paths: list[str] = []
        self._files: dict[str, pq.ParquetFile] = {}
        self._places: dict[str, tuple[int, int]] = {}
        ranks: dict[str, int] = {}
        for number, path in enumerate(columns.parts(stage, fragment)):
            keys = self._read(path, lambda file: light_columns(file, ["id", "error"]))
            self._paths.append(path)
            good = pc.is_null(keys.column("error")).to_pylist()
            for row, (key, ok) in enumerate(zip(keys.column("id").to_pylist(), good, strict=True)):
                rank = attempt_of(path) + (SUCCESS if ok else 0)
                if key not in ranks or rank > ranks[key]:
                    ranks[key], self._places[key] = rank, (number, row)

    def read(self, columns: Sequence[str], ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """id -> column -> value, for the ids that are there."""
        by_part: dict[int, list[tuple[int, str]]] = {}
        for key in ids:
            if key in self._places:
                number, row = self._places[key]
                by_part.setdefault(number, []).append((row, key))
        out: dict[str, dict[str, Any]] = {}
        for number, wanted in by_part.items():
            pick = functools.partial(_picked, rows=sorted(wanted), columns=columns)
            out.update(self._read(self._paths[number], pick))
        return out

    def _read(self, path: str, read: Callable[[pq.ParquetFile], Result]) -> Result:
        """Through the file that is open; opened anew if that fails."""
        if path in self._files:
            with suppress(pa.ArrowException, OSError):
                return read(self._files[path])

        def opened(source: pa.NativeFile) -> Result:
            file = self._files[path] = open_parquet(source)
            return read(file)

        try:
            return readable(self._storage, path, lambda: self._storage.read_with(path, opened, keep_open=True))
        except UgafError as error:
            # Some are read in the middle of a row's work, and would be its verdict.
            raise StopRun(str(error)) from error

    def where(self, key: str) -> str:
        """The part file that holds a row, as the user knows it."""
        return self._storage.where(self._paths[self._places[key][0]])


class FragmentValues:
    """Column values of a fragment's rows, by id: light columns read once for all rows, image-sized ones on demand."""

    def __init__(self, columns: Columns, fragment: str) -> None:
        self.columns = columns
        self.pipeline = columns.pipeline
        self.fragment = fragment
        self._light: dict[str, dict[str, dict[str, Any]]] = {}
        self._images: dict[str, _ImageReader] = {}

    def of(self, columns: Iterable[str], ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """id -> column -> value; null where the row has not been measured. All columns are of the ids' own level."""
        out: dict[str, dict[str, Any]] = {key: {} for key in ids}
        by_stage: dict[str, list[str]] = {}
        for column in columns:
            by_stage.setdefault(self.pipeline.providers[column], []).append(column)
        for stage, names in by_stage.items():
            images = heavy_columns(part_schema(self.pipeline, stage))
            heavy = [name for name in names if name in images]
            light = [name for name in names if name not in heavy and name != "id"]
            if heavy and stage not in self._images:
                self._images[stage] = _ImageReader(self.columns, stage, self.fragment)
            found = self._images[stage].read(heavy, ids) if heavy else {}
            if stage == INGEST and found:
                self._check_ids(found)
            cached = self._all_light(stage) if light else {}
            for key in ids:
                out[key].update({name: found.get(key, {}).get(name) for name in heavy})
                out[key].update({name: cached.get(key, {}).get(name) for name in light})
        return out

    def _check_ids(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """The id of a photograph, or of a pair whose images are both read, is that of its bytes.

        Raises StopRun where a stored image is another one than was taken in: no row's fault, and nobody's verdict.
        """
        pairs = self.pipeline.is_pairs
        for key, values in found.items():
            if values.get("image") is None or (pairs and values.get("edited_image") is None):
                continue
            if pairs:
                known = self._all_light(INGEST)[key]
                right = pair_id(values["image"], values["edited_image"], known["instruction"], known["boxes"])
            else:
                right = image_id(values["image"])
            if right != key:
                raise StopRun(
                    f"{self._images[INGEST].where(key)}: damaged: the image of row {key} is not the one that was taken "
                    "in.\nDelete the file, and the same command takes its photographs in again."
                )

    def _all_light(self, stage: str) -> dict[str, dict[str, Any]]:
        if stage not in self._light:
            schema = part_schema(self.pipeline, stage)
            skipped = {"id", "error", *heavy_columns(schema)}
            table, _ = self.columns.light(stage, self.fragment, [n for n in schema.names if n not in skipped])
            if stage != INGEST and self.pipeline.stage(stage).cls.fans_out:
                table = children_table(table, self.pipeline.stage(stage))
            self._light[stage] = {row["id"]: row for row in table.to_pylist()}
        return self._light[stage]


def _picked(file: pq.ParquetFile, rows: Sequence[tuple[int, str]], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """id -> column -> value of the rows at these sorted positions of a file; only their row groups are read."""
    out: dict[str, dict[str, Any]] = {}
    for group, offset in _groups(file, [row for row, _ in rows]):
        end = offset + file.metadata.row_group(group).num_rows
        chosen = [(row - offset, key) for row, key in rows if offset <= row < end]
        block = file.read_row_group(group, columns=list(columns), use_threads=False)
        values = block.take([row for row, _ in chosen]).to_pylist()
        out.update({key: value for (_, key), value in zip(chosen, values, strict=True)})
    return out


def _groups(file: pq.ParquetFile, hits: Sequence[int]) -> list[tuple[int, int]]:
    """(row group, its first row) of every row group that holds one of the sorted row numbers."""
    out, offset, position = [], 0, 0
    for group in range(file.metadata.num_row_groups):
        end = offset + file.metadata.row_group(group).num_rows
        if position < len(hits) and hits[position] < end:
            out.append((group, offset))
            while position < len(hits) and hits[position] < end:
                position += 1
        offset = end
    return out
