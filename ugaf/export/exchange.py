"""Two folders of a local disk change places in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def exchange(one: str, other: str) -> None:
    """Put the folder `one` at `other`, and what was there, if anything, at `one`.

    A single step where Linux and the disk have one; elsewhere two renames, between which `other` is missing. Raises
    OSError.
    """
    if not os.path.lexists(other):
        os.rename(one, other)
        return
    if _in_one_step(one, other):
        return
    os.rename(other, aside(one))
    os.rename(one, other)
    os.rename(aside(one), one)


def aside(one: str) -> str:
    """Where the earlier folder lies between two renames."""
    return f"{one}.old"


def _in_one_step(one: str, other: str) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), one, None, other)
