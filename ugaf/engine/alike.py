"""When nearly all rows of a stage fail in one way, it is not the rows.

A token that has expired, a server that answers every request with the same error, a slip in a stage: each row fails for
itself, and a run would burn through all of them. So the last outcomes of each stage are watched together, over all
workers (`Window`), and the run stops when nearly all of them are one failure: the same type of error, with the same
message but for names and numbers. Those rows are taken back (`Columns.take_back`): they are pending again, and after
the mend the same command does them.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from ugaf.base.errors import Alike as Alike
from ugaf.base.errors import StopRun

NEARLY_ALL = 0.98
"""The share of the last rows that stops a run."""
FIRST_ROWS = 20
"""Rows without a good one before them, after which a stage stops that raises what it did not foresee."""
FEWEST = 3
"""Rows of such a stage, at its end, for which it stops: fewer may well be the rows' own fault."""
SHAPE_CHARACTERS = 200

_QUOTED = re.compile(r"""b?'(?:[^'\\\n]|\\.)*'|b?"(?:[^"\\\n]|\\.)*\"""")
_PLACE = re.compile(r"\S*[/\\]\S*|\S+\.[A-Za-z]\w{1,4}\b(?:\S*:)?")
_NUMBER = re.compile(r"\b(?:0x)?[0-9a-fA-F]{6,}\b|[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class FailedRow:
    """A row that failed, as a worker reports it.

    error: as it is stored. where: the file that the row came from, "" if it was not looked up. foreseen, trace: see
    `Failure`.
    """

    fragment: str
    id: str
    error: str
    where: str = ""
    foreseen: bool = True
    trace: str = ""


class AlikeError(StopRun):
    """The run was stopped for rows that failed alike; they are to be taken back."""

    def __init__(self, alike: Alike) -> None:
        super().__init__(alike.message)
        self.doubtful = (alike,)


def shape(error: str) -> str:
    """An error's text without what differs from row to row: what is quoted, paths, names of files, numbers."""
    kind, _, message = error.partition(": ")
    line = " ".join(message.split())
    for pattern, sign in ((_QUOTED, "'…'"), (_PLACE, "…"), (_NUMBER, "#")):
        line = pattern.sub(sign, line)
    line = re.sub(r"…(?: …)+", "…", line)
    return f"{kind}: {line[:SHAPE_CHARACTERS]}"


class Window:
    """The last outcomes of one stage.

    size: how many of them; 0 never stops a run.
    """

    def __init__(self, stage: str, size: int) -> None:
        self._stage = stage
        self._size = size
        self._last: deque[tuple[str, str]] = deque(maxlen=max(size, 1))
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, FailedRow] = {}
        self._suspects: dict[str, set[str]] = {}
        self._good = 0
        self._unforeseen: Counter[str] = Counter()
        self._failed = 0

    def add(self, good: int, failed: Sequence[FailedRow]) -> Alike | None:
        """Some rows more; why the run stops now, if it does."""
        if not self._size:
            return None
        for row in failed:
            key = shape(row.error)
            self._failed += 1
            if not (row.foreseen or self._good):
                self._unforeseen[key] += 1
            example = self._examples.get(key)
            if example is None or (row.where and not example.where):
                self._examples[key] = row
            self._push(key, row.fragment)
        self._good += good
        if self._good:
            self._unforeseen.clear()
        for _ in range(min(good, self._size)):
            self._push("", "")
        key, count = self._counts.most_common(1)[0] if self._counts else ("", 0)
        if key and len(self._last) == self._size and count >= math.ceil(NEARLY_ALL * self._size):
            return self._alike(key, f"{count} of its last {self._size} rows")
        return self._at_first(min(FIRST_ROWS, self._size))

    def doubtful(self) -> list[Alike]:
        """Failures that a stop of the run throws doubt on: nobody foresaw them, and the stage did no row well."""
        return [] if self._good else [self._alike(key, "rows") for key in self._unforeseen]

    def at_end(self) -> Alike | None:
        """Why the run stops after the stage's last row, if it does."""
        return self._at_first(FEWEST) if self._size else None

    def _at_first(self, fewest: int) -> Alike | None:
        """For a stage that has done nothing well so far."""
        key, count = self._unforeseen.most_common(1)[0] if self._unforeseen else ("", 0)
        if self._good or count < fewest or count < NEARLY_ALL * self._failed:
            return None
        return self._alike(key, f"{count} of its first {self._failed} rows")

    def _push(self, key: str, fragment: str) -> None:
        if len(self._last) == self._last.maxlen:
            oldest, _ = self._last[0]
            if oldest:
                self._counts[oldest] -= 1
        self._last.append((key, fragment))
        if key:
            self._counts[key] += 1
        # Rows of a failure that is most of what happens: all since it became so, though the window has let them go.
        if key and 2 * self._counts[key] > len(self._last):
            self._suspects.setdefault(key, self._fragments(key)).add(fragment)
        for other in [other for other in self._suspects if 2 * self._counts[other] <= len(self._last)]:
            del self._suspects[other]
        if len(self._examples) > 4 * self._size:
            self._unforeseen = Counter(dict(self._unforeseen.most_common(self._size)))
            wanted = {name for name, count in self._counts.items() if count > 0} | self._unforeseen.keys()
            self._examples = {name: row for name, row in self._examples.items() if name in wanted}

    def _alike(self, key: str, how_many: str) -> Alike:
        example = self._examples[key]
        place = f"row {example.id}" + (f", of {example.where}" if example.where else "")
        trace = "\n" + "\n".join(f"    {line}" for line in example.trace.splitlines()) if example.trace else ""
        return Alike(
            self._stage,
            key,
            f"{self._stage}: {how_many} failed in one way, so that the fault is hardly theirs:\n"
            f"  {example.error}\n  (first: {place}){trace}\n"
            "They are not recorded as failed but stay pending: once it is mended, the same command does them. If they "
            "are to blame themselves, --set engine.stop_after_alike=0 records them as failed and goes on.",
            frozenset(self._suspects.get(key, set()) | self._fragments(key)),
        )

    def _fragments(self, key: str) -> set[str]:
        return {fragment for name, fragment in self._last if name == key}
