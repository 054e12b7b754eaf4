"""What a run remembers of photographs that were withdrawn from it: enough to know one again, and no more.

`withdrawn.json` has, for each, hashes: of its id, and of the names and versions of its sources. Neither a picture nor a
name can be had from it, but who comes with the same picture, or the same file, is recognised: by the listing (the file
is not taken in again), by ingest (the same picture from elsewhere is not stored) and by the verdicts (a row of ingest
that is rejected as "withdrawn"). While a withdrawal is being carried out the file also says what is to be erased, so
that it can be finished by whoever comes next.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ugaf.base.errors import UgafError
from ugaf.storage import Storage

FILE = "withdrawn.json"
WITHDRAWN = "withdrawn"
"""The reason of a row that was withdrawn, as it stands in the funnel."""
_PLACE = "withdrawn:"


@dataclass(frozen=True)
class Tombstone:
    """A photograph or pair that was withdrawn: hashes only. id: that of the row which stands in its place."""

    id: str
    sources: tuple[str, ...]
    names: tuple[str, ...]
    when: str
    reason: str = ""

    @property
    def error(self) -> str:
        """As it is stored in the row that stands in the place of the photograph."""
        return f"Withdrawn: {self.reason}" if self.reason else "Withdrawn"


@dataclass(frozen=True)
class Erasing:
    """What is still to be erased, in plain words, until it is gone. places: positions of sources by fragment."""

    ids: list[str]
    edits: list[str]
    places: dict[str, list[int]]
    names: list[str]


@dataclass
class Tombstones:
    """All of a run. by_id: by the hash of the id."""

    by_id: dict[str, Tombstone] = field(default_factory=dict)
    erasing: list[Erasing] = field(default_factory=list)

    @classmethod
    def read(cls, storage: Storage) -> Tombstones:
        """Those of a run; none where nothing was ever withdrawn."""
        try:
            document = json.loads(storage.read(FILE))
            stones = [_parsed(entry) for entry in document["withdrawn"]]
            erasing = [Erasing(**entry) for entry in document.get("erasing", ())]
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UgafError(
                f"{storage.url}/{FILE} is damaged: {error}; put back a copy of it: without it what was withdrawn "
                "would be taken in again"
            ) from error
        return cls({stone.id: stone for stone in stones}, erasing)

    def write(self, storage: Storage) -> None:
        """In one step: from then on the verdicts know it."""
        document: dict[str, Any] = {"withdrawn": [vars(stone) for stone in self.by_id.values()]}
        if self.erasing:
            document["erasing"] = [vars(entry) for entry in self.erasing]
        storage.write(FILE, json.dumps(document, indent=1).encode() + b"\n")

    def __post_init__(self) -> None:
        self._sources = {source for stone in self.by_id.values() for source in stone.sources}
        self._names = {name: stone for stone in self.by_id.values() for name in stone.names}

    def of_id(self, id: str) -> Tombstone | None:
        """The tombstone of the row with this id, or of the row that stands in its place."""
        if not self.by_id:
            return None
        return self.by_id.get(id) or self.by_id.get(buried_id(id))

    def of_name(self, name: str) -> Tombstone | None:
        """The tombstone of the photograph that had a source of this name."""
        return self._names.get(hashed(name)) if self._names else None

    def of_text(self, text: str) -> Tombstone | None:
        """The tombstone of the photograph that a person means: by its id, its path, also from the working folder on,
        or its file name."""
        names = (text, os.path.abspath(os.path.expanduser(text)))
        return self.of_id(text) or next(filter(None, map(self.of_name, names)), None)

    def has_source(self, digest: bytes) -> bool:
        """Whether a source with this digest (see `cutting.source_digest`) was withdrawn."""
        return digest.hex() in self._sources


def _parsed(entry: Mapping[str, Any]) -> Tombstone:
    return Tombstone(entry["id"], tuple(entry["sources"]), tuple(entry["names"]), entry["when"], entry["reason"])


def hashed(text: str) -> str:
    """What stands for an id or a name, 32 hexadecimal digits."""
    return hashlib.sha256(f"ugaf withdrawn {text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def buried_id(id: str) -> str:
    """The id of the row that stands in the place of a withdrawn one."""
    return hashed(id)


def buried_uri(id: str) -> str:
    """What stands in a fragment's list of sources in the place of a withdrawn one's name; id: the buried id."""
    return f"{_PLACE}{id}"


def buried_in(uris: Iterable[str]) -> str | None:
    """The buried id that one of these uris of sources has; None if none is a withdrawn one's."""
    return next((uri.removeprefix(_PLACE) for uri in uris if uri.startswith(_PLACE)), None)


def stones(
    ids: Iterable[str], sources: Mapping[str, Sequence[bytes]], names: Mapping[str, Sequence[str]], when: str, why: str
) -> list[Tombstone]:
    """A tombstone for each id. sources: digests by id. names: of the sources, by id, known with and without folder."""
    return [
        Tombstone(
            buried_id(id),
            tuple(digest.hex() for digest in sources.get(id, ())),
            tuple(hashed(name) for full in names.get(id, ()) for name in (full, full.rpartition("/")[2])),
            when,
            why,
        )
        for id in ids
    ]


def is_unfinished(storage: Storage) -> bool:
    """Whether a withdrawal was interrupted: what is to be erased is still on the list."""
    return bool(Tombstones.read(storage).erasing)
