"""Units of work: what one worker takes at a time.

A fragment is how rows are stored; a unit is some of its rows, as many as a stage does in about a minute by the rate
that the run itself measures. A pool hands on what it has done in units of the next one, so that a slow stage's rows
spread over all its workers, the stage after it begins when the first rows are there, and a worker that is lost costs a
minute's work. Small runs have smaller units, so that they, too, keep every worker busy to the end.

A stage that looks at other rows of the fragment (`peers`, `refs`) needs them all to be there: what computes those
columns is given whole fragments (`split_from`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

UNIT_S = 60.0
"""Seconds of a worker's work in a unit."""
FEWEST_S = 1.0
"""Seconds below which a unit is not made smaller: committing it costs some hundredths of one."""


@dataclass(frozen=True)
class Unit:
    """Rows of a fragment: with neither `ids` nor `share` all of them.

    ids: photographs or edits, by id; a photograph's stands for its edits, too. share: (number, of): the photographs
    of the fragment in the order of their ids, cut into so many equal parts, that number of these from 0 on.
    """

    fragment: str
    ids: tuple[str, ...] | None = None
    share: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """Its name in the journal; no other unit of a pool that is at work has it."""
        some = "" if self.ids is None else f"/{self.ids[0] if self.ids else ''}+{len(self.ids)}"
        return self.fragment + (some if self.share is None else f"/{self.share[0]} of {self.share[1]}")

    def rows(self, photographs: Sequence[str]) -> frozenset[str] | None:
        """The ids that it stands for, of a fragment with these photographs in order of id; None: all rows."""
        if self.ids is not None:
            return frozenset(self.ids)
        if self.share is None:
            return None
        number, of = self.share
        count = len(photographs)
        return frozenset(photographs[number * count // of : (number + 1) * count // of])

    def dumped(self) -> str:
        """As text, to travel in a row of Ray Data."""
        return json.dumps([self.fragment, self.ids, self.share])

    @classmethod
    def loaded(cls, text: str) -> Unit:
        """The unit that was `dumped`."""
        fragment, ids, share = json.loads(text)
        return cls(fragment, None if ids is None else tuple(ids), None if share is None else tuple(share))


@dataclass(frozen=True)
class Pending:
    """What of a fragment is to be done. skip: ids that another fragment speaks for. photographs: (or pairs) in it."""

    skip: Sequence[str]
    photographs: int


Work = Mapping[str, Pending]
"""By fragment."""


@dataclass(frozen=True)
class Size:
    """How large the units of a group are.

    stages: those of the group. guess: seconds a row, until the run has measured it. batch: rows of one call. most: rows
    above which the workers of a small run would not all have work.
    """

    stages: tuple[str, ...]
    guess: Mapping[str, float]
    batch: int
    most: int

    def rows(self, rates: Mapping[str, float]) -> int:
        """Rows of a unit; `rates`: seconds a row of the stages that have been measured."""
        seconds = sum(rates.get(name, self.guess[name]) for name in self.stages)
        fewest = math.ceil(FEWEST_S / seconds) if seconds > 0 else self.most
        rows = max(1, min(int(UNIT_S / seconds) if seconds > 0 else self.most, max(self.most, fewest)))
        return rows // self.batch * self.batch or rows


@dataclass(frozen=True)
class Onward:
    """What a group hands on to the next one. level: of the next group's rows. size: None for whole fragments."""

    level: str
    size: Size | None


def units(fragment: str, rows: int, size: Size | None, rates: Mapping[str, float]) -> Iterator[Unit]:
    """The units of a fragment with so many rows."""
    count = 1 if size is None else math.ceil(rows / size.rows(rates))
    yield from [Unit(fragment)] if count < 2 else (Unit(fragment, share=(number, count)) for number in range(count))
