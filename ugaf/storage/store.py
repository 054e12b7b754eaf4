"""Files of a run, on a local disk or any pyarrow / fsspec file system, each written in one atomic step.

A file is there completely or not at all, so the presence of a part file can be the record of the work. Local files are
written under a temporary name, flushed and renamed or linked. To S3, GCS and Azure objects go by `objects`: whole, and
only where there is none if that is asked. What is neither gets a temporary name first, and is then moved. A write that
fails takes away what itself has made, and nothing else.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from ugaf.base import faults, location
from ugaf.base.errors import ConfigError
from ugaf.base.location import Location, scrub
from ugaf.storage import local
from ugaf.storage.objects import Objects, UnavailableError, open_objects

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

Names = list[str]
Result = TypeVar("Result")

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
"""Names that begin so are in the making, or were left by a process that died: no listing shows them."""
LIGHT = "ugaf.light"
_ARROW_SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_REMOTE_READERS = 16
_SECOND_LOOKS = 2
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "az", "oci", "memory")


def open_filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Plain paths are local. `file`, `s3`, `gs`, `abfs` and `hdfs` URLs use pyarrow (an S3 server of one's own:
    `s3://bucket/path?endpoint_override=http://host:port`, or AWS_ENDPOINT_URL); every other scheme is fsspec's.
    """
    url = location.opening(url)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", url)
    if scheme is None:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(url))
    if scheme[1] in _ARROW_SCHEMES:
        try:
            return pafs.FileSystem.from_uri(url)
        except (ValueError, pa.ArrowInvalid, OSError) as error:
            raise ConfigError(f"cannot open {Location(url).public}: {scrub(str(error))}") from None
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        where = Location(url).public
        raise ConfigError(
            f"cannot open {where}: {scrub(str(error))} (`pip install '.[cloud]'` in ugaf's folder?)"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


class Storage:
    """A folder of files under a path or URL. Paths given to it are relative to that folder, separated by "/".

    It can be pickled (only the URL travels), and is opened where it is used. `url` is the public one. A store that is
    at fault is asked again, and stops the run when patience has run out (see `faults`).

    patience_s: how long a store at fault is waited for; None: as long as the process has it.
    """

    def __init__(self, url: str, patience_s: float | None = None) -> None:
        self.patience_s = patience_s
        self.url = location.kept(url) if "://" in url else os.path.abspath(os.path.expanduser(url))
        self._opened: tuple[pafs.FileSystem, str] | None = None
        self._objects: Objects | None = None
        self.why_not_exclusive: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "opening": location.opening(self.url), "patience_s": self.patience_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["opening"], state["patience_s"])  # type: ignore[misc]

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._open()[0]

    def path(self, relative: str) -> str:
        """The path within `filesystem`."""
        return f"{self._open()[1].rstrip('/')}/{relative}" if relative else self._open()[1]

    def where(self, path: str = "") -> str:
        """The file's place, for people: without credentials and options."""
        name = Location(self.url).name
        return f"{name.rstrip('/')}/{path}" if path else name

    def read(self, path: str) -> bytes:
        """The file's bytes. Raises FileNotFoundError."""

        def once() -> bytes:
            with self.filesystem.open_input_stream(self.path(path)) as stream:
                return stream.read()

        return self._patiently(once, path)

    def open(self, path: str) -> pa.NativeFile:
        """The file for random access. Its reads are the caller's: see `read_with`."""
        return self._patiently(lambda: self.filesystem.open_input_file(self.path(path)), path)

    def read_with(self, path: str, read: Callable[[pa.NativeFile], Result], keep_open: bool = False) -> Result:
        """What `read` makes of the open file, which is opened and read anew while the store is at fault.

        A remote file is also read anew where it looks damaged: an answer that was cut short looks like that.
        """

        def once() -> Result:
            with ExitStack() as closing:
                file = closing.enter_context(self.filesystem.open_input_file(self.path(path)))
                result = read(file)
                if keep_open:
                    closing.pop_all()
            return result

        for _ in range(0 if isinstance(self.filesystem, pafs.LocalFileSystem) else _SECOND_LOOKS):
            try:
                return self._patiently(once, path)
            except FileNotFoundError:
                raise
            except (pa.ArrowException, OSError) as error:
                log.warning("%s: %s: reading it anew", self.where(path), faults.said(error))
        return self._patiently(once, path)

    def write(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a whole file in one atomic step, replacing what was there; what is new and stays is for `create`."""

        def once() -> None:
            client = self._client()
            if client is not None:
                client.put(self.path(path), data)
                return
            with self._staged(path) as stream:
                stream.write(data)

        self._patiently(once, path)

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        """Write a whole file in one atomic step if there is none of this name. Returns whether it was written.

        Of several who create one name at once, one is told True. A place that cannot hold to that (`exclusive` says
        why) is looked at first, and then written to: there it takes a lease to be alone.

        An answer of a store that was lost on its way may make False of one's own success: who depends on it reads the
        file.
        """

        def once() -> bool:
            client = self._client()
            if client is not None and self.why_not_exclusive is None:
                return client.create(self.path(path), data)
            if isinstance(self.filesystem, pafs.LocalFileSystem):
                return self._create_local(path, data)
            if self.filesystem.get_file_info(self.path(path)).type != pafs.FileType.NotFound:
                return False
            if client is not None:
                client.put(self.path(path), data)
            else:
                with self._staged(path) as stream:
                    stream.write(data)
            return True

        return self._patiently(once, path)

    @property
    def exclusive(self) -> str:
        """ "" if `create` is told True by one caller alone; else why not, for people."""
        self._client()
        return self.why_not_exclusive or ""

    def write_if_changed(self, path: str, data: bytes) -> bool:
        """Write only what differs from what is there; True if it wrote."""
        with suppress(FileNotFoundError):
            if self.read(path) == data:
                return False
        self.write(path, data)
        return True

    @contextmanager
    def open_output(self, path: str) -> Iterator[IO[bytes]]:
        """Stream a big file; it appears under its name when the block ends, and not at all if the block raises.

        What has been streamed is gone: a fault of the store stops the run at once.
        """
        with faults.stopping(self.where(path)):
            client = self._client()
            with self._staged(path) if client is None else client.writer(self.path(path)) as stream:
                yield stream

    @contextmanager
    def _staged(self, path: str) -> Iterator[IO[bytes]]:
        """A file under a temporary name, which gets its own when the block ends; one that raises takes it away."""
        target = self.path(path)
        folder, _, name = target.rpartition("/")
        here = isinstance(self.filesystem, pafs.LocalFileSystem)
        if not self._is_object_store():
            self.filesystem.create_dir(folder, recursive=True)
        working = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}-{name}"
        try:
            if here:
                with local.flushed(working) as file:
                    yield file
                os.replace(working, target)
            else:
                with self.filesystem.open_output_stream(working) as stream:
                    yield stream
                self.filesystem.move(working, target)
        except BaseException:
            with suppress(OSError):  # it may not be there, and the store that failed may fail again
                self.filesystem.delete_file(working)
            raise

    def _create_local(self, path: str, data: bytes | pa.Buffer) -> bool:
        target = self.path(path)
        folder, _, name = target.rpartition("/")
        self.filesystem.create_dir(folder, recursive=True)
        working = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}-{name}"
        try:
            with local.flushed(working) as file:
                file.write(data)
            created, why = local.take_name(working, target)
            self.why_not_exclusive = why or self.why_not_exclusive
            return created
        finally:
            with suppress(OSError):
                os.unlink(working)

    @contextmanager
    def lock(self, folder: str) -> Iterator[None]:
        """Hold a folder for one process at a time, waiting for it, until the block or the process ends.

        Local disks only: object stores have no such thing, and nothing is held there (a run has a lease, see
        `ugaf.columns.lease`). Folders that are made for it are gone afterwards if nothing was put into them.
        """
        if not isinstance(self.filesystem, pafs.LocalFileSystem):
            yield
            return
        with local.locked(Path(self.path(folder))):
            yield

    @property
    def readers(self) -> int:
        """How many files are worth reading at once."""
        return readers_of(self.filesystem)

    def exists(self, path: str) -> bool:
        return self._type(path) != pafs.FileType.NotFound

    def list(self, path: str = "") -> Names:
        """Names of the files and folders directly in a folder, sorted; [] if there is no such folder."""
        return sorted({found.split("/")[0] for found in self._listed(path, recursive=False)})

    def files(self, path: str = "") -> Names:
        """Every file below a folder, relative to it, sorted; one recursive listing."""
        return sorted(self._listed(path, recursive=True))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens if it is not there."""

        def once() -> None:
            kind = self.filesystem.get_file_info(self.path(path)).type
            if kind == pafs.FileType.Directory:
                self.filesystem.delete_dir(self.path(path))
            elif kind == pafs.FileType.File:
                self.filesystem.delete_file(self.path(path))

        self._patiently(once, path)

    def _type(self, path: str) -> pafs.FileType:
        return self._patiently(lambda: self.filesystem.get_file_info(self.path(path)).type, path)

    def _listed(self, path: str, recursive: bool) -> Names:
        return self._patiently(lambda: list(self._listing(path, recursive)), path)

    def _patiently(self, call: Callable[[], Result], path: str) -> Result:
        def mend(fault: faults.Fault) -> None:
            if fault.kind == "refused":  # opened anew it takes the key that may have been renewed meanwhile
                self._opened = self._objects = None

        return faults.patiently(call, self.where(path), self.patience_s, mend)

    def _listing(self, path: str, recursive: bool) -> Iterator[str]:
        base = self.path(path).rstrip("/")
        if self.filesystem.get_file_info(base).type == pafs.FileType.File:
            return
        selector = pafs.FileSelector(base, recursive=recursive, allow_not_found=True)
        for info in self.filesystem.get_file_info(selector):
            name = info.path[len(base) :].lstrip("/") if info.path.startswith(base) else info.path.rpartition("/")[2]
            wanted = info.type == pafs.FileType.File or not recursive
            if wanted and not name.rpartition("/")[2].startswith(TEMPORARY):
                yield name

    def _open(self) -> tuple[pafs.FileSystem, str]:
        if self._opened is None:
            self._opened = open_filesystem(self.url)
        return self._opened

    def _client(self) -> Objects | None:
        """What writes to an object store; None for what is none, and where it cannot be used."""
        if self._objects is None and self.why_not_exclusive is None:
            if isinstance(self.filesystem, pafs.LocalFileSystem):
                return None
            try:
                self._objects = open_objects(location.opening(self.url), self.filesystem)
            except UnavailableError as error:
                self.why_not_exclusive = str(error)
        return self._objects

    def _is_object_store(self) -> bool:
        return any(name in _OBJECT_STORES for name in _protocols(self.filesystem))


def _protocols(filesystem: pafs.FileSystem) -> tuple[str, ...]:
    if isinstance(filesystem, pafs.PyFileSystem) and isinstance(filesystem.handler, pafs.FSSpecHandler):
        protocol = filesystem.handler.fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)
    return (filesystem.type_name,)


def readers_of(filesystem: pafs.FileSystem) -> int:
    """How many files are worth reading at once: a remote store answers slowly, but many at a time.

    Readers of one file in fsspec's memory share their position, so there it is one.
    """
    return 1 if {"local", "memory"} & set(_protocols(filesystem)) else _REMOTE_READERS


def parquet_bytes(table: pa.Table, heavy: tuple[str, ...] = ()) -> pa.Buffer:
    """A table as a Parquet file: images (the `heavy` columns) stored as they are, in small row groups, so that a few
    rows can be read without the others; everything else compressed.

    The other columns of a file with images stand in its footer too (see `light_columns`): between the images they lie
    in as many pieces as there are row groups, and a remote store answers a request for each.

    Every page has a checksum (see `open_parquet`): a flipped bit in an image would otherwise be another image.
    """
    import pyarrow.parquet as pq

    light = [name for name in table.column_names if name not in heavy]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        # A mapping names no nested columns, which would then not be compressed.
        compression={name: "NONE" if name in heavy else "ZSTD" for name in table.column_names} if heavy else "ZSTD",
        use_dictionary=light,
        write_statistics=light,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=8 if heavy else 64 * 1024)
        if heavy:
            copy = parquet_bytes(table.select(light).replace_schema_metadata(None)).to_pybytes()
            writer.add_key_value_metadata({LIGHT: base64.b64encode(copy).decode()})
    return sink.getvalue()


def open_parquet(source: pa.NativeFile) -> ParquetFile:
    """A Parquet file whose pages are held against their checksums where it has them: OSError for one that differs."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(source, page_checksum_verification=True)


def light_columns(file: ParquetFile, names: Sequence[str]) -> pa.Table:
    """Some columns of an open file of `parquet_bytes`; from its footer alone if they are there."""
    copy = (file.metadata.metadata or {}).get(LIGHT.encode())
    if copy is not None:
        table = read_parquet(base64.b64decode(copy))
        if set(names) <= set(table.column_names):
            return table.select(list(names))
    return file.read(columns=list(names), use_threads=False).select(list(names))


def read_parquet(data: bytes) -> pa.Table:
    """The table of a small Parquet file."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
