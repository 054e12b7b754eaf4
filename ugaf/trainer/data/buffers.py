"""Memory of batches that are gone, used again for new ones.

To copy 40 MB into fresh pages takes four times as long as into pages that a process has: the system clears each page
first. (The allocator keeps such blocks only for the main thread, and only up to 32 MB.) A buffer comes back when the
last tensor that shows it is gone, whoever holds it and whatever view of it that is.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

import numpy as np

_STEP = 1 << 20


class Buffers:
    """A pool; may be used by several threads.

    limit: bytes that it keeps free at most; the sizes that were not asked for longest go first.
    """

    def __init__(self, limit: int = 512 << 20) -> None:
        self.limit = limit
        self.free_bytes = 0
        self._free: OrderedDict[int, list[np.ndarray]] = OrderedDict()
        # A buffer may come back, in the same thread, while one is taken.
        self._lock = threading.RLock()

    def take(self, size: int) -> np.ndarray:
        """uint8 (size,), of any content. `torch.from_numpy` of it keeps it until its tensors are gone."""
        room = max(1, -(-size // _STEP)) * _STEP
        with self._lock:
            if self._free.get(room):
                base = self._free[room].pop()
                self.free_bytes -= room
            else:
                base = np.empty(room, dtype=np.uint8)
        lent = base[:size]
        weakref.finalize(lent, self._give_back, base).atexit = False
        return lent

    def _give_back(self, base: np.ndarray) -> None:
        with self._lock:
            self._free.setdefault(len(base), []).append(base)
            self._free.move_to_end(len(base))
            self.free_bytes += len(base)
            while self.free_bytes > self.limit:
                size = next(size for size, some in self._free.items() if some)
                self._free[size].pop()
                self.free_bytes -= size
