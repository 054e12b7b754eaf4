"""Who works in a run's folder: one driver at a time, also on an object store, also where one has died.

`lease/000007.json` says who holds the run: a random owner, host, process and user, the command and since when. The
number is the lease's, and the highest one counts. Whoever wants the run creates the next number, which only one can
(`Storage.create`), and then removes those before it. While it works, it writes its own file again every `BEAT_S`. At
the end it writes that the lease is free, and leaves that file: so a number is never given twice.

A holder is dead if it is of this machine and its process is gone, or if its file has not changed while it was watched
for `DEAD_S`. No two machines' clocks are compared.

A driver that was paused or cut off may come back after its lease was given to another one. It finds out with its next
beat, and stops; its workers look whether their number is still the highest before they commit (`Fence`). What a late
one commits all the same does no harm: a part is created and replaces nothing, its name says of which rows it is, and
its folder's name of which list of sources.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from ugaf.base.errors import STOPPED, StopRun, UgafError
from ugaf.storage import Storage

Notify = Callable[[str], None]

log = logging.getLogger(__name__)

FOLDER = "lease"
BEAT_S = 15.0
"""Seconds between two signs of life of a holder."""
DEAD_S = 90.0
"""A holder elsewhere that gives no sign of life for so long is taken for dead."""
_LOOK_S = 0.5
_LOOK_REMOTE_S = 3.0
_FREE = "free"


class HeldError(UgafError):
    """Another driver works in the run's folder. The same command goes on when that one has ended."""

    status = STOPPED


@dataclass(frozen=True)
class Asked:
    """How a command wants its leases. command: what it is called. wait: for as long as another one holds the run.
    notify: told what is waited for, and what cannot be held."""

    command: str = "ugaf"
    wait: bool = False
    notify: Notify | None = None

    def tell(self, text: str) -> None:
        (self.notify or log.warning)(text)


@dataclass
class _Scope:
    """What a `with` block holds, by the run's URL."""

    asked: Asked
    leases: dict[str, Lease] = field(default_factory=dict)


_SCOPE: ContextVar[_Scope | None] = ContextVar("ugaf_leases", default=None)


@contextmanager
def scope(command: str, wait: bool = False, notify: Notify | None = None) -> Iterator[None]:
    """Leases that are taken within are kept until the end of the outermost such block, whose wishes hold."""
    if _SCOPE.get() is not None:
        yield
        return
    held = _Scope(Asked(command, wait, notify))
    token = _SCOPE.set(held)
    try:
        yield
    finally:
        _SCOPE.reset(token)
        for lease in held.leases.values():
            lease.release()


@contextmanager
def held(storage: Storage, command: str) -> Iterator[Lease]:
    """Within, the run is this thread's; it may hold it already.

    Raises HeldError if another one has it and the `scope` does not say to wait.
    """
    with scope(command):
        here = _SCOPE.get()
        assert here is not None
        lease = here.leases.get(storage.url)
        if lease is None:
            lease = here.leases[storage.url] = Lease.take(storage, here.asked)
        lease.check()
        yield lease


class Fence:
    """The number of a lease, for whoever commits under it: it may travel, and is looked at now and then."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._looked = time.monotonic()
        self._lost = ""

    def __reduce__(self) -> tuple[type[Fence], tuple[int]]:
        return Fence, (self.number,)

    def check(self, storage: Storage) -> None:
        """Raises StopRun if the lease was given to another driver; asks the store once in `BEAT_S` at most."""
        now = time.monotonic()
        if not self._lost and now - self._looked >= BEAT_S:
            if _numbers(storage)[-1:] != [self.number]:
                self._lost = _lost(storage)
            self._looked = now
        if self._lost:
            raise StopRun(self._lost)


class Lease:
    """A run that is held; made by `held`.

    Attributes:
        fence: for the workers.
        waited: whether another one had the run meanwhile, so that what was read of it before may be old.
        lost: why it is held no longer; "" while it is.
    """

    def __init__(self, storage: Storage, asked: Asked, number: int, made: list[Path]) -> None:
        # A store that does not answer is asked again with the next beat.
        self._storage = Storage(storage.url, patience_s=0)
        self._is_local = isinstance(storage.filesystem, pafs.LocalFileSystem)
        self._number = number
        self._made = made
        self._owner = uuid.uuid4().hex
        self._facts = {
            "number": number,
            "owner": self._owner,
            "command": asked.command,
            "user": _user(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "began": _began(os.getpid()),
            "since": _now(),
        }
        self._beats = 0
        self._end = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._live, daemon=True, name="ugaf lease")
        self.fence = Fence(number)
        self.waited = False
        self.lost = ""

    @classmethod
    def take(cls, storage: Storage, asked: Asked) -> Lease:
        """Raises HeldError if another one has it."""
        made = _missing(storage)
        waited = False
        while True:
            number = (_numbers(storage) or [0])[-1]
            if number:
                waited = _await_end(storage, number, asked) or waited
            lease = cls(storage, asked, number + 1, made)
            if lease._begin(storage):
                lease.waited = waited
                if storage.exclusive:
                    asked.tell(
                        f"{storage.where()}: a file cannot be created here only where there is none: "
                        f"{storage.exclusive}. Two commands that begin in one moment may both take the run"
                    )
                return lease

    def check(self) -> None:
        """Raises StopRun if it was lost."""
        if self.lost:
            raise StopRun(self.lost)

    def release(self) -> None:
        """Give the run away; a folder in which nothing came to be is left without a trace."""
        self._end.set()
        with self._writing:
            if self.lost:
                return
            with suppress(OSError, StopRun):  # who comes next finds it dead
                if self._is_untouched():
                    self._storage.remove(FOLDER)
                    for path in self._made:
                        path.rmdir()
                else:
                    self._storage.write(_path(self._number), _json({"number": self._number, "state": _FREE}))

    def _is_untouched(self) -> bool:
        """Whether nothing is in the run's folder but the lease, and empty folders, which go."""
        others = [self._storage.path(name) for name in self._storage.list() if name != FOLDER]
        if not all(self._is_local and os.path.isdir(path) and not os.listdir(path) for path in others):
            return False
        for path in others:
            os.rmdir(path)
        return True

    def _begin(self, storage: Storage) -> bool:
        path, mine = _path(self._number), self._document()
        created = storage.create(path, mine)
        if created and not self._is_local and not storage.exclusive and storage.create(path, mine):
            storage.why_not_exclusive = "the store takes no notice of If-None-Match"
        # An answer may have been lost: whose file it is says the file.
        if (not created or storage.exclusive) and _read(storage, path) != mine:
            return False
        numbers = _numbers(storage)
        if numbers[-1:] != [self._number]:
            storage.remove(path)
            return False
        for number in numbers[:-1]:
            storage.remove(_path(number))
        self._thread.start()
        return True

    def _live(self) -> None:
        while not self._end.wait(BEAT_S):
            with self._writing, suppress(OSError, StopRun):
                if not self._end.is_set():
                    self._beat()
            if self.lost:
                return

    def _beat(self) -> None:
        if _numbers(self._storage)[-1:] != [self._number]:
            self.lost = _lost(self._storage)
            return
        self._beats += 1
        self._storage.write(_path(self._number), self._document())

    def _document(self) -> bytes:
        return _json({**self._facts, "beats": self._beats, "beat": _now()})


def _await_end(storage: Storage, number: int, asked: Asked) -> bool:
    """Until the lease of this number is free, dead or gone; whether that took time. Raises HeldError if its holder
    lives and is not to be waited for."""
    path = _path(number)
    seen = first = _read(storage, path)
    since, told = time.monotonic(), False
    look = _LOOK_S if isinstance(storage.filesystem, pafs.LocalFileSystem) else _LOOK_REMOTE_S
    while True:
        document = _parsed(seen)
        if seen is None or document.get("state") == _FREE or _is_gone(document):
            return seen != first
        if not asked.wait and (seen != first or _is_here(document)):
            raise HeldError(
                f"{storage.where()}: {_holder(document)} works in this run. Run the same command again when it has "
                "ended, or with --wait now. If it is not to go on, end that process: the run is free at once, on "
                f"another machine {DEAD_S:.0f} s later"
            )
        if time.monotonic() - since >= DEAD_S and not _is_here(document):
            asked.tell(f"{_holder(document)} gave no sign of life for {DEAD_S:.0f} s: its run is taken over")
            return True
        if not told and time.monotonic() - since >= min(2.0, DEAD_S / 4):
            told = True
            what = "waiting for its end" if asked.wait else f"looking for up to {DEAD_S:.0f} s whether it lives"
            asked.tell(f"{_holder(document)} holds {storage.where()}: {what}")
        time.sleep(look)
        now = _read(storage, path)
        if now != seen:
            seen, since = now, time.monotonic()


def _holder(document: dict[str, Any]) -> str:
    if "command" not in document:
        return f"somebody (see {FOLDER}/)"
    who = "{command} of {user} (process {pid} on {host}, since {since})"
    return who.format_map({name: document.get(name, "?") for name in ("command", "user", "pid", "host", "since")})


def _lost(storage: Storage) -> str:
    numbers = _numbers(storage)
    other = _parsed(_read(storage, _path(numbers[-1]))) if numbers else {}
    by = f"{_holder(other)} has taken it" if "command" in other else "its lease is gone or was given to another one"
    return (
        f"{storage.where()}: this command holds the run no longer: {by}. It gave no sign of life for {DEAD_S:.0f} s, "
        f"or {FOLDER}/ was changed by hand. What was committed is kept; the same command goes on when the run is free"
    )


def _path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _numbers(storage: Storage) -> list[int]:
    """Those of all leases that are there, the one that counts last."""
    stems = (name.removesuffix(".json") for name in storage.list(FOLDER) if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _read(storage: Storage, path: str) -> bytes | None:
    try:
        return storage.read(path)
    except FileNotFoundError:
        return None


def _parsed(data: bytes | None) -> dict[str, Any]:
    """{} for what cannot be understood: then only a change of the file tells that its holder lives."""
    try:
        document = json.loads(data or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return str(os.getuid())


def _machine() -> str:
    """The machine since it was started, and of its numberings of processes the one that holds here: containers share
    names and numbers."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _began(pid: int) -> str:
    """When a process of this machine began, in ticks, since numbers are given again; "" where that is not known, or it
    is dead and only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _is_here(document: dict[str, Any]) -> bool:
    """Whether its process can be seen from here (and lives, where `_is_gone` was asked first)."""
    return bool(document.get("machine")) and document["machine"] == _machine()


def _is_gone(document: dict[str, Any]) -> bool:
    """Whether the process is of this machine and is no more."""
    if not _is_here(document):
        return False
    try:
        pid = int(document["pid"])
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, ValueError, KeyError, OverflowError):
        return True
    return os.path.isdir("/proc/self") and _began(pid) != document.get("began")


def _missing(storage: Storage) -> list[Path]:
    """The local folders that a lease would make, the innermost first."""
    if not isinstance(storage.filesystem, pafs.LocalFileSystem):
        return []
    place = Path(storage.path(""))
    return [path for path in (place, *place.parents) if not path.exists()]
