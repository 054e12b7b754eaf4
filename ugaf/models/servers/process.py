"""A server's process as its supervisor sees it, and the end of its log. The process itself is run by `keeper.py`."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LOG_BYTES = 16 << 20
"""A server's log holds at least the last half of it."""

TAIL_LINES = 40
TAIL_BYTES = 64 << 10
LINE_CHARACTERS = 1000

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_GOOD_REQUEST = re.compile(r'"(GET|POST) \S+ HTTP/[\d.]+" 200')
_MARK = "[ugaf] start:"


class ServerProcess:
    """A server that runs, in a session of its own, until it ends by itself or `stop` is called.

    command, env: of the server. log: path of the log, which is added to. grace_s: between SIGTERM and SIGKILL.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, grace_s: float) -> None:
        self.pid: int | None = None
        self._code: int | None = None
        self._heard = b""
        with open(log, "ab") as output:
            output.write(f"{_MARK} {' '.join(command)}\n".encode())
            output.flush()
            keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py"))]
            self._launcher = subprocess.Popen(
                [*keeper, str(os.getpid()), str(log), str(LOG_BYTES), str(grace_s), "--", *command],
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        # It has forked and ended; the keeper goes on with its pipes.
        self._launcher.wait()

    def ended(self, timeout_s: float) -> int | None:
        """The server's exit code (negative: a signal), after at most timeout_s; None if it runs still."""
        assert self._launcher.stdout is not None
        deadline = time.monotonic() + timeout_s
        while self._code is None:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._launcher.stdout], [], [], left)[0]:
                return None
            data = os.read(self._launcher.stdout.fileno(), 4096)
            if data:
                self._hear(data)
            else:
                self._keeper_died()
        return self._code

    def stop(self) -> None:
        """Have the server ended, with all that it started; `ended` tells when that is done."""
        assert self._launcher.stdin is not None
        with suppress(OSError):
            self._launcher.stdin.close()

    def close(self) -> None:
        """Let go of a server that has ended."""
        self.stop()
        assert self._launcher.stdout is not None
        self._launcher.stdout.close()

    def _hear(self, data: bytes) -> None:
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            word, value = line.split()
            if word == b"pid":
                self.pid = int(value)
            else:
                self._code = int(value)

    def _keeper_died(self) -> None:
        """The kernel has killed the server with its keeper, and nobody its children yet."""
        self._code = -signal.SIGKILL
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def log_end(log: Path, lines: int = TAIL_LINES, secret: str | None = None) -> str:
    """The last lines of what the server wrote since it was last started, without colours and successful requests.

    secret: a key, masked where the server wrote it.
    """
    data = b""
    for path in (Path(f"{log}.1"), log):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            data += file.read()
    text = data.decode("utf-8", "replace")
    if secret:
        text = text.replace(secret, "***")
    if _MARK in text:
        text = text.rpartition(_MARK)[2].partition("\n")[2]
    # A progress bar returns to the start of its line.
    plain = (_CONTROLS.sub("", _COLOURS.sub("", line.rpartition("\r")[2] or line)) for line in text.split("\n"))
    said = [line.rstrip() for line in plain if line.strip() and not _GOOD_REQUEST.search(line)]
    return "\n".join(line[:LINE_CHARACTERS] for line in said[-lines:])


def describe_exit(code: int) -> str:
    """'ended with exit code 1', 'was killed by SIGKILL'."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
