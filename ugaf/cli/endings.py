"""How a command ends: its exit status, signals, and a message in place of a traceback for what a user can mend."""

from __future__ import annotations

import atexit
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ugaf.base import faults
from ugaf.base.errors import MANY_FAILED, NOTHING_KEPT, ConfigError, StopRun, UgafError
from ugaf.base.printing import counted
from ugaf.columns.view import StageCounts

GOES_ON = "what is done is kept, and the same command goes on from there"
INTERRUPTED, READER_GONE = 128 + signal.SIGINT, 128 + signal.SIGPIPE

AGAIN_S = 0.05
"""After a signal that was lost, until it is sent again."""

_MEND = {
    errno.EACCES: "may not be read or written by this user: change its permissions, or choose another folder",
    errno.EPERM: "may not be changed by this user: change its permissions, or choose another folder",
    errno.ENOTDIR: "is no folder, or lies below a file: choose another folder",
    errno.EISDIR: "is a folder, where a file is wanted",
    errno.EEXIST: "is there already, and is no folder: choose another one",
    errno.ENAMETOOLONG: "has too long a name: choose a shorter folder",
    errno.ENOENT: "is not there",
}


class UnfinishedError(UgafError):
    """A run came to its end with rows that are still pending, and nobody said why: a fault of ours."""

    status = 1


class Ended(StopRun):
    """The process was told to end by a signal (SIGTERM: a scheduler, `docker stop`, `timeout`)."""


def leave(status: int) -> NoReturn:
    """End the process now. The interpreter is not taken apart: a thread of Arrow's that still reads for nobody would
    abort the process meanwhile, and the exit status would say that the command crashed."""
    atexit._run_exitfuncs()
    vanish(status)


def vanish(status: int) -> NoReturn:
    """End the process now, with nothing done that is registered for its end: what Ray has there waits for a head."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, SIGTERM raises Ended in the main thread, as Ctrl-C raises KeyboardInterrupt; further ones do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Ended(f"ended by {signal.Signals(number).name}; {GOES_ON}")

    def lost(unraisable: Any) -> None:
        """Python drops what is raised in a finalizer or a callback of its own: the signal is sent again."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(AGAIN_S, again, (signal.SIGINT,)).start()
        elif isinstance(unraisable.exc_value, Ended):
            signal.signal(signal.SIGTERM, end)
            threading.Timer(AGAIN_S, again, (signal.SIGTERM,)).start()
        else:
            told(unraisable)

    def again(number: int) -> None:
        # Not to a command that has come to its end meanwhile.
        if sys.unraisablehook is lost:
            os.kill(os.getpid(), number)

    told, sys.unraisablehook = sys.unraisablehook, lost
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = told


def mend(error: OSError) -> UgafError | StopRun | None:
    """What a user reads of an error of the operating system; None for one that no user can mend."""
    # Arrow's errors name the file in their text only.
    named = re.search(r"'([^']+)'", str(error))
    path = error.filename if isinstance(error.filename, str) else named[1] if named else ""
    fault = faults.service_fault(error)
    if fault is not None:
        return faults.stop(path or ".", fault)
    if path and error.errno is not None and error.errno in _MEND:
        return UgafError(f"{path}: {_MEND[error.errno]} ({os.strerror(error.errno)})")
    return None


def reader_gone() -> int:
    """Whoever read our output has gone (`ugaf status | head`): nothing more is said. Returns the exit status."""
    # Python flushes stdout once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return READER_GONE


def max_failed(text: str) -> float:
    """`--max-failed`: a share (0.05, 5%), or as an integer a number of rows; a share is below 1. Raises ConfigError."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    whole = text.isdecimal()
    if not number >= 0 or (number > 1 and not whole):
        raise ConfigError(f"--max-failed {text}: a share of the rows (0.05 or 5%), or a number of rows (20)")
    return number if whole else min(number, 1 - 1e-9)


def of_run(stages: Sequence[StageCounts], most: float) -> tuple[int, str]:
    """The exit status of a run that came to its end, and why it is not 0.

    stages: those that were asked for. most: see `max_failed`.
    """
    if stages and any(stage.given for stage in stages) and not stages[-1].kept:
        return NOTHING_KEPT, f"nothing was kept: {stages[-1].name} let no row through (the funnel says why)"
    for stage in stages:
        allowed = most if most >= 1 or most == 0 else most * stage.given
        if stage.failed > allowed:
            return MANY_FAILED, (
                f"{stage.name}: {stage.failed} of {counted(stage.given, 'rows')} failed, more than --max-failed allows "
                f"({allowed:g}); --retry-failed does them again"
            )
    return 0, ""
