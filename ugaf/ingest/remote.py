"""A file on a store or web server for random access, patient with its server: each read is done again while the service
is at fault, and an answer that was cut short is no end of the file."""

from __future__ import annotations

import io
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import pyarrow.fs as pafs

from ugaf.base import faults
from ugaf.base.location import Location
from ugaf.ingest.addresses import ForbiddenError
from ugaf.ingest.sources import SourceError
from ugaf.ingest.web import Answer, CutShortError, HttpError, Web

WEB_BLOCK = 4 << 20
"""Bytes that one request for a part of a web server's file asks for at least."""
_WHOLE = 1 << 50


class RemoteFile(io.RawIOBase):
    """Bytes of a remote file by position. `size` is fixed when it is opened."""

    size: int

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), max(0, self.size - self._position))
        if count == 0:
            return 0
        start = self._position

        def once() -> bytes:
            data = self._at(start, count)
            if not data:
                raise CutShortError(f"nothing at byte {start} of {self.size}")
            return data

        data = faults.patiently(once, self._name, mend=lambda _: self._anew())
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    @abstractmethod
    def _at(self, start: int, count: int) -> bytes:
        """Bytes from a position, at most so many and at least one; one try."""

    @abstractmethod
    def _anew(self) -> None:
        """Open it again; what fails, fails at the next read."""


class StoreFile(RemoteFile):
    """A file of a pyarrow file system. open: opens it, as a new connection if it is called again."""

    def __init__(self, name: str, open: Callable[[], pafs.NativeFile]) -> None:
        super().__init__(name)
        self._open = open
        self._file: Any = faults.patiently(open, name)
        self.size = faults.patiently(lambda: int(self._file.size()), name)

    def _at(self, start: int, count: int) -> bytes:
        if self._file is None:
            self._file = self._open()
            if self._file.size() != self.size:
                raise SourceError("the file changed while it was read: run again")
        data = self._file.read_at(count, start)
        if len(data) < count:
            raise CutShortError(f"{len(data)} of {count} bytes came")
        return data

    def _anew(self) -> None:
        self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


class WebFile(RemoteFile):
    """A file of a web server: by ranges where the server gives them, else fetched whole, once, to a temporary file."""

    def __init__(self, web: Web, url: str) -> None:
        super().__init__(Location(url).public)
        self._web, self._url = web, url
        self._whole: Any = None
        self._block, self._block_start = b"", 0
        first = faults.patiently(self._opened, self._name)
        self._version = first.version
        if self._whole is None:
            self._block = first.body
            self.size = first.total or 0

    def _opened(self) -> Answer:
        try:
            return self._web.get(self._url, WEB_BLOCK, (0, WEB_BLOCK - 1))
        except HttpError as error:
            if error.status != 416:  # an empty file has no first byte
                raise
        except ForbiddenError:
            raise
        except SourceError:  # more came than was asked for: a server without ranges
            pass
        return self._fetched()

    def _fetched(self) -> Answer:
        whole = tempfile.SpooledTemporaryFile(max_size=WEB_BLOCK)  # noqa: SIM115 (closed with this file)
        answer = self._web.get(self._url, _WHOLE, into=whole)
        self._whole, self.size = whole, answer.total or 0
        return answer

    def _at(self, start: int, count: int) -> bytes:
        if self._whole is not None:
            self._whole.seek(start)
            return self._whole.read(count)
        offset = start - self._block_start
        if not 0 <= offset < len(self._block):
            last = min(self.size, start + max(count, WEB_BLOCK)) - 1
            answer = self._web.get(self._url, last - start + 1, (start, last))
            if answer.version != self._version or answer.total != self.size or answer.first != start:
                raise SourceError("the file changed while it was read: run again")
            self._block, self._block_start, offset = answer.body, start, 0
        return self._block[offset : offset + count]

    def _anew(self) -> None:
        self._block = b""

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        super().close()
