"""How an export replaces the one before it: written aside, then swapped in, whole folders at a time.

Everything is first written under `shards/.staging`; the old files and their manifest stay valid until all of it is
there. Then a journal is written beside it: from now on the new export counts, and whoever is killed leaves the rest to
the next export, which first finishes what the journal says (`finish`). On a local disk each folder changes its place
with the one before it in one step, so a reader finds the old shards or the new ones and never a mixture. Object stores
have no such step: there files are moved one by one, and the manifest, which is removed first and written last, says
when they are complete.

A file belongs to the export if it lies in a folder of a format or an adapter and has a name of the form given there.
Whatever else lies in these folders is the user's, and stays in its place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import pyarrow.fs as pafs

from ugaf.export.exchange import aside, exchange
from ugaf.export.layouts import FILES as ADAPTER_FILES

if TYPE_CHECKING:
    from ugaf.storage import Storage

SHARDS = "shards"
MANIFEST = "manifest.json"
CARD = "README.md"
_JOURNAL = "commit.json"
_STAGING = ".staging"
STAGING = f"{SHARDS}/{_STAGING}"

FORMS: dict[str, re.Pattern[str]] = {
    "parquet": re.compile(r"(train|validation)-\d{5}(-of-\d{5})?\.parquet"),
    "webdataset": re.compile(r"(train|validation)-\d{6}\.tar"),
    **ADAPTER_FILES,
}
"""By folder, the names of the files that an export writes there, relative to the folder."""


class Folder:
    """A staged folder that a format or an adapter writes into; `rename` gives a file another final name.

    Attributes:
        root: the folder of the run that it belongs to ("shards").
        moves: for each staged path, its final path, both relative to the run.
    """

    def __init__(self, storage: Storage, name: str, root: str = SHARDS) -> None:
        self.storage = storage
        self.name = name
        self.root = root
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
        self.moves[self._staged(path)] = f"{self.root}/{self.name}/{final}"

    def _staged(self, path: str) -> str:
        return f"{self.root}/{_STAGING}/{self.name}/{path}"

    def _record(self, path: str) -> None:
        self.moves[self._staged(path)] = f"{self.root}/{self.name}/{path}"


@dataclass(frozen=True)
class _Journal:
    """What is left to do once everything is staged.

    folders: those that change, staged ones and emptied ones. renamed: staged path to final path where they differ.
    places: inode of each staged folder on a local disk; the folder that has it at its final place was swapped. stale:
    where files move one by one, the old ones that have no successor.
    """

    manifest: Mapping[str, Any]
    folders: Sequence[str]
    renamed: Mapping[str, str]
    places: Mapping[str, int]
    stale: Sequence[str]


def read_manifest(storage: Storage, root: str = SHARDS) -> dict[str, Any] | None:
    """The manifest of a complete export; None if there is none, or it cannot be read (which means: export again)."""
    try:
        manifest = json.loads(storage.read(f"{root}/{MANIFEST}"))
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def is_complete(storage: Storage, manifest: Mapping[str, Any], root: str = SHARDS) -> bool:
    """Whether every file of the manifest is there with its size, and no other file of an export beside it."""
    present = set(exported_files(storage, root))
    sizes = {path: size(storage, path) for path in manifest["files"] if path in present}
    if sizes != manifest["files"]:
        return False
    others = [path.split("/")[1] for path in present - set(sizes)]
    return {name: others.count(name) for name in set(others)} == manifest["adapter_files"]


def exported_files(storage: Storage, root: str = SHARDS) -> list[str]:
    """Paths of what earlier exports left in their folders."""
    return [f"{root}/{name}" for name in storage.files(root) if _is_ours(name)]


def size(storage: Storage, path: str) -> int:
    """Bytes of a file."""
    return storage.filesystem.get_file_info(storage.path(path)).size


def discard(storage: Storage, root: str = SHARDS) -> None:
    """Remove what was staged and not committed."""
    storage.remove(f"{root}/{_STAGING}")


def commit(
    storage: Storage, folders: Sequence[Folder], manifest: Mapping[str, Any], card: bytes | None, root: str = SHARDS
) -> None:
    """Put the staged files and the dataset card in the place of the earlier ones; what has no successor is removed.

    card: None where another product of the run has it.
    """
    staging = f"{root}/{_STAGING}"
    moves = {staged: final for folder in folders for staged, final in folder.moves.items()}
    staged = {folder.name for folder in folders if folder.moves}
    old = exported_files(storage, root)
    names = sorted(staged | {path.split("/")[1] for path in old})
    places: dict[str, int] = {}
    if _is_local(storage):
        for name in names:  # an emptied folder is swapped with an empty one
            os.makedirs(storage.path(f"{staging}/{name}"), exist_ok=True)
            places[name] = os.stat(storage.path(f"{staging}/{name}")).st_ino
    renamed = {one: final for one, final in moves.items() if one.replace(f"{staging}/", f"{root}/", 1) != final}
    stale = [] if places else sorted(set(old) - set(moves.values()))
    if card is not None:
        storage.write(f"{staging}/{CARD}", card)
    journal = _Journal(manifest, names, renamed, places, stale)
    storage.write(f"{staging}/{_JOURNAL}", json.dumps(vars(journal)).encode())
    finish(storage, root)


def is_unfinished(storage: Storage, root: str = SHARDS) -> bool:
    """Whether an export was interrupted after its journal was written."""
    return storage.exists(f"{root}/{_STAGING}/{_JOURNAL}")


def finish(storage: Storage, root: str = SHARDS) -> bool:
    """Do what the journal of an export says and may already be done in part. False if there is no journal."""
    staging = f"{root}/{_STAGING}"
    try:
        journal = _Journal(**json.loads(storage.read(f"{staging}/{_JOURNAL}")))
    except FileNotFoundError:
        return False
    storage.remove(f"{root}/{MANIFEST}")
    for name in journal.folders:
        if journal.places:
            _swap(storage, f"{staging}/{name}", f"{root}/{name}", journal.places[name], journal.renamed)
        else:
            _move_files(storage, f"{staging}/{name}", f"{root}/{name}", journal.renamed)
    for path in journal.stale:
        storage.remove(path)
    if storage.exists(f"{staging}/{CARD}"):
        storage.write_if_changed(CARD, storage.read(f"{staging}/{CARD}"))
    storage.write(f"{root}/{MANIFEST}", json.dumps(journal.manifest, indent=1).encode() + b"\n")
    # The journal first: without it the rest is waste, which the next export removes.
    storage.remove(f"{staging}/{_JOURNAL}")
    storage.remove(staging)
    return True


def _swap(storage: Storage, staged: str, final: str, place: int, renamed: Mapping[str, str]) -> None:
    """Exchange two folders of a local disk, unless that is done; the user's files are in both while it happens."""
    new, now = storage.path(staged), storage.path(final)
    if not _has_place(now, place):
        for path, target in renamed.items():
            if path.startswith(f"{staged}/") and storage.exists(path):
                os.rename(storage.path(path), f"{new}{target[len(final) :]}")
        for name in _foreign(final, now):
            os.makedirs(os.path.dirname(f"{new}/{name}"), exist_ok=True)
            with suppress(OSError):  # a disk without hard links: the file follows below
                os.link(f"{now}/{name}", f"{new}/{name}", follow_symlinks=False)
        exchange(new, now)
    # What came while it happened, and what could not be linked.
    for left in (new, aside(new)):
        for name in _foreign(final, left):
            if not os.path.lexists(f"{now}/{name}"):
                os.makedirs(os.path.dirname(f"{now}/{name}"), exist_ok=True)
                os.rename(f"{left}/{name}", f"{now}/{name}")
    if os.path.isdir(now) and not os.listdir(now):
        os.rmdir(now)


def _has_place(path: str, place: int) -> bool:
    return os.path.isdir(path) and os.stat(path).st_ino == place


def _foreign(folder: str, path: str) -> list[str]:
    """Files in `path` that no export wrote there, relative to it. folder: its final name, relative to the run."""
    name = folder.rpartition("/")[2]
    found = []
    for parent, folders, files in os.walk(path):
        links = [one for one in folders if os.path.islink(f"{parent}/{one}")]
        inside = os.path.relpath(parent, path)
        paths = [one if inside == "." else f"{inside}/{one}" for one in (*files, *links)]
        found += [one for one in paths if not _is_ours(f"{name}/{one}")]
    return found


def _move_files(storage: Storage, staged: str, final: str, renamed: Mapping[str, str]) -> None:
    for name in storage.files(staged):
        path = f"{staged}/{name}"
        _move(storage, path, renamed.get(path, f"{final}/{name}"))


def _move(storage: Storage, staged: str, target: str) -> None:
    """On object stores a copy within the store, which shows the object once it is whole."""
    filesystem, source, destination = storage.filesystem, storage.path(staged), storage.path(target)
    if storage.exists(target):
        filesystem.delete_file(destination)  # not every fsspec file system moves over an existing file
    try:
        filesystem.move(source, destination)
    except FileNotFoundError:
        filesystem.create_dir(destination.rpartition("/")[0], recursive=True)
        filesystem.move(source, destination)


def _is_ours(path: str) -> bool:
    """Of a path below `shards`, whether an export wrote it: a folder that belongs to exports, and a name of theirs."""
    folder, _, name = path.partition("/")
    form = FORMS.get(folder)
    return form is not None and form.fullmatch(name) is not None


def _is_local(storage: Storage) -> bool:
    return isinstance(storage.filesystem, pafs.LocalFileSystem)
