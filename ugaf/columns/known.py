"""The sources that a run has, as sorted numbers: millions of them are asked for a chunk at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ugaf.columns import keys
from ugaf.columns.keys import Keys
from ugaf.columns.origins import Origin
from ugaf.columns.packing import ROWS
from ugaf.columns.packs import FRAGMENTS
from ugaf.columns.parts import Columns
from ugaf.columns.snapshot import runs_of_text, source_lists


class KnownSources:
    """16 bytes and the number of its input for each source that was cut, and whether a listing gave it again."""

    def __init__(self, columns: Columns) -> None:
        self.origins: dict[Origin, int] = {}
        fragments, shelf = source_lists(columns)
        found, numbers = [keys.of_texts([])], [np.empty(0, np.int32)]
        texts = shelf.fact("runs")
        for start in range(0, len(fragments), FRAGMENTS):
            group = fragments[start : start + FRAGMENTS]
            table = shelf.rows(ROWS, group)
            for_each = np.repeat(np.arange(len(group)), shelf.counts(ROWS, group))
            of = [
                [self.origins.setdefault(origin, len(self.origins)) for origin, _ in runs_of_text(text)]
                for text in texts[start : start + len(group)]
            ]
            first = np.cumsum([0, *map(len, of)])[:-1]
            flat = np.array([number for some in of for number in some], dtype=np.int32)
            stays = table.column("digest").is_valid().to_numpy().astype(bool)
            place = first[for_each[stays]] + table.column("origin").to_numpy()[stays]
            found.append(keys.of_column(table.column("digest").drop_null()))
            numbers.append(flat[place])
        high, low = (np.concatenate([getattr(some, half) for some in found]) for half in ("high", "low"))
        number = np.concatenate(numbers)
        order = np.lexsort([low, high])
        # Of a source that stands in two fragments, the later one says of which input it is.
        last = np.ones(len(order), dtype=bool)
        last[:-1] = (high[order][1:] != high[order][:-1]) | (low[order][1:] != low[order][:-1])
        order = order[last]
        self._keys, self._numbers = Keys(high[order], low[order]), number[order]
        self._seen = np.zeros(len(order), dtype=bool)

    def has(self, digests: Sequence[bytes]) -> np.ndarray:
        """Which of these are known; they have been seen from then on: bool (n,)."""
        raw = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)
        at = keys.among(Keys(np.ascontiguousarray(raw[:, 0]), np.ascontiguousarray(raw[:, 1])), self._keys)
        self._seen[at[at >= 0]] = True
        return at >= 0

    def unseen(self) -> Counter[Origin]:
        """Of each input, the sources that no listing gave."""
        places = list(self.origins)
        counts = np.bincount(self._numbers[~self._seen], minlength=len(places))
        return Counter({places[number]: int(count) for number, count in enumerate(counts) if count})
