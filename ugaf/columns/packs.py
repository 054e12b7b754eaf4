"""Packs: what readers of a whole run need of many fragments, in one file, so that no part of them has to be opened.

A pack is a cache. It says of each of its fragments in which state it was read: a digest of the names, sizes and times
of the files that hold it. What has another state now is read again from these files, and packed anew. So packs may be
thrown away at any time; one that is damaged, or is not ugaf's, counts as not there. They are written where that is
worth it and the folder lets them, and by any reader: two at once write two packs, of which either will do.

The file: a head (its digest, then JSON: which columns, and where each section lies with its digest), then sections,
each a table. The first, `fragments`, has a row for each fragment; the others have a fragment's rows side by side.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ugaf.base.errors import StopRun, UgafError
from ugaf.storage import Storage, ahead

FOLDER = "snapshots"
SUFFIX = ".pack"
FORMAT = 1
"""Of the file and of what is in it: raised, every pack that is there counts as none."""
FRAGMENTS = 512
"""Of a pack, if there are so many."""
LEAST = 32
"""Files that have to be read before it is worth a pack: half a second of work."""
MOST_SMALL = 8
"""Packs of few fragments that may lie side by side before they become one."""
HELD = 64 << 20
"""Bytes of tables of one kind that are kept in memory."""
INDEX = "fragments"
_MAGIC = b"ugafpack"
_ERRORS = (UgafError, StopRun, OSError, pa.ArrowException, ValueError, KeyError, TypeError)

States = Mapping[str, bytes]
"""Fragment -> digest of what it is made of, in the order of fragments."""


@dataclass(frozen=True)
class Read:
    """What was read of a fragment. facts: a value a column of the section `fragments`. files: how many were opened."""

    facts: Mapping[str, Any]
    sections: Mapping[str, pa.Table]
    files: int


def state_of(files: Mapping[str, tuple[int, int]]) -> bytes:
    """16 bytes that stand for these files as they are: by name, size and time of change."""
    text = "\n".join(f"{name} {size} {time}" for name, (size, time) in sorted(files.items()))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(eq=False)
class Pack:
    """One file, or what will be one. path: None while it is in memory alone. facts: the section `fragments`."""

    columns: frozenset[str]
    facts: pa.Table
    path: str | None = None
    places: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    sections: Mapping[str, pa.Table] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        return self.facts.column("fragment").to_pylist()

    @cached_property
    def states(self) -> list[bytes]:
        return self.facts.column("state").to_pylist()

    def starts(self, section: str) -> np.ndarray:
        """Where each fragment's rows begin in a section, and where the last one's end."""
        if section not in self._starts:
            counts = self.facts.column(f"rows {section}").to_numpy()
            self._starts[section] = np.concatenate([[0], np.cumsum(counts)])
        return self._starts[section]

    @cached_property
    def _starts(self) -> dict[str, np.ndarray]:
        return {}

    def fact(self, name: str) -> list[Any]:
        if name not in self._facts:
            self._facts[name] = self.facts.column(name).to_pylist()
        return self._facts[name]

    @cached_property
    def _facts(self) -> dict[str, list[Any]]:
        return {}


class Shelf:
    """All packs of one kind: of a stage, of ingest, of the lists of sources.

    columns: what a pack has to have. read: what is packed of a fragment. writes: whether new packs may be kept.
    """

    def __init__(
        self,
        storage: Storage,
        kind: str,
        columns: Sequence[str],
        read: Callable[[str, Sequence[str]], Read],
        writes: bool,
    ) -> None:
        self.storage = storage
        self.folder = f"{FOLDER}/{kind}"
        self.columns = frozenset(columns)
        self.writes = writes
        self._read = read
        self._packs: list[Pack] = []
        self._known: set[str] = set()
        self._live: dict[str, tuple[Pack, int]] = {}
        self._unsaved = 0
        self._held: OrderedDict[tuple[int, str], pa.Table] = OrderedDict()

    def bring_up_to_date(self, states: States) -> None:
        """Read what has changed; from then on it can be asked for these fragments."""
        self._open_new()
        self._states = states
        self._live = {}
        for pack in self._packs:
            if self.columns <= pack.columns:
                for number, (name, state) in enumerate(zip(pack.names, pack.states, strict=True)):
                    if states.get(name) == state:
                        self._live[name] = (pack, number)
        self._take_in([name for name in states if name not in self._live])
        self._tidy()

    def fact(self, name: str) -> list[Any]:
        """One fact of every fragment, in order."""
        return [pack.fact(name)[number] for pack, number in map(self._live.__getitem__, self._states)]

    def counts(self, section: str, fragments: Sequence[str]) -> np.ndarray:
        """Rows of each of these fragments: int64 (n,)."""
        found = [(pack.starts(section), number) for pack, number in map(self._live.__getitem__, fragments)]
        return np.array([starts[number + 1] - starts[number] for starts, number in found], dtype=np.int64)

    def rows(self, section: str, fragments: Sequence[str]) -> pa.Table:
        """The rows of these fragments, one fragment after the other."""
        while True:
            try:
                return pa.concat_tables(self._slices(section, fragments))
            except _DamagedError as error:
                self._mend(error.pack)

    def _slices(self, section: str, fragments: Sequence[str]) -> list[pa.Table]:
        runs: list[tuple[Pack, int, int]] = []
        for name in fragments:
            pack, number = self._live[name]
            if runs and runs[-1][0] is pack and runs[-1][2] == number:
                runs[-1] = (pack, runs[-1][1], number + 1)
            else:
                runs.append((pack, number, number + 1))
        out = []
        for pack, first, end in runs:
            starts = pack.starts(section)
            out.append(self._table(pack, section).slice(starts[first], starts[end] - starts[first]))
        return out

    def _table(self, pack: Pack, section: str) -> pa.Table:
        others = pack.columns - self.columns
        if section in pack.sections:
            return _without(pack.sections[section], others)
        key = (id(pack), section)
        if key not in self._held:
            self._held[key] = _without(self._load(pack, section), others)
            while len(self._held) > 1 and sum(table.nbytes for table in self._held.values()) > HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    def _load(self, pack: Pack, section: str) -> pa.Table:
        assert pack.path is not None
        try:
            offset, size, digest = pack.places[section]
            table = _table_of(self.storage.read_with(pack.path, lambda file: _at(file, offset, size)), digest)
            if table.num_rows != pack.starts(section)[-1]:
                raise ValueError
        except _ERRORS as error:
            raise _DamagedError(pack) from error
        return table

    def _mend(self, damaged: Pack) -> None:
        """Read again what only a damaged pack holds."""
        self._packs.remove(damaged)
        lost = [name for name, (pack, _) in self._live.items() if pack is damaged]
        if self.writes and damaged.path is not None:
            with suppress(*_ERRORS):
                self.storage.remove(damaged.path)
        self._take_in(lost)

    def _open_new(self) -> None:
        """Take in packs that were not there before."""
        with suppress(*_ERRORS):
            for name in self.storage.list(self.folder):
                path = f"{self.folder}/{name}"
                if name.endswith(SUFFIX) and path not in self._known:
                    self._known.add(path)
                    with suppress(*_ERRORS):
                        self._packs.append(_opened(self.storage, path))

    def _take_in(self, missing: Sequence[str]) -> None:
        # What other readers want is kept, or two pipelines on one folder would undo each other's packs.
        columns = sorted(self.columns.union(*(pack.columns for pack in self._packs)))
        for start in range(0, len(missing), FRAGMENTS):
            names = missing[start : start + FRAGMENTS]
            found = list(ahead(lambda name: self._read(name, columns), names, self.storage.readers))
            pack = _packed(names, [self._states[name] for name in names], found, columns)
            self._packs.append(pack)
            self._live.update((name, (pack, number)) for number, name in enumerate(names))
            self._unsaved += sum(one.files for one in found)
            if len(names) == FRAGMENTS:
                self._save(pack)
        if self._unsaved >= LEAST:
            for pack in [pack for pack in self._packs if pack.path is None]:
                self._save(pack)

    def _save(self, pack: Pack) -> None:
        if not self.writes:
            return
        path = f"{self.folder}/{uuid.uuid4().hex}{SUFFIX}"
        data, places = _written(pack)
        try:
            self.storage.write(path, data)
        except _ERRORS:  # full, or not ours to write: it is read again another time
            self.writes = False
            return
        self._known.add(path)
        pack.path, pack.places, pack.sections = path, places, {}
        self._unsaved = 0

    def _tidy(self) -> None:
        """Drop packs that nobody needs, and join small ones."""
        live: dict[int, list[str]] = {}
        for name, (pack, _) in self._live.items():
            live.setdefault(id(pack), []).append(name)
        for pack in [pack for pack in self._packs if id(pack) not in live]:
            self._drop(pack)
        small = [pack for pack in self._packs if pack.path is not None and len(live[id(pack)]) < FRAGMENTS // 2]
        if len(small) <= MOST_SMALL or not self.writes:
            return
        few = {id(pack) for pack in small}
        names = [name for name in self._states if id(self._live[name][0]) in few]
        sections = sorted({section for pack in small for section in pack.places} - {INDEX})
        for start in range(0, len(names), FRAGMENTS):
            some = names[start : start + FRAGMENTS]
            facts = pa.concat_tables([pack.facts.slice(n, 1) for pack, n in map(self._live.__getitem__, some)])
            joined = Pack(self.columns, facts, sections={section: self.rows(section, some) for section in sections})
            self._save(joined)
            if joined.path is None:
                return
            self._packs.append(joined)
            self._live.update((name, (joined, number)) for number, name in enumerate(some))
        for pack in small:
            self._drop(pack)

    def _drop(self, pack: Pack) -> None:
        if pack in self._packs:
            self._packs.remove(pack)
        if pack.path is not None and self.writes:
            with suppress(*_ERRORS):
                self.storage.remove(pack.path)


class _DamagedError(Exception):
    def __init__(self, pack: Pack) -> None:
        super().__init__(pack.path)
        self.pack = pack


def _packed(names: Sequence[str], states: Sequence[bytes], found: Sequence[Read], columns: Sequence[str]) -> Pack:
    facts: dict[str, Any] = {"fragment": pa.array(names, pa.string()), "state": pa.array(states, pa.binary(16))}
    for name in found[0].facts:
        facts[name] = [one.facts[name] for one in found]
    sections = {}
    for section in found[0].sections:
        facts[f"rows {section}"] = pa.array([one.sections[section].num_rows for one in found], pa.int64())
        sections[section] = pa.concat_tables([one.sections[section] for one in found]).combine_chunks()
    return Pack(frozenset(columns), pa.table(facts), sections=sections)


def _written(pack: Pack) -> tuple[bytes, dict[str, tuple[int, int, str]]]:
    blocks, places, end = [], {}, 0
    for name, table in {INDEX: pack.facts, **pack.sections}.items():
        sink = pa.BufferOutputStream()
        # Names of files are alike, and are read by few; ids are not, and are read by all.
        options = pa.ipc.IpcWriteOptions(compression="zstd" if name == "names" else "lz4")
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        blocks.append(sink.getvalue().to_pybytes())
        places[name] = (end, len(blocks[-1]), _digest(blocks[-1]))
        end += len(blocks[-1])
    head = json.dumps({"format": FORMAT, "columns": sorted(pack.columns), "sections": places}).encode()
    start = len(_MAGIC) + 32 + 8 + len(head)
    head = _MAGIC + _digest(head).encode() + len(head).to_bytes(8) + head
    return b"".join([head, *blocks]), {name: (start + at, size, digest) for name, (at, size, digest) in places.items()}


def _opened(storage: Storage, path: str) -> Pack:
    """Raises what a file raises that is no pack."""

    def read(file: pa.NativeFile) -> tuple[dict[str, Any], int, bytes]:
        first = _at(file, 0, len(_MAGIC) + 40)
        size = int.from_bytes(first[-8:])
        if first[: len(_MAGIC)] != _MAGIC or size > 1 << 24:
            raise ValueError(path)
        head = _at(file, len(first), size)
        if _digest(head).encode() != first[len(_MAGIC) : -8]:
            raise ValueError(path)
        document = json.loads(head)
        if document["format"] != FORMAT:
            raise ValueError(path)
        offset, length, _ = document["sections"][INDEX]
        return document, len(first) + size, _at(file, len(first) + size + offset, length)

    document, start, index = storage.read_with(path, read)
    places = {name: (start + at, size, digest) for name, (at, size, digest) in document["sections"].items()}
    return Pack(frozenset(document["columns"]), _table_of(index, places[INDEX][2]), path, places)


def _without(table: pa.Table, columns: frozenset[str]) -> pa.Table:
    return table.drop_columns([name for name in table.column_names if name in columns])


def _at(file: pa.NativeFile, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return data


def _table_of(data: bytes, digest: str) -> pa.Table:
    if _digest(data) != digest:
        raise ValueError("damaged")
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
