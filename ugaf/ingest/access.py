"""What the cells of an input may open: the one place at which a name that stands in data becomes bytes.

A set of pairs comes from somebody else. Its cells name images, and whatever they name is read, stored and published
with the shards. So a cell opens only what lies below the folder of its file, below the input's `root`, or below what
the input's `allow` lists (links are followed first, then judged); only regular files of a bounded size; and web
addresses only of public hosts (see `addresses`).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, unquote, urljoin, urlsplit

from ugaf.base.location import Location
from ugaf.ingest.addresses import ForbiddenError, Hosts
from ugaf.ingest.fetching import fetch
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.places import Place, split_glob
from ugaf.ingest.sources import SourceError, SourceRef
from ugaf.ingest.web import Web, host_of, origin_of

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LONGEST = 16_384
_WEB = ("http", "https")
_SAFE = "/%?=&:+,;@!$'()*~"


@dataclass(frozen=True)
class Reach:
    """What one file's cells may open.

    Attributes:
        folder: what their relative paths start from: the file's own folder, or the input's root.
        home: the file's own folder.
        settings: the input.
    """

    folder: Place
    home: Place
    settings: InputSettings

    def read(self, cell: str) -> bytes:
        """The bytes of the file that a cell names.

        Raises:
            SourceError: outside of the border, not a regular file, too big; an address that gives no file.
            FileNotFoundError: nothing is there.
            NotNowError: a foreign host gave no answer.
            OSError, ArrowException: it cannot be read.
        """
        limit = self.settings.limits.file_bytes
        found = self.resolve(cell)
        if isinstance(found, str):
            return fetch(self.web, found, limit, origin_of(found) in self._origins).body
        return found.read(limit)

    def resolve(self, cell: str) -> Place | str:
        """Where a cell leads: a place, or a web address. Raises SourceError for one that it may not open."""
        if "\0" in cell or len(cell) > _LONGEST:
            raise SourceError("no path: it holds a NUL byte or is endless")
        match = _SCHEME.match(cell)
        scheme = match[1].lower() if match else ""
        if scheme in _WEB:
            return cell
        if scheme == "file":
            return self._local(_file_path(cell))
        if scheme:
            return self._stored(cell)
        if self.folder.is_web:
            return urljoin(self.folder.opening.partition("?")[0].rstrip("/") + "/", quote(cell, safe=_SAFE))
        if self.folder.is_remote:
            # An absolute path is no key of a store.
            return self._below(
                posixpath.normpath(posixpath.join(self.folder.path, cell.lstrip("/"))), self.folder, cell
            )
        return self._local(os.path.join(self.folder.path, cell))

    @cached_property
    def web(self) -> Web:
        """How this input's servers are asked."""
        names = [place.opening for place in self._places if place.is_web]
        named = frozenset(host_of(name) for name in names)
        only = None if self.settings.hosts is None else tuple(self.settings.hosts)
        user = next(((Location(name).user, origin_of(name)) for name in names if Location(name).user), ("", ""))
        return Web(self.settings.http, Hosts(only, named), *user)

    @cached_property
    def _origins(self) -> frozenset[str]:
        return frozenset(origin_of(place.opening) for place in self._places if place.is_web)

    @cached_property
    def _places(self) -> list[Place]:
        """The folders below which a cell may open what there is."""
        return [self.folder, self.home, *(Place.of(folder) for folder in self.settings.allow)]

    @cached_property
    def _real(self) -> list[str]:
        return list(dict.fromkeys(os.path.realpath(p.path) for p in self._places if not p.is_remote))

    def _local(self, path: str) -> Place:
        real = os.path.realpath(path)
        if not is_below(real, self._real):
            raise ForbiddenError(self._outside(path if real == os.path.normpath(path) else f"{path} (that is {real})"))
        return Place("", real)

    def _stored(self, cell: str) -> Place:
        location = Location(cell)
        if location.user or location.options:
            raise ForbiddenError("an address of a store with options or a user: a cell may not say how it is opened")
        for place in self._places:
            if place.is_remote and not place.is_web and location.name.startswith(f"{place.uri.rstrip('/')}/"):
                key = posixpath.normpath(place.path.rstrip("/") + location.name[len(place.uri.rstrip("/")) :])
                return self._below(key, place, cell)
        raise ForbiddenError(self._outside(location.public))

    def _below(self, path: str, place: Place, cell: str) -> Place:
        if not path.startswith(f"{place.path.rstrip('/')}/"):
            raise ForbiddenError(self._outside(Location(cell).public))
        return Place(place.base, path)

    def _outside(self, shown: str) -> str:
        return (
            f"{shown[:300]} lies outside of {self.folder.uri}: a cell opens only what is below it. If it may open "
            "this, name a folder that holds it with the input's `root` or `allow: [FOLDER]`"
        )


def reach_of(folder: Place, file: SourceRef, settings: InputSettings) -> Reach:
    """What the cells of a file may open. folder: what their relative paths start from."""
    place = Place(folder.base, file.uri) if "://" not in file.uri else Place.of(file.uri)
    return Reach(folder, place.parent(), settings)


def is_below(real: str, folders: Iterable[str]) -> bool:
    """Whether a real path is one of some real folders or lies below one."""
    return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in folders)


def base_of(settings: InputSettings) -> Place:
    """The folder, file or pattern's folder that an input names."""
    parts = split_glob(settings.path)
    return Place.of(parts[0] if parts else settings.path)


def _file_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(f"file://{parts.netloc[:100]}: a file URL names no other machine")
    return unquote(parts.path)
