"""A small program between a supervisor and its server, so that the server never outlives the supervisor.

It starts the server in a session of its own, copies its output into a log of bounded size, and ends it, with all that
it started, when standard input is closed: on purpose, or because the supervisor died in whatever way. A server that
is left behind keeps its GPU, and the next run finds no memory there.

`python keeper.py SUPERVISOR_PID LOG MAX_BYTES GRACE_S -- COMMAND...` prints `pid N` when the server has been started
and `exit CODE` when it has ended (negative: the signal). It needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CHUNK = 1 << 16
LOOK_S = 1.0
"""How often it is checked that the supervisor lives: a process that it forked may hold our standard input open."""


class BoundedLog:
    """A file that becomes `<path>.1` when it holds half of max_bytes, so that both keep the end of what was written."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self._path = path
        self._limit = max(1, max_bytes // 2)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        # A full disk must not end the server.
        with suppress(OSError):
            if self._file.tell() + len(data) > self._limit:
                self._file.close()
                os.replace(self._path, self._path + ".1")
                self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
            self._file.write(data)


class Keeper:
    """One server's process and its log."""

    def __init__(self, command: list[str], supervisor: int, log: BoundedLog, grace_s: float) -> None:
        self._supervisor = supervisor
        self._log = log
        self._grace_s = grace_s
        self._code: int | None = None
        self._told = False
        # Orphans of the server become children of this process, so that it can end them too.
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self.pid = self._server.pid

    def run(self, wakeup: int) -> int:
        """Until the server has ended, with all its children. Returns its exit code."""
        output = self._server.stdout
        assert output is not None
        os.set_blocking(output.fileno(), False)
        deadline: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ, "signal")
            selector.register(0, selectors.EVENT_READ, "supervisor")
            selector.register(output, selectors.EVENT_READ, "output")
            while self._code is None:
                for key, _ in selector.select(LOOK_S):
                    if key.data == "signal":
                        with suppress(BlockingIOError):
                            os.read(wakeup, CHUNK)
                    elif key.data == "supervisor":
                        if not os.read(0, CHUNK):
                            selector.unregister(0)
                            self._told = True
                    elif not self._copy(output):
                        selector.unregister(output)
                if deadline is None and (self._told or not _alive(self._supervisor)):
                    deadline = time.monotonic() + self._grace_s
                    self._signal(signal.SIGTERM)
                elif deadline is not None and time.monotonic() > deadline:
                    self._signal(signal.SIGKILL)
                self._reap()
        self._end_children()
        # What is left in the pipe: it holds no more than 1 MiB.
        for _ in range(16):
            if not self._copy(output):
                break
        return self._code

    def stop(self, *_: object) -> None:
        """Handler of SIGTERM: as if the supervisor had closed our standard input."""
        self._told = True

    def _copy(self, output: IO[bytes]) -> bool:
        """Copy what there is to the log; False at its end."""
        try:
            data = os.read(output.fileno(), CHUNK)
        except BlockingIOError:
            return True
        self._log.write(data)
        return bool(data)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _reap(self) -> bool:
        """Collect children that have ended; False if there are no children at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self._code = self._server.returncode = os.waitstatus_to_exitcode(status)

    def _end_children(self) -> None:
        """What the server left behind: the rest of its group, and processes that moved to sessions of their own."""
        self._signal(signal.SIGKILL)
        until = time.monotonic() + self._grace_s
        while self._reap() and time.monotonic() < until:
            for pid in _children():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _children() -> Iterator[int]:
    """Children of this process, as Linux tells; none elsewhere."""
    with suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:
        yield from map(int, file.read().split())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere a server outlives a keeper that is killed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(line: str) -> None:
    # The supervisor may be gone.
    with suppress(OSError):
        os.write(1, f"{line}\n".encode())


def main() -> None:
    supervisor, path, max_bytes, grace_s = sys.argv[1:5]
    command = sys.argv[6:]
    # Ray kills the children of a worker that it ends, and this process has work to do then: so it is a grandchild.
    if os.fork():
        os._exit(0)
    os.setsid()
    log = BoundedLog(path, int(max_bytes))
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        keeper = Keeper(command, int(supervisor), log, float(grace_s))
    except OSError as error:
        log.write(f"cannot start {command[0]}: {error.strerror}\n".encode())
        _say("exit 127")
        return
    signal.signal(signal.SIGTERM, keeper.stop)
    _say(f"pid {keeper.pid}")
    _say(f"exit {keeper.run(reader)}")


if __name__ == "__main__":
    main()
