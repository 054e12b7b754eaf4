"""Shards for the trainer's tests: written by ugaf's own writers, and indexes that have no files at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ugaf.export.columns import CORE
from ugaf.export.folder import Folder
from ugaf.export.parquet import ParquetShards
from ugaf.export.rows import Blob, Record
from ugaf.export.webdataset import WebDatasetShards
from ugaf.imaging import images
from ugaf.storage import Storage
from ugaf.trainer.data.geometry import buckets_for
from ugaf.trainer.data.index import Index
from ugaf.trainer.data.settings import DataSettings
from ugaf.trainer.data.shards import Chunk, LeftOut, Shard

SIZES = ((64, 48), (48, 64), (56, 56), (96, 40))
BOX = (10, 8, 30, 28)
SMALL: dict[str, Any] = {"area": 48 * 48, "multiple": 16, "lanes": 2, "workers": 0, "ratios": (0.4, 2.5)}
"""Settings that suit images of SIZES."""


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """Noise of one colour, RGB uint8 (height, width, 3), a different one for each number."""
    rng = np.random.default_rng(number)
    return (rng.integers(0, 60, (size[1], size[0], 3)) + rng.integers(0, 196, 3)).astype(np.uint8)


def record(number: int, **values: Any) -> Record:
    """A pair whose edited image is its source with the box darkened."""
    size = values.pop("size", SIZES[number % len(SIZES)])
    source = picture(number, size)
    edited = source.copy()
    edited[BOX[1] : BOX[3], BOX[0] : BOX[2]] //= 2
    id = hashlib.sha256(str(number).encode()).hexdigest()[:32]
    full = {column.name: None for column in CORE if not column.is_image}
    full |= {"id": id, "width": size[0], "height": size[1], "split": "train", "register": "concise", "task": "recolor"}
    full |= {"instruction": f"Darken it, {number}.", "instruction_cn": f"变暗，{number}。"}
    full |= {"boxes": [list(BOX)], "bbox": list(BOX)}
    blobs = {"source": Blob(images.encode(source), "png"), "edited": Blob(images.encode(edited), "png")}
    blobs |= {name: values.pop(name) for name in ("source", "edited") if name in values}
    full |= values
    return Record(full["id"], full["split"], blobs["source"], blobs["edited"], None, None, full)


def records(count: int, start: int = 0) -> list[Record]:
    return [record(number) for number in range(start, start + count)]


def write(url: str | Path, some: Sequence[Record], kind: str = "parquet", limit: float = 60e3) -> str:
    """Shards as an export writes them, in the folder of a run; its URL."""
    storage = Storage(str(url))
    folder = Folder(storage, kind)
    for split in sorted({one.split for one in some}):
        shards: Any = ParquetShards(folder, split, CORE, limit) if kind == "parquet" else None
        shards = shards or WebDatasetShards(folder, split, limit)
        with shards:
            for one in some:
                if one.split == split:
                    shards.add(one)
    for staged, target in folder.moves.items():
        storage.write(target, storage.read(staged))
        storage.remove(staged)
    return str(url)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], rows: int = 100) -> None:
    """A Parquet file with its table changed."""
    pq.write_table(change(pq.read_table(path)), path, row_group_size=rows)


def with_references(path: Path, counts: Sequence[int], rows: int = 8) -> None:
    """Add a column of so many reference images, each of one grey value that says which it is (40 k + 40)."""
    grey = [images.encode(np.full((20, 30, 3), 40 * k + 40, np.uint8)) for k in range(max(counts))]

    def change(table: pa.Table) -> pa.Table:
        lists = [[{"bytes": grey[k], "path": f"{k}.png"} for k in range(counts[n])] for n in range(len(table))]
        column = pa.array(lists, pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
        text = [" and ".join(["Take Picture 1", *(f"Picture {k + 2}" for k in range(n))]) for n in counts]
        table = table.set_column(table.column_names.index("instruction"), "instruction", pa.array(text))
        return table.append_column("references", column)

    rewrite(path, change, rows)


def settings(*shards: str | Path, **changes: Any) -> DataSettings:
    return DataSettings.model_validate({"shards": [str(shard) for shard in shards], **SMALL, **changes})


def index_of(sizes: Sequence[tuple[int, int]], chunk_rows: Sequence[int], references: Sequence[int] = ()) -> Index:
    """An index without shards: samples of these sizes, in chunks of so many rows of 1 MB each."""
    lengths = np.array(chunk_rows, dtype=np.int64)
    rows = int(lengths.sum())
    widths, heights = np.array([sizes[n % len(sizes)] for n in range(rows)], dtype=np.int32).T
    counts = np.array([references[n % len(references)] if references else 0 for n in range(rows)], dtype=np.uint8)
    return Index(
        shards=(Shard("", "made-up.parquet"),),
        chunks=tuple(Chunk(0, number, int(length) * 10**6) for number, length in enumerate(chunk_rows)),
        chunk_firsts=np.cumsum(lengths) - lengths,
        chunk_rows=lengths,
        keys=np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        widths=widths,
        heights=heights,
        references=counts,
        needed=np.zeros(rows, dtype=np.uint8),
        local=np.concatenate([np.arange(length) for length in chunk_rows]).astype(np.int32),
        shapes=tuple(buckets_for()),
        rows=rows,
        left_out=LeftOut(),
    )


def json_of(one: Record) -> dict[str, Any]:
    return json.loads(one.json())
