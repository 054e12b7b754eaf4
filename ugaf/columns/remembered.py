"""Light columns of part files that were read before, for one that reads a fragment again and again while it grows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress

import pyarrow as pa

MOST = 2000
"""Part files whose light columns are kept."""

Light = tuple[pa.Table, Mapping[bytes, bytes]]
"""Light columns of a part file, and its facts."""


class Remembered:
    """The part files that were read last; may be asked from several threads. A part never changes."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, tuple[str, ...]], Light] = OrderedDict()

    def light(self, path: str, names: tuple[str, ...], read: Callable[[], Light]) -> Light:
        """These columns of a part: as they were read before, else what `read` gives."""
        known = self._known.get((path, names))
        if known is None:
            known = self._known[path, names] = read()
            while len(self._known) > MOST:
                with suppress(KeyError):  # another thread was quicker
                    self._known.popitem(last=False)
        return known
