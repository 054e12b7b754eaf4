"""The kept photographs of a run, as its pairs are exported: the product of a pipeline that makes none.

A photograph has its id, its own bytes, where it came from, its caption and every light column of the stages that worked
on it. For sets whose images nobody wants to copy, `references` leaves the bytes out: ids, sources and measures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pat

from ugaf.export import provenance, rows, split
from ugaf.export.columns import PHOTOGRAPH, Column
from ugaf.export.rows import CHUNK_ROWS, Blob, Plan
from ugaf.imaging import images
from ugaf.pipeline.settings import ExportSettings

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

VERSION = 1
"""Raise it when the same rows give other files."""

_MADE_HERE = frozenset({"id", "image", "image_reencoded", "split"})
_SCALARS = (
    (pat.is_string, "string"),
    (pat.is_boolean, "bool"),
    (pat.is_integer, "int"),
    (pat.is_floating, "float"),
)


@dataclass(frozen=True)
class Photograph:
    """One photograph to export. `values` has every column but the image, which is None in an export of references."""

    id: str
    split: str
    image: Blob | None
    values: dict[str, Any]

    @property
    def image_bytes(self) -> int:
        return 0 if self.image is None else len(self.image.data)

    def files(self) -> list[tuple[str, bytes]]:
        """(extension, bytes) of the image as a tar holds it."""
        if self.image is None:
            return []
        blob = self.image.as_jpg_or_png()
        return [(blob.extension, blob.data)]

    def cells(self) -> dict[str, Any]:
        """The row of the Parquet table."""
        if self.image is None:
            return self.values
        return {**self.values, "image": {"bytes": self.image.data, "path": f"{self.id}.{self.image.extension}"}}

    def json(self) -> bytes:
        """`values` as JSON with sorted keys; what is not a finite number is null."""
        return rows.as_json(self.values)


def plan(view: RunView, settings: ExportSettings) -> Plan:
    """Read the light columns of every kept photograph, once."""
    columns = _columns(view, settings)
    read = [column.name for column in columns if column.name not in _MADE_HERE]
    digest, count = hashlib.sha256(), 0
    for table in view.rows("image", read, kept=True):
        for batch in table.to_batches(max_chunksize=1024):
            count += batch.num_rows
            for row in batch.to_pylist():
                digest.update(rows.as_digested(row))
    asked = {"formats", "shard_mb", "validation", "photographs"}
    content = {
        "version": [VERSION, rows.VERSION],
        "settings": settings.model_dump(mode="json", include=asked),
        "stages": {stage.name: stage.fingerprint for stage in view.stages if stage.level == "image"},
        "columns": [(column.name, column.kind) for column in columns],
        "rows": digest.hexdigest(),
    }
    return Plan(rows.hashed(content), columns, count)


class Reader:
    """Gives the photographs of a view, always in the same order, and counts what it leaves out; see `rows.Reader`."""

    def __init__(self, view: RunView, settings: ExportSettings, plan: Plan) -> None:
        self.view = view
        self.settings = settings
        self.columns = plan.columns
        self.left_out: Counter[str] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        self.roots = provenance.input_roots(provenance.inputs_of(view))

    def records(self) -> Iterator[Photograph]:
        """Every kept photograph that can be exported."""
        self.left_out.clear()
        self.unreadable.clear()
        shown = split.Shown()
        read = [column.name for column in self.columns if column.name not in _MADE_HERE]
        tables = self.view.rows("image", read, kept=True)
        for fragment, table in zip(self.view.fragments, tables, strict=True):
            for batch in table.to_batches(max_chunksize=CHUNK_ROWS):
                found = batch.to_pylist()
                blobs = self._blobs(fragment, [row["id"] for row in found])
                for row in found:
                    record = self._record(row, blobs.get(row["id"]), shown)
                    if record is not None:
                        yield record

    def _blobs(self, fragment: str, ids: list[str]) -> dict[str, bytes]:
        if not any(column.is_image for column in self.columns):
            return {}
        return {key: row["image"] or b"" for key, row in self.view.values(fragment, ["image"], ids).items()}

    def _record(self, row: dict[str, Any], data: bytes | None, shown: split.Shown) -> Photograph | None:
        side = split.of_photograph(row["id"], self.settings.validation)
        blob = None
        if data is not None:
            try:
                blob = rows.as_blob(data)
            except images.ImageError as error:
                self.left_out["unreadable image"] += 1
                if len(self.unreadable) < rows.MOST_UNREADABLE:
                    self.unreadable.append((row["id"], str(error)))
                return None
            if not shown.admits(side, blob.data):
                self.left_out[split.OTHER_SPLIT] += 1
                return None
        values = {column.name: row.get(column.name) for column in self.columns if not column.is_image}
        if blob is not None:
            values["image_reencoded"] = blob.reencoded
        sources = [provenance.published(source, self.roots) for source in row.get("sources") or ()]
        return Photograph(row["id"], side, blob, {**values, "split": side, "sources": sources})


def _columns(view: RunView, settings: ExportSettings) -> tuple[Column, ...]:
    """The columns of every export of photographs, then those of the stages that are numbers, texts or truths."""
    with_images = settings.photographs != "references"
    core = [column for column in PHOTOGRAPH if with_images or column.name not in ("image", "image_reencoded")]
    taken = {column.name for column in PHOTOGRAPH}
    more = []
    for spec in view.pipeline.stages:
        if spec.level != "image" or spec.cls.fans_out:
            continue
        for field in spec.cls.schema:
            kind = _kind(field.type)
            if kind is not None and field.name not in taken:
                more.append(Column(field.name, kind, f"of `{spec.name}`"))
    return (*core, *more)


def _kind(type: pa.DataType) -> str | None:
    """How a column is exported; None for what is no number, text or truth, nor a list of texts."""
    if pat.is_list(type):
        return "strings" if pat.is_string(type.value_type) else None
    return next((kind for test, kind in _SCALARS if test(type)), None)
