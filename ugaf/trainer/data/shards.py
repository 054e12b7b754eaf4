"""The index of the shards: every sample's size, key and place, and no image.

Shards are found under paths and URLs, and their light columns are read once, when training starts. What cannot be read
then (a shard cut short in a copy, columns that are missing) is an error that names all such files: the plan follows
from which samples there are, so a shard must not be there on one day and not on another. Samples without a size or an
id are left out and named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from ugaf.base.errors import ConfigError
from ugaf.storage import ahead, open_filesystem
from ugaf.storage.store import readers_of
from ugaf.trainer.data.geometry import Bucket, buckets_for
from ugaf.trainer.data.settings import DataSettings

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
        return _filesystem(self.url).open_input_file(self.path)


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


@dataclass
class Light:
    """Light columns of the samples of one chunk.

    local: place in the chunk. references: how many. needed: bits of those that an instruction names.
    """

    chunk: Chunk
    keys: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    references: np.ndarray
    needed: np.ndarray
    local: np.ndarray


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


@dataclass(frozen=True)
class Index:
    """The samples, in the order of their shards; those of a chunk lie together.

    keys: uint64 (n,), a hash of the id. widths, heights: int32 (n,), pixels of the source. references: uint8 (n,).
    needed: uint8 (n,), bits of the references that an instruction names. local: int32 (n,), place in the chunk.
    chunk_firsts, chunk_rows: int64 (c,), a chunk's first sample and their number. shapes: buckets by size.
    rows: samples in the files, before `split` and `where`. left_out: those without what an index needs.
    """

    shards: tuple[Shard, ...]
    chunks: tuple[Chunk, ...]
    chunk_firsts: np.ndarray
    chunk_rows: np.ndarray
    keys: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    references: np.ndarray
    needed: np.ndarray
    local: np.ndarray
    shapes: tuple[Bucket, ...]
    rows: int
    left_out: LeftOut

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def chunk_bytes(self) -> np.ndarray:
        """int64 (c,)."""
        return np.array([chunk.size for chunk in self.chunks], dtype=np.int64)

    def chunk_of(self, row: int) -> int:
        """The chunk of a sample."""
        return int(np.searchsorted(self.chunk_firsts, row, side="right")) - 1

    def where(self, row: int) -> str:
        """The sample's place, for messages: shard, chunk and place in it."""
        chunk = self.chunks[self.chunk_of(row)]
        kind = "row group" if self.shards[chunk.shard].name.endswith(".parquet") else "run"
        return f"{self.shards[chunk.shard].name}, {kind} {chunk.number}, sample {int(self.local[row])}"

    def filtered_hint(self) -> str:
        """' of 100 (the others ...)' where samples were filtered."""
        return "" if len(self) == self.rows else f" of {self.rows} after data.split and data.where"

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything that changes the plan: to be compared when a training goes on."""
        digest = hashlib.sha256(repr(self.shapes).encode())
        columns = (self.keys, self.widths, self.heights, self.references, self.needed, self.chunk_rows)
        for values in columns:
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()[:16]


def open_index(settings: DataSettings) -> Index:
    """Find the shards and read their light columns.

    Raises:
        ConfigError: nothing is there, a shard cannot be read (all such are named), a column is missing, or nothing is
            left after `split` and `where`.
    """
    from ugaf.trainer.data import light

    shards = [shard for shard in find_shards(settings.shards) if _of_split(shard.name, settings.split)]
    if not shards:
        raise ConfigError(f"data.shards: no shards of the split {settings.split!r} in {', '.join(settings.shards)}")

    def read(numbered: tuple[int, Shard]) -> light.Found | str:
        number, shard = numbered
        try:
            return light.read(shard, number, settings)
        except (OSError, pa.ArrowException, light.UnreadableShardError) as error:
            return f"{shard.path}: {error}"

    readers = max(readers_of(_filesystem(shard.url)) for shard in shards)
    found = list(ahead(read, list(enumerate(shards)), readers))
    broken = [what for what in found if isinstance(what, str)]
    if broken:
        more = f"\n... and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        listed = "\n".join(broken[:NAMED]) + more
        raise ConfigError(
            f"data.shards: {len(broken)} of {len(shards)} shards cannot be read. Copy them again, or leave them out of "
            f"data.shards:\n{listed}"
        )
    return _joined(shards, [what for what in found if not isinstance(what, str)], settings)


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
def _filesystem(url: str) -> pafs.FileSystem:
    return open_filesystem(url)[0] if url else pafs.LocalFileSystem()


def _of_split(name: str, split: str | None) -> bool:
    """False for a file whose name says that it is of another split."""
    prefix = _SPLIT.match(name)
    return split is None or prefix is None or {"val": "validation"}.get(prefix[1], prefix[1]) == split


def _joined(shards: list[Shard], found: Sequence[Any], settings: DataSettings) -> Index:
    parts: list[Light] = [part for what in found for part in what.parts if len(part.keys)]
    left_out = LeftOut()
    for what in found:
        left_out.extend(what.left_out)
    rows = sum(what.rows for what in found)
    if not parts:
        named = "".join(f"\n{where}: {why}" for where, why in left_out.named[:3])
        raise ConfigError(f"data: no sample of {rows} is left after data.split and data.where{named}")
    lengths = np.array([len(part.keys) for part in parts], dtype=np.int64)

    def joined(name: str, type: Any) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts]).astype(type)

    return Index(
        shards=tuple(shards),
        chunks=tuple(part.chunk for part in parts),
        chunk_firsts=np.cumsum(lengths) - lengths,
        chunk_rows=lengths,
        keys=joined("keys", np.uint64),
        widths=joined("widths", np.int32),
        heights=joined("heights", np.int32),
        references=joined("references", np.uint8),
        needed=joined("needed", np.uint8),
        local=joined("local", np.int32),
        shapes=tuple(buckets_for(settings.area, settings.multiple, settings.ratios)),
        rows=rows,
        left_out=left_out,
    )
