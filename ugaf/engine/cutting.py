"""Cutting: what is new in the inputs becomes fragments of sources, which never change after.

The inputs are listed to their end first, and what is new is laid aside in the run's folder, where no reader sees it:
a listing may still come upon something for which the run is refused, and a refused run leaves no sources behind. Only
`New.publish` gives the fragments their names, and replaces none: of two that cut at once nothing is lost.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from ugaf.columns import lease, origins
from ugaf.columns.fragments import fragment_name, fragment_order
from ugaf.columns.known import KnownSources
from ugaf.columns.origins import Origin
from ugaf.columns.packing import source_digest
from ugaf.columns.parts import SOURCES, Columns
from ugaf.engine.watcher import Watcher
from ugaf.ingest import NotRead, SourceRef, hold_pairs, list_sources
from ugaf.storage.store import TEMPORARY, parquet_bytes

SHARES, FEWEST, MOST = 8, 4, 256
"""Where `fragment_rows` is not set: into how many fragments a small set is cut, and the sources of one."""


CHUNK = 4096
"""Sources that are compared with those that the run has at once."""


def _chunks(refs: Iterable[SourceRef]) -> Iterator[list[SourceRef]]:
    left = iter(refs)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def fitting(count: int) -> int:
    """Sources a fragment for so many new ones: an eighth, so that a small set keeps several workers busy; 4 to 256."""
    return min(MOST, max(FEWEST, -(-count // SHARES)))


@dataclass
class New:
    """The new sources of a run's inputs, listed to their end.

    count: how many. missing: known sources of these inputs that the listing did not give, by input: their files are
    gone, were replaced, or lie beyond the input's `limit`. staged: files of sources, each with what its sources are
    known by. not_read: what lies there and is no source.
    """

    columns: Columns
    staging: str
    count: int = 0
    missing: Counter[Origin] = field(default_factory=Counter)
    staged: list[tuple[str, tuple[bytes, ...]]] = field(default_factory=list)
    not_read: NotRead = field(default_factory=NotRead)

    def publish(self) -> None:
        """Make the new sources part of the run; a fragment of the same sources that is there is the same one."""
        fragments, storage = self.columns.fragments(), self.columns.storage
        first = fragment_order(fragments[-1])[0] + 1 if fragments else 0
        known = {name.partition("-")[2] for name in fragments}
        for number, (path, digests) in enumerate(self.staged, first):
            name = fragment_name(number, digests)
            if name.partition("-")[2] not in known:
                storage.create(f"{SOURCES}/{name}.parquet", storage.read(path))
        self.staged.clear()

    def lay_aside_all(
        self, refs: Sequence[SourceRef], of: Sequence[Origin], size: int
    ) -> tuple[list[SourceRef], list[Origin]]:
        """Lay aside all of them, `size` to a fragment. Returns two empty lists, to go on with."""
        for start in range(0, len(refs), size):
            self.lay_aside(refs[start : start + size], of[start : start + size])
        return [], []

    def lay_aside(self, refs: Sequence[SourceRef], of: Sequence[Origin]) -> None:
        """Keep some new sources, up to a fragment of them, in a file that does not count."""
        table = SourceRef.to_table(refs).replace_schema_metadata(origins.metadata(of))
        path = f"{self.staging}/{len(self.staged):06d}.parquet"
        self.columns.storage.write(path, parquet_bytes(table))
        self.staged.append((path, tuple(source_digest(ref.uri, ref.member, ref.version) for ref in refs)))
        self.count += len(refs)


@contextmanager
def listed(columns: Columns, watcher: Watcher | None = None) -> Iterator[New]:
    """The new sources of the run's inputs; what of them is not published when the block ends is gone.

    watcher: is told how many were found so far.

    Raises ConfigError for an input that cannot be used, with nothing left behind.
    """
    storage, size = columns.storage, columns.pipeline.settings.fragment_rows
    ahead_of_size = SHARES * MOST  # so many sources have to be seen to know that a fragment is as large as it may be
    new = New(columns, f"{SOURCES}/{TEMPORARY}{uuid.uuid4().hex}")
    with lease.held(storage, "listing of the inputs"):
        try:
            refs: list[SourceRef] = []
            of: list[Origin] = []
            known = Known(columns)
            for origin, ref in known.others(columns, new.not_read):
                refs.append(ref)
                of.append(origin)
                if len(refs) == (size or ahead_of_size):
                    size = size or MOST
                    refs, of = new.lay_aside_all(refs, of, size)
                    if watcher is not None:
                        watcher.doing(f"listing the inputs: {new.count:,} new so far")
            new.lay_aside_all(refs, of, size or fitting(len(refs)))
            new.missing = known.missing(columns)
            yield new
        finally:
            storage.remove(new.staging)


def cut(columns: Columns) -> int:
    """Make what is new in the inputs part of the run. Returns how many sources were new."""
    with listed(columns) as new:
        new.publish()
        return new.count


def count_new(columns: Columns, not_read: NotRead | None = None) -> int:
    """How many sources of the inputs the run does not have; nothing is written. `not_read`: see `Known.others`."""
    return sum(1 for _ in Known(columns).others(columns, not_read))


class Known:
    """The sources that a run has: known is the same place in the same version."""

    def __init__(self, columns: Columns) -> None:
        self._had = KnownSources(columns)
        self._new: set[bytes] = set()

    def others(self, columns: Columns, not_read: NotRead | None = None) -> Iterator[tuple[Origin, SourceRef]]:
        """The sources of the inputs that are not known, each once, with its input; they are known from then on.

        `not_read` gets what the listing leaves out.
        """
        inputs = columns.pipeline.settings.inputs
        hold_pairs(inputs)
        for settings in inputs:
            origin = Origin.of(settings)
            for refs in _chunks(list_sources(settings, columns.storage.url, not_read)):
                digests = [source_digest(ref.uri, ref.member, ref.version) for ref in refs]
                for ref, digest, known in zip(refs, digests, self._had.has(digests).tolist(), strict=True):
                    if not known and digest not in self._new and not columns.tombstones.has_source(digest):
                        self._new.add(digest)
                        yield origin, ref

    def missing(self, columns: Columns) -> Counter[Origin]:
        """Of the inputs that were listed, the sources that are known and did not come; after `others`."""
        by_place = {Origin.of(settings).place: Origin.of(settings) for settings in columns.pipeline.settings.inputs}
        counts = Counter[Origin]()
        for origin, count in self._had.unseen().items():
            counts.update({by_place[origin.place]: count} if origin.place in by_place else {})
        return counts
