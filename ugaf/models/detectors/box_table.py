"""A table of boxes in memory: Parquet in, the boxes of an image out, for millions of images.

Two layouts, told apart by the type of the boxes' column: one row an image, with lists (`boxes`: a list of lists of four
numbers), or one row a box (`box`: a list of four numbers, or four columns x1 y1 x2 y2). The columns stay in Arrow; what
is added is a sorted hash of each key, 16 bytes a row. A hash only finds candidates: the key itself decides.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from ugaf.base.errors import ConfigError
from ugaf.stage import RowError
from ugaf.storage import open_filesystem

CORNERS = ("x1", "y1", "x2", "y2")
ROLES = ("key", "boxes", "labels", "scores", *CORNERS)
_KEYS = {
    "id": ("id", "image_id", "key"),
    "source": ("source", "sources", "path", "url", "image", "key"),
    "file_name": ("file_name", "filename", "name", "image", "key"),
}
_NAMES = {
    "boxes": ("boxes", "bboxes", "box", "bbox"),
    "labels": ("labels", "label", "classes", "class", "category"),
    "scores": ("scores", "score", "confidence", "confidences"),
    **{corner: (corner,) for corner in CORNERS},
}
_HASHED_WHOLE = 1 << 32
"""Local files up to this many bytes are known by the hash of their bytes."""


@dataclass(frozen=True)
class Entry:
    """What the table says of one image. boxes: float64 (n, 4); labels, scores: n, None where it has none."""

    key: str
    boxes: np.ndarray
    labels: Sequence[str | None]
    scores: Sequence[float | None]


class BoxTable:
    """Looks images up by key. place: for messages. key_column: the name of the keys' column; example: one of them."""

    def __init__(self, table: pa.Table, columns: Mapping[str, str], place: str) -> None:
        self.place = place
        self.key_column = columns["key"]
        encoded = table["key"].combine_chunks().dictionary_encode()
        codes = pc.fill_null(encoded.indices, -1).to_numpy()
        self._keys = encoded.dictionary
        self._rows = np.argsort(codes, kind="stable").astype(np.uint32)
        self._starts = np.searchsorted(codes, np.arange(len(self._keys) + 1), sorter=self._rows)
        hashes = _hashes(self._keys.to_numpy(zero_copy_only=False))
        self._order = np.argsort(hashes, kind="stable").astype(np.uint32)
        self._hashes = hashes[self._order]
        self._boxes = _as_boxes(table, place)
        self._labels = table["labels"] if "labels" in table.column_names else None
        self._scores = table["scores"] if "scores" in table.column_names else None
        self._by_image = _depth(self._boxes.type) == 2
        self.example = self._keys[0].as_py() if len(self._keys) else None

    @classmethod
    def read(cls, path: str | Sequence[str], key: str, names: Mapping[str, str]) -> BoxTable:
        """The table of all files. key: "id", "source" or "file_name". names: role -> the file's column, where it is not
        one of the usual names. Raises ConfigError for files or columns that are not there."""
        import pyarrow.parquet as pq

        parts, columns = [], {}
        place = path if isinstance(path, str) else ", ".join(path)
        for filesystem, file in files_of(path):
            with filesystem.open_input_file(file) as handle:
                parquet = pq.ParquetFile(handle)
                columns = _columns(parquet.schema_arrow, key, names, file)
                part = parquet.read(columns=list(columns.values()), use_threads=False)
            parts.append(_typed(part.select(list(columns.values())).rename_columns(list(columns)), file))
        try:
            # Boxes of one file may be of integers, of another of floats.
            table = pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowInvalid as error:
            raise ConfigError(f"detector.path: the files of {place} do not fit together: {error}") from error
        parts.clear()
        found = cls(table, columns, place)
        del table
        pa.default_memory_pool().release_unused()
        return found

    def get(self, key: str) -> Entry | None:
        """The entry of an image, None if there is none. Raises RowError if it is not clear."""
        rows = self._rows_of(key)
        if not rows:
            return None
        if not self._by_image:
            # A row without a box says that the image was looked at.
            rows = [row for row in rows if self._boxes[row].is_valid]
            return self._entry(
                key,
                [self._boxes[row].as_py() for row in rows],
                [_at(self._labels, row) for row in rows],
                [_at(self._scores, row) for row in rows],
            )
        if len(rows) > 1:
            raise RowError(f"{key!r} has {len(rows)} rows in {self.place}: one row an image is expected")
        found = self._boxes[rows[0]].as_py()
        if found is None:
            raise RowError(f"{key!r} has null boxes in {self.place}: write an empty list where nothing was found")
        return self._entry(key, found, _at(self._labels, rows[0]), _at(self._scores, rows[0]))

    def _rows_of(self, key: str) -> list[int]:
        (wanted,) = _hashes(np.array([key], dtype=object))
        first, last = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        for known in self._order[first:last].tolist():
            if self._keys[known].as_py() == key:
                return self._rows[self._starts[known] : self._starts[known + 1]].tolist()
        return []

    def _entry(self, key: str, boxes: list[Any], labels: Any, scores: Any) -> Entry:
        if any(box is None or len(box) != 4 for box in boxes):
            raise RowError(f"{key!r}: a box in {self.place} has not four numbers")
        nothing = [None] * len(boxes)
        labels, scores = nothing if labels is None else labels, nothing if scores is None else scores
        for name, values in (("labels", labels), ("scores", scores)):
            if len(values) != len(boxes):
                raise RowError(f"{key!r}: {len(boxes)} boxes and {len(values)} {name} in {self.place}")
        numbers = np.array([[np.nan if value is None else value for value in box] for box in boxes], np.float64)
        return Entry(key, numbers.reshape(-1, 4), labels, scores)


def files_of(path: str | Sequence[str]) -> list[tuple[pafs.FileSystem, str]]:
    """The Parquet files that paths, folders and patterns name, sorted. Raises ConfigError where one names none."""
    found: list[tuple[pafs.FileSystem, str]] = []
    for given in [path] if isinstance(path, str) else path:
        fixed = re.split(r"[*?\[]", given, maxsplit=1)[0]
        folder = given if fixed == given else fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else ".")
        filesystem, root = open_filesystem(folder)
        info = filesystem.get_file_info(root)
        files = [root]
        if info.type == pafs.FileType.Directory:
            listed = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
            files = sorted(f.path for f in listed if f.type == pafs.FileType.File and f.path.endswith(".parquet"))
            if fixed != given:
                pattern = _pattern(given[len(folder) :].lstrip("/") if folder != "." else given)
                files = [file for file in files if pattern.fullmatch(file[len(root) :].lstrip("/"))]
        elif info.type != pafs.FileType.File:
            files = []
        if not files:
            raise ConfigError(f"detector.path: no Parquet file at {given}")
        found.extend((filesystem, file) for file in files)
    return found


def content_of(path: str | Sequence[str]) -> str:
    """A hash that changes with the files' content; their names and times do not matter.

    Local files are hashed whole, up to 4 GiB. Larger and remote ones, which would take too long at every command, are
    known by their size and their footer (row counts, sizes and extremes of every column), and by their time of change.
    """
    digest = hashlib.sha256()
    for filesystem, file in files_of(path):
        info = filesystem.get_file_info(file)
        local = isinstance(filesystem, pafs.LocalFileSystem)
        digest.update(_content(file if local else None, filesystem, file, info.size, info.mtime_ns or 0))
    return digest.hexdigest()[:32]


def _content(local: str | None, filesystem: pafs.FileSystem, file: str, size: int, time: int) -> bytes:
    if local is not None and size <= _HASHED_WHOLE:
        return _whole(local, size, time)
    with filesystem.open_input_file(file) as handle:
        handle.seek(max(0, size - 8))
        length = int.from_bytes(handle.read(4), "little")
        handle.seek(max(0, size - 8 - length))
        return hashlib.sha256(handle.read(length) + f"{size}/{time}".encode()).digest()


@functools.lru_cache(maxsize=4096)
def _whole(path: str, size: int, time: int) -> bytes:  # noqa: ARG001 - they say when to look again
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _columns(schema: pa.Schema, key: str, names: Mapping[str, str], file: str) -> dict[str, str]:
    """Role -> the file's column, for what the file has of them."""
    there = set(schema.names)
    for role, name in names.items():
        if name not in there:
            raise ConfigError(
                f"detector.columns.{role}: {file} has no column {name!r}; it has {', '.join(schema.names)}"
            )
    found: dict[str, str] = dict(names)
    for role, usual in {"key": _KEYS[key], **_NAMES}.items():
        known = [name for name in usual if name in there]
        if known:
            found.setdefault(role, known[0])
    if "key" not in found:
        raise ConfigError(
            f"detector.columns: name the column of the key ({key}) of {file}; it has {', '.join(schema.names)}"
        )
    if "boxes" in found:
        return {role: name for role, name in found.items() if role not in CORNERS}
    if not all(corner in found for corner in CORNERS):
        raise ConfigError(f"detector.columns: name the column of the boxes of {file}; it has {', '.join(schema.names)}")
    return found


def _typed(table: pa.Table, file: str) -> pa.Table:
    """With keys as strings. Raises ConfigError for keys or labels that are no text."""
    kind = table["key"].type
    if not _is_text(kind) or pa.types.is_list(kind):
        raise ConfigError(f"detector.columns.key: the keys of {file} are {kind}, not text")
    if "labels" in table.column_names and not _is_text(table["labels"].type):
        raise ConfigError(f"detector.columns.labels: the labels of {file} are {table['labels'].type}, not class names")
    return table.set_column(table.column_names.index("key"), "key", table["key"].cast(pa.large_string()))


def _is_text(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _as_boxes(table: pa.Table, place: str) -> pa.ChunkedArray:
    """The boxes' column; four columns as one of lists. Raises ConfigError for another type."""
    if "boxes" not in table.column_names:
        corners = [table[corner].combine_chunks().cast(pa.float64()) for corner in CORNERS]
        nothing = functools.reduce(pc.and_, [pc.is_null(corner) for corner in corners])
        flat = np.stack([corner.to_numpy(zero_copy_only=False) for corner in corners], axis=1).reshape(-1)
        return pa.chunked_array(
            [pa.FixedSizeListArray.from_arrays(pa.array(flat), 4, mask=nothing)], pa.list_(pa.float64(), 4)
        )
    column = table["boxes"]
    if _depth(column.type) not in (1, 2):
        raise ConfigError(
            f"detector.columns.boxes: the boxes of {place} are {column.type}; expected lists of four numbers"
        )
    return column


def _depth(kind: pa.DataType) -> int:
    """1 for a list of numbers, 2 for a list of those, 0 for what is neither."""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind) else 0


def _hashes(keys: np.ndarray) -> np.ndarray:
    """uint64 (n,) of texts, the same in every process."""
    from pandas.util import hash_array

    return hash_array(keys, categorize=False)


def _at(column: pa.ChunkedArray | None, row: int) -> Any:
    return None if column is None else column[row].as_py()


def _pattern(glob: str) -> re.Pattern[str]:
    """* and ? within a name, ** across folders."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = re.sub(
        r"\*\*/|\*\*|\*|\?|\[[^\]]*\]|.",
        lambda found: parts.get(
            found[0], found[0] if found[0].startswith("[") and len(found[0]) > 1 else re.escape(found[0])
        ),
        glob,
    )
    return re.compile(text)
