"""From a run's kept rows to the records of an export.

`plan` reads only light columns: it fingerprints what would be written, so that an export with nothing new ends there.
`Reader.records` reads the images, a few photographs at a time, and gives every pair with its source and target
resolved. The order is that of the run's fragments; within one, a few photographs' edits at a time, by id: photographs
lie together in the stored columns, and their edits should not all follow each other in a shard.

Bytes are handed on as they are wherever any reader sees in them what ugaf saw. Where one that only decodes would not
(EXIF rotation, CMYK, alpha, 16 bits: pixels or size would not fit the other image and the boxes), they become a PNG of
exactly the pixels that the pipeline worked on, and the row says so. So does an edited image of another size than its
source's: on the source's grid (see `ugaf.imaging.registration`), unless the settings want it as it came.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ugaf.export import balanced, provenance, split
from ugaf.export import columns as export_columns
from ugaf.export.balanced import Balance
from ugaf.export.columns import CORE_NAMES, Column
from ugaf.imaging import images, registration
from ugaf.pipeline.settings import ExportSettings

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

VERSION = 4
"""Raise it when the same rows give other files."""

IMAGES = ("image", "source_image", "edited_image", "edit_mask", "change_mask")
_MADE_HERE = frozenset({"id", "bbox", "image_id", "width", "height", "source_reencoded", "edited_reencoded", "split"})
LIGHT = tuple(column.name for column in export_columns.CORE if not column.is_image and column.name not in _MADE_HERE)
"""Columns of the run that are exported as they are, where it has them."""

GROUPED_BY = ("source_id", "edited_id", "image_id", "split")
"""Of pairs from elsewhere, the columns that decide on their splits (see `split.Grouping`)."""

TAR_FORMATS = ("jpg", "png")
"""What every reader of tars decodes; other formats become PNG there."""

CHUNK_ROWS = 64
"""Edits whose images are read at once, give or take those of one photograph: what an export holds in memory."""

MOST_UNREADABLE = 20
"""Rows that are named of those with an image that cannot be read."""

_CACHE_BYTES = 128_000_000
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


@dataclass(frozen=True)
class Blob:
    """An encoded image: its bytes, its extension ("jpg", "png", ...) and whether the bytes were made here.

    png: the same pixels as PNG, where they are known already.
    """

    data: bytes
    extension: str
    reencoded: bool = False
    png: bytes | None = None

    def as_png(self) -> Blob:
        """The same pixels as PNG."""
        if self.extension == "png":
            return self
        return Blob(self.png if self.png is not None else images.encode(images.decode(self.data)), "png", True)

    def as_jpg_or_png(self) -> Blob:
        """Itself, or the same pixels as PNG."""
        return self if self.extension in TAR_FORMATS else self.as_png()


@dataclass(frozen=True)
class Record:
    """One pair to export. `values` has every column but the images; `edit_mask` and `change_mask` are 1-bit PNGs."""

    id: str
    split: str
    source: Blob
    edited: Blob
    edit_mask: bytes | None
    change_mask: bytes | None
    values: dict[str, Any]

    @property
    def image_bytes(self) -> int:
        return sum(len(data) for _, data in self._named(self.source, self.edited))

    def files(self) -> list[tuple[str, bytes]]:
        """(extension, bytes) of each image as the tars hold it: "source.jpg", "edit_mask.png", ..."""
        return self._named(self.source.as_jpg_or_png(), self.edited.as_jpg_or_png())

    def _named(self, source: Blob, edited: Blob) -> list[tuple[str, bytes]]:
        pairs = [(f"source.{source.extension}", source.data), (f"edited.{edited.extension}", edited.data)]
        masks = (("edit_mask.png", self.edit_mask), ("change_mask.png", self.change_mask))
        return [*pairs, *((name, data) for name, data in masks if data is not None)]

    def json(self) -> bytes:
        """`values` as they hold for `files`, as JSON with sorted keys; what is not a finite number is null."""
        blobs = {"source": self.source, "edited": self.edited}
        made = {f"{role}_reencoded": blob.as_jpg_or_png().reencoded for role, blob in blobs.items()}
        return as_json(self.values | made)

    def cells(self) -> dict[str, Any]:
        """The row of the Parquet table, with each image's own bytes."""
        named = self._named(self.source, self.edited)
        blobs = {name.split(".")[0]: {"bytes": data, "path": f"{self.id}.{name}"} for name, data in named}
        return {"edit_mask": None, "change_mask": None, **self.values, **blobs}


def as_json(values: Mapping[str, Any]) -> bytes:
    """Values as JSON with sorted keys; what is not a finite number is null."""
    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
    return json.dumps(finite, sort_keys=True, allow_nan=False).encode()


@dataclass(frozen=True)
class Plan:
    """What an export would write: `fingerprint` covers the rows, their light values, the settings and the columns.

    rows: kept ones, before any is left out. balance: None where the settings ask for none. groups: the splits of
    pairs that came from elsewhere; None for those made here.
    """

    fingerprint: str
    columns: tuple[Column, ...]
    rows: int
    balance: Balance | None = None
    groups: split.Groups | None = None


def as_digested(row: dict[str, Any]) -> bytes:
    """A kept row as it enters the fingerprint of what is exported."""
    # It has no reason. Manifests of earlier exports have fingerprints with an empty text in that place.
    return json.dumps({**row, "reason": ""}, sort_keys=True).encode()


def plan(view: RunView, settings: ExportSettings) -> Plan:
    """Read the light columns of every kept pair, once."""
    measures = [(stage.name, name) for stage in view.stages for name in stage.measures if name not in CORE_NAMES]
    light = [name for name in LIGHT if name in view.pipeline.providers]
    grouping = split.Grouping() if view.pipeline.is_pairs else None
    read = [*light, *(name for _, name in measures), *grouped_by(view)]
    counted = balanced.Counting(view, settings) if settings.balance is not None else None
    besides = [counted.category.column] if counted is not None and counted.category.column not in read else []
    digest = hashlib.sha256()
    rows, fractional, known = 0, set[str](), set[str]()
    for table in view.rows("edit", [*read, *besides], kept=True):
        if counted is not None:
            counted.add(table)
        if grouping is not None:
            grouping.add(*(table.column(name).to_pylist() for name in GROUPED_BY))
        for _, name in measures:
            kind = table.schema.field(name).type
            known |= {name} if not pa.types.is_null(kind) else set()
            fractional |= {name} if not (pa.types.is_integer(kind) or pa.types.is_null(kind)) else set()
        for batch in table.drop_columns(besides).to_batches(max_chunksize=1024):
            rows += batch.num_rows
            for row in batch.to_pylist():
                digest.update(as_digested(row))
    columns = export_columns.with_measures(
        (stage, name, name in known and name not in fractional) for stage, name in measures
    )
    balance = counted.result() if counted is not None else None
    content = {
        "version": VERSION,
        "settings": settings.model_dump(mode="json", exclude={"name", "license", "balance", "photographs"}),
        "stages": {stage.name: stage.fingerprint for stage in view.stages},
        "columns": [(column.name, column.kind) for column in columns],
        "rows": digest.hexdigest(),
        # A balance that leaves nothing out changes the card alone.
        "balance": balance.sampled() if balance is not None else None,
    }
    groups = grouping.result(settings.validation) if grouping is not None else None
    return Plan(hashed(content), columns, rows, balance, groups)


def grouped_by(view: RunView) -> list[str]:
    """The columns of `GROUPED_BY`; none for pairs that are made here."""
    return list(GROUPED_BY) if view.pipeline.is_pairs else []


def nothing(view: RunView, settings: ExportSettings) -> Plan:
    """The plan of an export without rows."""
    stages = {stage.name: stage.fingerprint for stage in view.stages}
    content = {"version": VERSION, "stages": stages, "formats": settings.formats}
    return Plan(hashed(content), export_columns.CORE, 0)


class Reader:
    """Gives the records of a view, always in the same order, and counts what it leaves out.

    Attributes:
        left_out: number of kept rows that are not exported, by reason; see `balanced.folded`.
        unreadable: the first few rows with an image that could not be read, as (id, why).
    """

    def __init__(self, view: RunView, settings: ExportSettings, plan: Plan) -> None:
        self.view = view
        self.settings = settings
        self.measures = [column.name for column in plan.columns if column.name not in CORE_NAMES]
        self.columns = plan.columns
        self.balance = plan.balance
        self.groups = plan.groups
        self.left_out: Counter[str] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        self.roots = provenance.input_roots(provenance.inputs_of(view))
        self._pngs = _PngCache(_CACHE_BYTES)

    def records(self) -> Iterator[Record]:
        """Every kept pair that has a split and readable images."""
        self.left_out.clear()
        self.unreadable.clear()
        self._shown = split.Shown()
        names = [*(name for name in LIGHT if name in self.view.pipeline.providers), *self.measures]
        names += grouped_by(self.view)
        besides = [self.balance.category.column] if self.balance is not None else []
        tables = self.view.rows("edit", list(dict.fromkeys([*names, *besides])), kept=True)
        for fragment, table in zip(self.view.fragments, tables, strict=True):
            for chunk in chunks(self._chosen(table).to_pylist(), CHUNK_ROWS):
                self._load(fragment, chunk)
                for row in chunk:
                    record = self._record(row)
                    if record is not None:
                        yield record

    def _chosen(self, table: pa.Table) -> pa.Table:
        """The rows that the balance takes, and those that are left out for another reason anyway."""
        if self.balance is None or self.balance.sample is None:
            return table
        taken, categories = self.balance.takes(table)
        eligible = balanced.eligible(table, self.settings.validation)
        out = eligible & ~taken
        self.left_out.update(self.balance.reason(categories[i]) for i in out.nonzero()[0])
        return table.filter(pa.array(~out))

    def _load(self, fragment: str, rows: Sequence[dict[str, Any]]) -> None:
        """Put the image columns into the rows: those of the photograph by its id, the others by the edit's."""
        pipeline = self.view.pipeline
        present = [name for name in IMAGES if name in pipeline.providers]
        base = [name for name in present if pipeline.is_base_column(name)]
        own = [name for name in present if name not in base]
        ids = [row["id"] for row in rows]
        owners = [row.get("parent") or row["id"] for row in rows]
        photographs = self.view.values(fragment, base, sorted(set(owners)))
        edits = self.view.values(fragment, own, ids) if own else {}
        for row, owner in zip(rows, owners, strict=True):
            row.update(photographs[owner])
            row.update(edits.get(row["id"], {}))

    def _record(self, row: dict[str, Any]) -> Record | None:
        image_id, side = self._placed(row)
        if side is None:
            self.left_out["donor in the other split"] += 1
            return None
        try:
            source, edited = self._pair(row, image_id)
            info = images.probe(source.data)
        except images.ImageError as error:
            self.left_out["unreadable image"] += 1
            if len(self.unreadable) < MOST_UNREADABLE:
                self.unreadable.append((row["id"], str(error)))
            return None
        if not self._shown.admits(side, source.data, edited.data):
            self.left_out[split.OTHER_SPLIT] += 1
            return None
        values = self._values(row)
        values |= {"image_id": image_id, "split": side, "width": info.width, "height": info.height}
        values |= {"source_reencoded": source.reencoded, "edited_reencoded": edited.reencoded}
        return Record(row["id"], side, source, edited, row.get("edit_mask"), row.get("change_mask"), values)

    def _placed(self, row: dict[str, Any]) -> tuple[str, str | None]:
        """The id of the pair's photograph, and its split; None where its donor is in the other one."""
        if self.groups is None:
            return row["parent"], split.of_edit(row["parent"], row.get("donor"), self.settings.validation)
        image_id = row["image_id"] or row["source_id"]
        return image_id, self.groups.of(row["source_id"]) or split.of_photograph(image_id, self.settings.validation)

    def _pair(self, row: dict[str, Any], image_id: str) -> tuple[Blob, Blob]:
        """Source and target; null stands for the photograph (an inverted edit's target is the photograph)."""
        own = {name: row.get(name) for name in ("source_image", "edited_image")}
        if own["source_image"] is None and own["edited_image"] is None:
            raise images.ImageError("the row has neither a source_image nor an edited_image")
        source, edited = (self._blob(row["image"] or b"" if data is None else data, image_id) for data in own.values())
        return source, self._on_one_grid(source, edited) if self.settings.registered else edited

    def _on_one_grid(self, source: Blob, edited: Blob) -> Blob:
        """The edited image, at the source's size if it has another: what it does not show is the source's."""
        infos = [images.probe(blob.data) for blob in (source, edited)]
        if len({(info.width, info.height) for info in infos}) == 1:
            return edited
        original = images.decode(source.data)
        found = registration.register(original, images.decode(edited.data))
        pixels = np.where(found.valid[..., None], found.edited, original)
        return Blob(images.encode(pixels), "png", reencoded=True)

    def _blob(self, data: bytes, image_id: str) -> Blob:
        blob = as_blob(data, lambda: self._pngs.get(data, image_id))
        if "webdataset" in self.settings.formats and blob.extension not in TAR_FORMATS:
            blob = replace(blob, png=self._pngs.get(data, image_id))
        return blob

    def _values(self, row: dict[str, Any]) -> dict[str, Any]:
        boxes = row.get("boxes") or []
        values = {column.name: row.get(column.name) for column in self.columns if not column.is_image}
        sources = row.get("sources")
        named = None if sources is None else [provenance.published(source, self.roots) for source in sources]
        return values | {"boxes": boxes, "bbox": boxes[0] if boxes else None, "sources": named}


def as_blob(data: bytes, as_png: Callable[[], bytes] | None = None) -> Blob:
    """Bytes as they are, or as PNG where readers that only decode would see something else. Raises ImageError.

    as_png: where the caller keeps PNGs.
    """
    info = images.probe(data)
    if info.plain:
        return Blob(data, _EXTENSIONS.get(info.format, info.format.lower()))
    return Blob(images.encode(images.decode(data)) if as_png is None else as_png(), "png", reencoded=True)


def chunks(rows: Sequence[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of one fragment, whole photographs together, a chunk as soon as it has `size` rows; sorted by id in each."""
    chunk: list[dict[str, Any]] = []
    ordered = sorted(rows, key=lambda row: (row.get("parent") or row["id"], row["id"]))
    for _, edits in groupby(ordered, key=lambda row: row.get("parent") or row["id"]):
        chunk += edits
        if len(chunk) >= size:
            yield sorted(chunk, key=lambda row: row["id"])
            chunk = []
    if chunk:
        yield sorted(chunk, key=lambda row: row["id"])


def hashed(content: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _PngCache:
    """PNGs of photographs that many edits share, the least recently used ones dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._entries: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, data: bytes, image_id: str) -> bytes:
        key = (image_id, hash(data))
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        png = images.encode(images.decode(data))
        self._entries[key] = png
        self._used += len(png)
        while self._used > self._limit and len(self._entries) > 1:
            self._used -= len(self._entries.popitem(last=False)[1])
        return png
