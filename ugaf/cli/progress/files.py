"""The two files by which a run tells what it does to whoever looks later, or from elsewhere.

`log.txt` is for people: of each call its command, versions, notes, ended stages, first failures and how it ended. It is
appended to, and cut to its newer half when it grows beyond its limit. `progress.json` is for programs: what is being
done now, and a heartbeat; it is replaced as a whole, so that a reader never sees half of it. Neither has a part in what
is computed, and neither is exported. A run goes on without them: where they cannot be written, that is said once.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from ugaf import __version__
from ugaf.base.location import scrub
from ugaf.base.printing import harmless
from ugaf.storage import Storage

LOG = "log.txt"
PROGRESS = "progress.json"

_WAITING = 1000
"""Entries that are kept while the folder cannot be written to."""

LOG_BYTES = 1 << 20
"""Beyond so much, the older half of the log is cut off when a call begins or its text is written."""

MESSAGE_CHARACTERS = 2000

BEAT_S = 5.0
"""Seconds between two heartbeats on a file system."""

REMOTE_BEAT_S = 60.0
"""On an object store, where every one is a request that is billed."""


class RunLog:
    """Collects lines for `log.txt`, until `flush` appends them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: deque[str] = deque(maxlen=_WAITING)

    def add(self, text: str) -> None:
        """One entry with the time of day; what goes over several lines is indented. Secrets of URLs are left out."""
        first, *more = harmless(scrub(text)[:MESSAGE_CHARACTERS]).splitlines() or [""]
        self._waiting.append("\n".join([f"{timestamp()}  {first}", *(f"    {line}" for line in more)]) + "\n")

    def flush(self) -> None:
        """Write what is waiting. Raises OSError or StopRun where the folder cannot be written to."""
        # Taken out first: entries may be added by another thread meanwhile.
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not taken:
            return
        text, path = "".join(taken).encode(), self._storage.path(LOG)
        try:
            if is_local(self._storage) and _size(path) + len(text) <= LOG_BYTES:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "ab") as file:
                    file.write(text)
            else:
                self._storage.write(LOG, _bounded(self._before() + text))
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            raise

    def _before(self) -> bytes:
        try:
            return self._storage.read(LOG)
        except FileNotFoundError:
            return b""


class Heartbeat:
    """Keeps `progress.json` of one call: who runs it and where, since when, and what it does."""

    def __init__(self, storage: Storage, command: str) -> None:
        self._storage = storage
        self.every_s = BEAT_S if is_local(storage) else REMOTE_BEAT_S
        self._facts = {
            "ugaf": __version__,
            "command": scrub(command),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": timestamp(),
            "every_s": self.every_s,
        }

    def document(self, state: str, doing: dict[str, Any], **end: Any) -> dict[str, Any]:
        """state: running, done or stopped; `end`: exit_code and message of a call that is over."""
        return {"state": state, "heartbeat": timestamp(), **self._facts, **end, **doing}

    def beat(self, document: dict[str, Any]) -> None:
        """Raises OSError or StopRun where the folder cannot be written to."""
        self._storage.write(PROGRESS, json.dumps(document, indent=1).encode() + b"\n")


@dataclass(frozen=True)
class LastCall:
    """What `progress.json` says. at_work: whether it says so and its heartbeat is young enough to be believed."""

    document: dict[str, Any]
    age_s: float
    at_work: bool

    @property
    def here(self) -> str:
        return f"process {self.document.get('pid')} on {self.document.get('host')}"


def last_call(storage: Storage) -> LastCall | None:
    """The last call on a run; None if there is no such file, or it cannot be understood."""
    try:
        document = json.loads(storage.read(PROGRESS))
        age = (datetime.now(UTC) - datetime.fromisoformat(document["heartbeat"])).total_seconds()
        patience = 3 * float(document["every_s"]) + 10
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    running = document.get("state") == "running" and age <= patience
    return LastCall(document, age, running and not _gone(document))


def command_line(arguments: Sequence[str]) -> str:
    """The command as it can be typed again, without secrets."""
    import shlex

    return scrub(shlex.join(["ugaf", *arguments]))


def versions() -> str:
    return f"ugaf {__version__}, Python {sys.version.split()[0]}, pyarrow {pa.__version__}"


def is_local(storage: Storage) -> bool:
    return isinstance(storage.filesystem, pafs.LocalFileSystem)


def _gone(document: dict[str, Any]) -> bool:
    """Whether the process was of this machine and is no more."""
    if document.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(document["pid"]), 0)
    except (ProcessLookupError, ValueError, KeyError):
        return True
    except PermissionError:
        return False
    return False


def _bounded(text: bytes) -> bytes:
    if len(text) <= LOG_BYTES:
        return text
    kept = text[-LOG_BYTES // 2 :]
    return b"(older lines were cut off)\n" + kept[kept.find(b"\n") + 1 :]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def timestamp() -> str:
    """The time of day, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
