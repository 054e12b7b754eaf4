"""Files on a disk of this machine, or one that looks like it: flushed, named at most once, locked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
"""What a file system says that has no hard links."""


@contextmanager
def flushed(path: str) -> Iterator[IO[bytes]]:
    """A new file, which is on the disk when the block ends."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def take_name(working: str, target: str) -> tuple[bool, str]:
    """Give a file a further name if nothing is called so. Returns whether it was given, and why that may have been to
    two callers at once; "" where it cannot."""
    try:
        os.link(working, target)
    except FileExistsError:
        # On NFS an answer may be lost, and the request sent again: the other name is then our own.
        return os.stat(working).st_nlink > 1, ""
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not (there := os.path.exists(target)):
            os.replace(working, target)
        return not there, f"the file system has no hard links ({error.strerror})"
    return True, ""


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """A folder for one process at a time; folders that are made for it are gone afterwards if nothing is in them."""
    import fcntl

    made = [path for path in (place, *place.parents) if not path.exists()]
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
        with suppress(OSError):  # the first one that holds something ends it
            for path in made:
                path.rmdir()
