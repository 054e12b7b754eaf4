"""A worker whose process has grown too large is begun anew between two units.

Libraries leak, and caches grow: over days a process takes the memory of its node, and what the node's killer then ends
may be another one, with rows in hand that did nothing wrong.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

AFTER_FIRST = 2.0
"""What a process may take at least, as a multiple of what it took when its models were loaded."""


class Renewal:
    """Ends this process before the next unit when it is larger than `limit_mb` (MB of 2**20 bytes), or than twice what
    it took after its first unit if that is more. Whoever started it starts it again, and gives it that unit.

    end, size: how it ends, and its resident memory in bytes (0 where it is not known).
    """

    def __init__(
        self,
        limit_mb: int | None,
        end: Callable[[], None] = lambda: os._exit(0),
        size: Callable[[], int] | None = None,
    ) -> None:
        self._size = size or resident_bytes
        self._end = end
        self._limit: float | None = None if limit_mb is None else limit_mb << 20
        self._is_new = True
        self._changed = threading.Condition()
        self._in_hand = 0

    def begin(self) -> None:
        """A unit is in hand from now on. In a process that is to end it waits for the units of other threads."""
        with self._changed:
            if self._limit is not None and self._size() > self._limit:
                self._changed.wait_for(lambda: not self._in_hand)
                self._end()
            self._in_hand += 1

    def done(self) -> None:
        """It is not in hand any more."""
        with self._changed:
            self._in_hand -= 1
            if self._is_new and self._limit is not None:
                # Its models are loaded now, by the set-up or by the first row.
                self._limit = max(self._limit, AFTER_FIRST * self._size())
            self._is_new = False
            self._changed.notify_all()


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
