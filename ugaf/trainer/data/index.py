"""The index of the shards: every sample's size, key and place, and no image.

The light columns of the shards are read once, when training starts. What cannot be read then (a shard cut short in a
copy, columns that are missing) is an error that names all such files: the plan follows from which samples there are, so
a shard must not be there on one day and not on another. Samples without a size or an id are left out and named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ugaf.base.errors import ConfigError
from ugaf.storage import ahead
from ugaf.storage.store import readers_of
from ugaf.trainer.data import light
from ugaf.trainer.data.geometry import Bucket, buckets_for
from ugaf.trainer.data.settings import DataSettings
from ugaf.trainer.data.shards import (
    NAMED,
    Chunk,
    LeftOut,
    Light,
    Samples,
    Shard,
    filesystem_of,
    find_shards,
    is_of_split,
)


@dataclass(frozen=True)
class Index(Samples):
    """The samples, in the order of their shards; those of a chunk lie together.

    keys: uint64 (n,). widths, heights, local: int32 (n,). references, needed: uint8 (n,).
    chunk_firsts, chunk_rows: int64 (c,), a chunk's first sample and their number. shapes: buckets by size.
    rows: samples in the files, before `split` and `where`. left_out: those without what an index needs.
    """

    shards: tuple[Shard, ...]
    chunks: tuple[Chunk, ...]
    chunk_firsts: np.ndarray
    chunk_rows: np.ndarray
    shapes: tuple[Bucket, ...]
    rows: int
    left_out: LeftOut

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
    shards = [shard for shard in find_shards(settings.shards) if is_of_split(shard.name, settings.split)]
    if not shards:
        raise ConfigError(f"data.shards: no shards of the split {settings.split!r} in {', '.join(settings.shards)}")

    def read(numbered: tuple[int, Shard]) -> light.Found | str:
        number, shard = numbered
        try:
            return light.read(shard, number, settings)
        except (OSError, pa.ArrowException, light.UnreadableShardError) as error:
            return f"{shard.path}: {error}"

    readers = max(readers_of(filesystem_of(shard.url)) for shard in shards)
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


def _joined(shards: list[Shard], found: Sequence[Any], settings: DataSettings) -> Index:
    parts: list[Light] = [part for what in found for part in what.parts if len(part)]
    left_out = LeftOut()
    for what in found:
        left_out.extend(what.left_out)
    rows = sum(what.rows for what in found)
    if not parts:
        named = "".join(f"\n{where}: {why}" for where, why in left_out.named[:3])
        raise ConfigError(f"data: no sample of {rows} is left after data.split and data.where{named}")
    lengths = np.array([len(part) for part in parts], dtype=np.int64)

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
