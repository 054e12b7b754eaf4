"""A run as an export reads it, over tables in memory, with edits of real photographs."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ugaf.columns import lease
from ugaf.export import ExportSettings
from ugaf.imaging import images
from ugaf.storage import Storage

EDIT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("parent", pa.string()),
        ("status", pa.string()),
        ("image", pa.large_binary()),
        ("source_image", pa.large_binary()),
        ("edited_image", pa.large_binary()),
        ("edit_mask", pa.large_binary()),
        ("change_mask", pa.large_binary()),
        ("instruction", pa.string()),
        ("instruction_cn", pa.string()),
        ("task", pa.string()),
        ("register", pa.string()),
        ("target", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.int32()))),
        ("bbox_edit", pa.list_(pa.int32())),
        ("params", pa.string()),
        ("donor", pa.string()),
        ("engine", pa.string()),
        ("editor", pa.string()),
        ("edit_way", pa.string()),
        ("screener", pa.string()),
        ("objects", pa.list_(pa.struct([("label", pa.string())]))),
        ("indoor", pa.bool_()),
        ("caption", pa.string()),
        ("sources", pa.list_(pa.string())),
        ("rgb_entropy", pa.float64()),
        ("n_objects", pa.int32()),
        ("iou", pa.float64()),
        ("quality", pa.float64()),
        ("source_id", pa.string()),
        ("edited_id", pa.string()),
        ("image_id", pa.string()),
        ("split", pa.string()),
    ]
)
DEFAULTS: dict[str, Any] = {
    "status": "kept",
    "instruction": "Paint the cat teal.",
    "task": "recolor",
    "register": "concise",
    "target": "cat",
    "boxes": [[10, 20, 60, 70]],
    "bbox_edit": [11, 20, 60, 69],
    "params": '{"object": 0}',
    "engine": "templates",
    "editor": "templates/1",
    "sources": ["sample://chelsea"],
    "rgb_entropy": 6.5,
    "n_objects": 3,
    "iou": 0.9,
    "quality": 8.25,
}


HEAVY = ("image", "source_image", "edited_image", "edit_mask", "change_mask")


@dataclass
class FakeView:
    """The part of `ugaf.columns.view.RunView` that an export reads, over tables in memory (one a fragment)."""

    storage: Storage
    tables: list[pa.Table]
    is_pairs: bool = False
    fingerprint: str = "f00d"
    name: str = "demo"
    document: dict[str, Any] = field(
        default_factory=lambda: {"inputs": [{"path": "photos"}], "seed": 7, "output": "/x"}
    )
    providers: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(EDIT_SCHEMA.names, "s"))
    after_values: Callable[[], None] = lambda: None
    record: dict[str, Any] = field(default_factory=dict)
    snapshot: None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pipeline(self) -> Any:
        return SimpleNamespace(
            providers=self.providers,
            is_pairs=self.is_pairs,
            is_base_column=lambda name: name == "image" or self.is_pairs,
            document=self.document,
            settings=SimpleNamespace(export=ExportSettings(), inputs=[]),
        )

    @property
    def fragments(self) -> list[str]:
        return [f"{number:06d}" for number in range(len(self.tables))]

    @property
    def stages(self) -> list[Any]:
        keep = {"iou": {"min": 0.5}, "quality": {"min": 6.1234567, "min_quantile": 0.05}}
        image = SimpleNamespace(name="curation.photometric", level="image", keep={}, fingerprint="aa")
        image.measures = ["rgb_entropy", "n_objects"]
        edit = SimpleNamespace(name="refinement.score", level="edit", keep=keep, fingerprint=self.fingerprint)
        edit.measures = ["iou", "quality"]
        return [image, edit]

    def funnel(self) -> list[Any]:
        common = {"failed": 1, "pending": 0, "seconds": 1.5, "rows": 10}
        first = {"rejected": {"rgb_entropy < 5.5": 2}, "errors": {"ImageError": 1}}
        return [SimpleNamespace(name="curation.photometric", level="image", given=10, kept=7, **first, **common)]

    def rows(self, level: str, columns: Sequence[str] = (), *, kept: bool = False) -> Iterator[pa.Table]:
        assert level == "edit"
        assert not set(columns) & set(HEAVY), "images are read by `values`, a few rows at a time"
        fixed = ["id", "status"] if self.is_pairs else ["id", "parent", "status"]
        for table in self.tables:
            rows = table.filter(pc.equal(table.column("status"), "kept")) if kept else table
            yield rows.select([*fixed, *dict.fromkeys(columns)])

    def values(self, fragment: str, columns: Sequence[str], ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.after_values()
        key = "parent" if "image" in columns and not self.is_pairs else "id"
        table = self.tables[int(fragment)]
        rows = table.filter(pc.is_in(table.column(key), pa.array(list(ids), pa.string()))).to_pylist()
        found = {row[key]: {name: row[name] for name in columns} for row in rows}
        return {name: found.get(name, dict.fromkeys(columns)) for name in ids}


def fragment(*rows: Mapping[str, Any]) -> pa.Table:
    """A table of edits; the ids are made from the rows."""
    full = [{**DEFAULTS, **row} for row in rows]
    for row in full:
        row.setdefault("parent", hashlib.sha256(row["image"]).hexdigest()[:32])
        for name, column in (("source_id", "image"), ("edited_id", "edited_image")):
            row[name] = hashlib.sha256(row.get(column) or b"").hexdigest()[:32]
        row.setdefault("id", hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()[:32])
    return pa.Table.from_pylist(sorted(full, key=lambda row: row["id"]), schema=EDIT_SCHEMA)


def edits_of(photo: np.ndarray, count: int, **values: Any) -> list[dict[str, Any]]:
    """Edits of one photograph: a rectangle darkened a bit more each time."""
    data = images.encode(photo, "jpeg")
    rows = []
    for number in range(count):
        edited, mask = images.decode(data).copy(), np.zeros(photo.shape[:2], bool)
        edited[20:70, 10:60] //= number + 2
        mask[20:70, 10:60] = True
        own = {"edited_image": images.encode(edited), "edit_mask": images.encode_mask(mask)}
        rows.append({"image": data, **own, "instruction": f"Darken it, step {number}.", **values})
    return rows


def two_fragments(photos: Mapping[str, np.ndarray]) -> list[pa.Table]:
    """Two edits of each photograph at 160 pixels, in two fragments, and a rejected one."""
    small = {name: images.decode(images.encode(photo), 160) for name, photo in photos.items()}
    rows = [edits_of(photo, 2, sources=[f"sample://{name}"]) for name, photo in small.items()]
    rejected = {**rows[0][0], "status": "rejected", "instruction": "not me"}
    return [fragment(*rows[0], *rows[1], rejected), fragment(*(row for more in rows[2:] for row in more))]


def contents(storage: Storage) -> dict[str, bytes]:
    """All files but the lease, which says who wrote last."""
    return {name: storage.read(name) for name in storage.files() if not name.startswith(f"{lease.FOLDER}/")}


def parquet_rows(storage: Storage) -> list[dict[str, Any]]:
    names = [name for name in storage.files() if name.endswith(".parquet")]
    return [row for name in names for row in pq.read_table(io.BytesIO(storage.read(name))).to_pylist()]


def tar_members(storage: Storage) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    for name in (name for name in storage.files("shards/webdataset") if name.endswith(".tar")):
        with tarfile.open(fileobj=io.BytesIO(storage.read(f"shards/webdataset/{name}"))) as tar:
            for member in tar:
                out[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return out


def plain_decode(data: bytes) -> np.ndarray:
    """What a reader that knows nothing of EXIF or colour spaces sees."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
