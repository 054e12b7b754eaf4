"""Where files are: opening, naming, walking and globbing on a local disk or any pyarrow / fsspec file system.

A place holds no secret: what opens it, where that is more than its public face, is looked up when it is opened.
"""

from __future__ import annotations

import fnmatch
import functools
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from ugaf.base import faults, location
from ugaf.ingest.addresses import ForbiddenError, Hosts
from ugaf.ingest.fetching import fetch
from ugaf.ingest.limits import HttpSettings
from ugaf.ingest.regular import check_regular, open_regular
from ugaf.ingest.remote import WEB_BLOCK, StoreFile, WebFile
from ugaf.ingest.sources import SourceError
from ugaf.ingest.web import HttpError, Web, host_of, origin_of
from ugaf.storage import open_filesystem
from ugaf.storage.store import readers_of

Result = TypeVar("Result")

_MAGIC = re.compile(r"[*?\[]")
_REMOTE_BUFFER = 4 << 20
WEB_READERS = 16
_CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB = re.compile(r"https?://", re.IGNORECASE)


InfoKind = Literal["file", "folder", "missing", "other"]


@dataclass(frozen=True, slots=True)
class Info:
    """What stands at a place. size: bytes; mtime_ns: last change; None where a file system does not tell."""

    kind: InfoKind
    size: int | None = None
    mtime_ns: int | None = None

    @property
    def version(self) -> str:
        """What changes when the file does."""
        return "-".join("" if value is None else str(value) for value in (self.size, self.mtime_ns))


@dataclass(frozen=True)
class Place:
    """A path on a file system. `base`: a URL that opens the file system, without its secrets; "" is the local disk."""

    base: str
    path: str

    @classmethod
    def of(cls, url: str) -> Place:
        base = location.kept(url)
        if _WEB.match(url):
            return cls(base, base)
        filesystem, path = open_filesystem(url)
        if isinstance(filesystem, pafs.LocalFileSystem):
            return cls("", path)
        return cls(base, path)

    @classmethod
    def from_locator(cls, locator: dict[str, Any], uri: str) -> Place:
        return cls(locator.get("base", ""), locator.get("path", uri))

    def locator(self) -> dict[str, str]:
        """What a source's locator keeps to find the place again; a local file's uri is enough."""
        if self.base:
            return {"base": self.base, "path": self.path}
        return {"path": self.path} if not _is_utf8(self.path) else {}

    @property
    def uri(self) -> str:
        """The place for people and as identity: no credentials, no options."""
        if not self.base or "://" in self.path:
            return self.path
        scheme = self.base.partition("://")[0]
        return f"{scheme}://{self.path.lstrip('/')}"

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def filesystem(self) -> pafs.FileSystem:
        return _filesystem(self.base)

    @property
    def is_remote(self) -> bool:
        return bool(self.base)

    @property
    def readers(self) -> int:
        """How many files of it are worth reading at once."""
        return WEB_READERS if self.is_web else readers_of(self.filesystem)

    @property
    def is_web(self) -> bool:
        return _WEB.match(self.base) is not None

    @property
    def opening(self) -> str:
        """The URL that opens a web server's file, with the secrets that this process knows; else the place's name."""
        if not self.is_web:
            return self.uri
        known = location.opening(self.path if self.path != self.base else self.base)
        user = location.Location(location.opening(self.base)).user
        if known == self.path and user:
            scheme, _, rest = known.partition("://")
            return f"{scheme}://{user}@{rest}"
        return known

    def parent(self) -> Place:
        path = self.path.partition("?")[0] if self.is_web else self.path
        return replace(self, path=path.rstrip("/").rpartition("/")[0] or "/")

    def child(self, name: str) -> Place:
        return replace(self, path=f"{self.path.rstrip('/')}/{name}" if self.path else name)

    def info(self, web: Web | None = None) -> Info:
        """What is there now. Raises OSError if the file system cannot tell."""
        if not self.base:
            return _stat(self.path)
        if self.is_web:
            return self._asked(web or self.web())
        return self._patiently(lambda: _from_arrow(self.filesystem.get_file_info(self.path)))

    def open(self, web: Web | None = None) -> BinaryIO:
        """The file for random access, with a buffer that spares object stores many small reads."""
        if not self.base:
            return open_regular(self.path)
        if self.is_web:
            return io.BufferedReader(WebFile(web or self.web(), self.opening), 1 << 16)
        return io.BufferedReader(StoreFile(self.uri, self._open), _REMOTE_BUFFER)

    def open_native(self, web: Web | None = None) -> pa.NativeFile:
        """The file for random access by Arrow's own readers."""
        if not self.base and _is_utf8(self.path):
            check_regular(self.path)
            return self.filesystem.open_input_file(self.path)
        return pa.PythonFile(self.open(web), "r")

    def stream(self, web: Web | None = None) -> BinaryIO:
        """The file from its start, decompressed if its name says .gz, .bz2 or .zst."""
        codec = _CODECS.get(self.name.partition("?")[0].lower().rpartition(".")[2])
        if not self.base and codec is None:
            return open_regular(self.path)
        raw = self.open_native(web)
        return io.BufferedReader(pa.CompressedInputStream(raw, codec) if codec else raw, 1 << 20)

    def read(self, limit: int, web: Web | None = None) -> bytes:
        """The whole file. Raises SourceError for one of more than `limit` bytes."""
        if self.is_web:
            return fetch(web or self.web(), self.opening, limit, own=True).body
        with self.open() as file:
            size = file.seek(0, io.SEEK_END)
            if size > limit:
                raise SourceError(
                    f"file of {size} bytes is over the limit of {limit} bytes for one image (limits.file_mb)"
                )
            file.seek(0)
            return file.read(limit + 1)[:limit] if not size else file.read(size)

    def web(self, http: HttpSettings | None = None) -> Web:
        """How a web server's file that an input names is asked for."""
        name, user = self.opening, location.Location(self.opening).user
        named = frozenset([host_of(name)])
        return Web(http or HttpSettings(), Hosts(None, named), user, origin_of(name))

    def _asked(self, web: Web) -> Info:
        try:
            answer = faults.patiently(lambda: web.get(self.opening, WEB_BLOCK, (0, 0)), self.uri)
        except HttpError as error:
            if error.status in (404, 410):
                return Info("missing")
            if error.status == 416:
                return Info("file", 0)
            raise OSError(str(error)) from error
        except SourceError as error:
            if isinstance(error, ForbiddenError):
                raise
            return Info("file")  # it is longer than was asked for
        return Info("file", answer.total, answer.modified_ns)

    def _open(self) -> pa.NativeFile:
        return self.filesystem.open_input_file(self.path)

    def _patiently(self, call: Callable[[], Result]) -> Result:
        def mend(fault: faults.Fault) -> None:
            if fault.kind == "refused":
                _filesystem.cache_clear()

        return faults.patiently(call, self.uri, mend=mend)


@functools.lru_cache(maxsize=32)
def _filesystem(base: str) -> pafs.FileSystem:
    return open_filesystem(base)[0] if base else pafs.LocalFileSystem()


def list_names(place: Place) -> list[Place]:
    """A folder's visible entries by name, whatever they are. One listing; raises OSError."""
    if not place.base:
        return [place.child(name) for name in sorted(os.listdir(place.path)) if not name.startswith(".")]
    return [child for child, _ in list_folder(place)]


def list_folder(place: Place) -> Iterator[tuple[Place, Info]]:
    """The same with what each entry is, looked up one by one where that costs a call of its own."""
    if not place.base:
        yield from ((child, _stat(child.path)) for child in list_names(place))
        return
    infos = place._patiently(lambda: place.filesystem.get_file_info(pafs.FileSelector(place.path, recursive=False)))
    for info in sorted(infos, key=lambda info: info.base_name):
        if not info.base_name.startswith("."):
            yield place.child(info.base_name), _from_arrow(info)


def _stat(path: str) -> Info:
    # Not Arrow's: it refuses every name of a folder that holds one name that is not UTF-8.
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Info("missing")
    except OSError as error:
        faults.raise_if_service(error, path)
        return Info("other")
    if stat.S_ISDIR(found.st_mode):
        return Info("folder")
    kind: InfoKind = "file" if stat.S_ISREG(found.st_mode) else "other"
    return Info(kind, found.st_size, found.st_mtime_ns)


def _from_arrow(info: pafs.FileInfo) -> Info:
    kinds: dict[pafs.FileType, InfoKind] = {
        pafs.FileType.File: "file",
        pafs.FileType.Directory: "folder",
        pafs.FileType.NotFound: "missing",
    }
    return Info(kinds.get(info.type, "other"), info.size, info.mtime_ns)


@dataclass(frozen=True)
class Skipped:
    """A folder that a walk did not enter; `what` says why, in the plural."""

    what: str


Found = tuple[Place, Info | OSError | Skipped]
LeaveOut = Callable[[Place], str | None]
"""What a folder is that a walk shall not enter ("the run's own folder"), None for one that it shall."""


def walk(
    folder: Place, depth: int | None = None, leave_out: LeaveOut | None = None, _above: frozenset[str] = frozenset()
) -> Iterator[Found]:
    """Every file below a folder, by name, folder by folder (memory: the largest folder), hidden ones left out.

    A subfolder that cannot be listed comes as (folder, the error), one that links back to a folder it is in or that
    `leave_out` names as (folder, Skipped). `depth` 0 is the folder alone; at that depth, its subfolders come as they
    are.
    """
    above = _above if folder.is_remote else _above | {os.path.realpath(folder.path)}
    try:
        for place, info in list_folder(folder):
            if info.kind != "folder" or depth == 0:
                yield place, info
                continue
            skipped = leave_out(place) if leave_out is not None else None
            if skipped is not None:
                yield place, Skipped(skipped)
            elif not folder.is_remote and os.path.realpath(place.path) in above:
                yield place, Skipped("links back to a folder above them")
            else:
                yield from walk(place, None if depth is None else depth - 1, leave_out, above)
    except OSError as error:
        faults.raise_if_service(error, folder.uri)
        yield folder, error


def split_glob(url: str) -> tuple[str, str] | None:
    """("folder", "pattern below it") of a path with *, ? or [...]; None for a plain path.

    In a URL, ? starts its options, so only * and [...] are patterns there.
    """
    head, options = url, ""
    if _SCHEME.match(url):
        head, mark, rest = url.partition("?")
        options = mark + rest
    match = _MAGIC.search(head)
    if match is None:
        return None
    folder, _, _ = head[: match.start()].rpartition("/")
    pattern = head[len(folder) :].lstrip("/")
    if not folder:
        folder = "/" if head.startswith("/") else "."
    return folder + options, pattern


def glob(folder: Place, pattern: str, leave_out: LeaveOut | None = None) -> Iterator[Found]:
    """Files that match, and the files below folders that match, in the order of `walk`. `**` is any folders."""
    parts = pattern.strip("/").split("/")
    depth = None if "**" in parts else len(parts) - 1
    start = len(folder.path.rstrip("/")) + 1
    for place, info in walk(folder, depth, leave_out):
        if not isinstance(info, Info):
            yield place, info
        elif _matches(place.path[start:].split("/"), parts):
            skipped = leave_out(place) if info.kind == "folder" and leave_out is not None else None
            if skipped is not None:
                yield place, Skipped(skipped)
            elif info.kind == "folder":
                yield from walk(place, None, leave_out)
            else:
                yield place, info


def _matches(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_matches(names[skipped:], parts[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
