"""A folder's files with their sizes and times of change, in one listing: by which it is known what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow.fs as pafs

from ugaf.storage.store import TEMPORARY, Storage

Stamp = tuple[int, int]
"""Bytes, and nanoseconds of the last change."""


def stamped(storage: Storage, folder: str) -> dict[str, Stamp]:
    """Every file below a folder by its path in it; {} if there is no such folder. What is in the making is left out."""
    listing = _local if isinstance(storage.filesystem, pafs.LocalFileSystem) else _remote
    return storage._patiently(lambda: dict(listing(storage, folder)), folder)


def _local(storage: Storage, folder: str) -> Iterator[tuple[str, Stamp]]:
    """By the system's own call: a listing of pyarrow's takes several times as long."""
    base = storage.path(folder)
    todo = [""]
    while todo:
        inner = todo.pop()
        try:
            with os.scandir(f"{base}/{inner}") as entries:
                for entry in entries:
                    if entry.name.startswith(TEMPORARY):
                        continue
                    if entry.is_dir():
                        todo.append(f"{inner}{entry.name}/")
                        continue
                    try:
                        found = entry.stat()
                    except FileNotFoundError:  # removed since
                        continue
                    yield f"{inner}{entry.name}", (found.st_size, found.st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            continue


def _remote(storage: Storage, folder: str) -> Iterator[tuple[str, Stamp]]:
    base = storage.path(folder).rstrip("/")
    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    for info in storage.filesystem.get_file_info(selector):
        name = info.path[len(base) :].lstrip("/") if info.path.startswith(base) else ""
        if info.type == pafs.FileType.File and name and not name.rpartition("/")[2].startswith(TEMPORARY):
            yield name, (info.size or 0, info.mtime_ns or 0)
