"""Local files that end: pipes, devices and folders are refused before they are opened."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import BinaryIO


class NotRegularError(OSError):
    """A folder, a pipe or a device where a file is read: it has no end, or never begins."""


def check_regular(path: str) -> None:
    """Raises NotRegularError for what is there and no regular file, before it is opened: to open a pipe is to wait."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotRegularError("not a regular file (a folder, a pipe or a device)")


def open_regular(path: str) -> BinaryIO:
    """A local file, opened for reading. Raises NotRegularError at once for what is none, and never waits for it."""
    check_regular(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # It may have become another one since.
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotRegularError("not a regular file (a folder, a pipe or a device)")
        return open(handle, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(handle)
        raise
