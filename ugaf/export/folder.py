"""How an export replaces the one before it: written aside, then moved into place.

Everything is first written under `shards/.staging`; the old shards and their manifest stay valid until all of it is
there. Then the manifest is removed, the new files take their places, old ones that have no successor are removed, and
the new manifest is written last. So with a manifest the shards are complete; after a crash there is either the old
set with its manifest, or no manifest, and the next export writes everything again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import pyarrow.fs as pafs

from ugaf.export.adapters import ADAPTERS
from ugaf.export.settings import FORMATS

if TYPE_CHECKING:
    from ugaf.storage import Storage

SHARDS = "shards"
STAGING = f"{SHARDS}/.staging"
MANIFEST = f"{SHARDS}/manifest.json"
OWNED = (*FORMATS, *ADAPTERS)
"""Folders in `shards` that belong to ugaf: an export removes what it did not write there, and touches nothing else."""


class Folder:
    """A staged folder that a format or an adapter writes into; `rename` gives a file another final name.

    Attributes:
        moves: for each staged path, its final path, both relative to the run.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.moves: dict[str, str] = {}

    def write(self, path: str, data: bytes) -> None:
        self.storage.write(self._staged(path), data)
        self._record(path)

    @contextmanager
    def open_output(self, path: str) -> Iterator[IO[bytes]]:
        with self.storage.open_output(self._staged(path)) as stream:
            yield stream
        self._record(path)

    def rename(self, path: str, final: str) -> None:
        self.moves[self._staged(path)] = f"{SHARDS}/{self.name}/{final}"

    def _staged(self, path: str) -> str:
        return f"{STAGING}/{self.name}/{path}"

    def _record(self, path: str) -> None:
        self.moves[self._staged(path)] = f"{SHARDS}/{self.name}/{path}"


def read_manifest(storage: Storage) -> dict[str, Any] | None:
    """The manifest of a complete export; None if there is none, or it cannot be read (which means: export again)."""
    try:
        manifest = json.loads(storage.read(MANIFEST))
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def is_complete(storage: Storage, manifest: Mapping[str, Any]) -> bool:
    """Whether every file of the manifest is there with its size, and nothing else lies in the exported folders."""
    present = set(exported_files(storage))
    sizes = {path: size(storage, path) for path in manifest["files"] if path in present}
    if sizes != manifest["files"]:
        return False
    others = [path.split("/")[1] for path in present - set(sizes)]
    return {name: others.count(name) for name in set(others)} == manifest["adapter_files"]


def commit(storage: Storage, folders: list[Folder], manifest: Mapping[str, Any]) -> None:
    """Put the staged files in the place of the earlier export."""
    storage.remove(MANIFEST)
    final = {target for folder in folders for target in folder.moves.values()}
    for folder in folders:
        for staged, target in folder.moves.items():
            _move(storage, staged, target)
    for path in exported_files(storage):
        if path not in final:
            storage.remove(path)
    for name in set(OWNED) - {folder.name for folder in folders if folder.moves}:
        storage.remove(f"{SHARDS}/{name}")
    storage.remove(STAGING)
    storage.write(MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")


def exported_files(storage: Storage) -> list[str]:
    """Paths of what earlier exports left in the folders that belong to ugaf."""
    return [f"{SHARDS}/{name}" for name in storage.files(SHARDS) if name.split("/")[0] in OWNED]


def size(storage: Storage, path: str) -> int:
    """Bytes of a file."""
    return storage.filesystem.get_file_info(storage.path(path)).size


def _move(storage: Storage, staged: str, target: str) -> None:
    """A rename on file systems; on object stores a copy within the store, which shows the object once it is whole."""
    filesystem, source, destination = storage.filesystem, storage.path(staged), storage.path(target)
    local = isinstance(filesystem, pafs.LocalFileSystem)
    if not local and storage.exists(target):
        filesystem.delete_file(destination)  # not every fsspec file system moves over an existing file
    try:
        filesystem.move(source, destination)
    except FileNotFoundError:
        filesystem.create_dir(destination.rpartition("/")[0], recursive=True)
        filesystem.move(source, destination)
