"""Shards: files of samples, found under paths and URLs; what of them is read at once, and what is left out of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from ugaf.base.errors import ConfigError
from ugaf.storage import open_filesystem

FORMATS = (".parquet", ".tar")
_FOLDERS = ("shards/parquet", "shards/webdataset", "parquet", "webdataset", "data", "")
"""Where shards lie below a folder; the first place that has some counts: a run has its samples in both formats."""
_SPLIT = re.compile(r"(train|validation|test|val)[-_.]")
NAMED = 20
"""How many of the samples that are left out are named."""


@dataclass(frozen=True)
class Shard:
    """A file. url: what opens its file system (`ugaf.storage.open_filesystem`). path: in that file system."""

    url: str
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def open(self) -> pa.NativeFile:
        """For random access."""
        return filesystem_of(self.url).open_input_file(self.path)


@dataclass(frozen=True)
class Chunk:
    """What is read at once: a row group of a Parquet file, or a run of samples of a tar.

    shard: place in `Index.shards`. number: of the row group, or of the run. start, length: a tar's bytes.
    size: bytes of the columns that training reads, about.
    """

    shard: int
    number: int
    size: int
    start: int = 0
    length: int = 0


@dataclass(frozen=True)
class Samples:
    """What the plan needs of samples, one after the other.

    keys: a hash of the id. widths, heights: pixels of the source. references: how many. needed: bits of those that an
    instruction names. local: place in the chunk.
    """

    keys: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    references: np.ndarray
    needed: np.ndarray
    local: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Light(Samples):
    """Light columns of the samples of one chunk."""

    chunk: Chunk


@dataclass
class LeftOut:
    """Samples that the index leaves out. named: the first few, as (where, why)."""

    count: int = 0
    named: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, why: str) -> None:
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append((where, why))

    def extend(self, other: LeftOut) -> None:
        self.count += other.count
        self.named = [*self.named, *other.named][:NAMED]


def find_shards(places: Sequence[str]) -> list[Shard]:
    """Every shard under paths and URLs, in the order of the places and by name within each, none twice.

    Raises ConfigError for a place with none.
    """
    found: dict[tuple[str, str], Shard] = {}
    for place in places:
        here = list(_under(place))
        if not here:
            raise ConfigError(f"data.shards: no *.parquet or *.tar in {place}")
        found |= {(shard.path, place if "://" in place else ""): shard for shard in here}
    return list(found.values())


def _under(place: str) -> Iterator[Shard]:
    filesystem, path = open_filesystem(place)
    base, pattern = path.rstrip("/"), None
    if "*" in path:
        base = path.split("*")[0].rpartition("/")[0]
        pattern = path
    info = filesystem.get_file_info(base)
    if info.type == pafs.FileType.File:
        yield Shard(_root(place), base)
        return
    names = _listing(filesystem, base)
    if pattern is not None:
        matches = re.compile(_glob(pattern)).fullmatch
        yield from (Shard(_root(place), name) for name in names if matches(name))
        return
    for folder in _FOLDERS:
        prefix = f"{base}/{folder}".rstrip("/") + "/"
        # A folder's own files: those of folders below it are found by naming these, or by a glob.
        here = [name for name in names if name.startswith(prefix) and "/" not in name[len(prefix) :]]
        formats = {name[name.rindex(".") :] for name in here}
        if len(formats) > 1:
            raise ConfigError(f"data.shards: {prefix} has *.parquet and *.tar: name one, as in {prefix}*.parquet")
        if here:
            yield from (Shard(_root(place), name) for name in here)
            return


def _glob(pattern: str) -> str:
    """A pattern as a regular expression: * is anything but a slash, ** is anything."""
    parts = re.split(r"(\*\*/?|\*)", pattern)
    return "".join({"*": "[^/]*"}.get(part, ".*" if part.startswith("**") else re.escape(part)) for part in parts)


def _listing(filesystem: pafs.FileSystem, base: str) -> list[str]:
    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    files = (info.path for info in filesystem.get_file_info(selector) if info.type == pafs.FileType.File)
    return sorted(
        name
        for name in files
        if name.endswith(FORMATS) and not any(part.startswith((".", "_")) for part in name[len(base) :].split("/"))
    )


def _root(place: str) -> str:
    """What opens the place's file system again: the URL itself, "" for local paths."""
    return place if "://" in place else ""


@lru_cache(maxsize=64)
def filesystem_of(url: str) -> pafs.FileSystem:
    """The file system of a shard's `url`, opened once in a process."""
    return open_filesystem(url)[0] if url else pafs.LocalFileSystem()


def is_of_split(name: str, split: str | None) -> bool:
    """False for a file whose name says that it is of another split."""
    prefix = _SPLIT.match(name)
    return split is None or prefix is None or {"val": "validation"}.get(prefix[1], prefix[1]) == split
