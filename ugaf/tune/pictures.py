"""Sample images for the page: rows on both sides of each threshold, and of quantiles of each column.

A page cannot hold a picture of every row. It holds a few hundred, chosen so that wherever a slider stands there are
some whose values lie near it; a row that was chosen for one column serves all others too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ugaf.pages import thumbnails
from ugaf.pages.cells import IMAGES, clip
from ugaf.pages.thumbnails import Thumbnails
from ugaf.tune.data import Data, TunedStage
from ugaf.tune.funnel import StageYield

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

BUDGET = 8_000_000
"""Bytes of all thumbnails together, before base64 adds a third."""
SIDE = 240
AT_CUT = 6
"""Rows on each side of a present threshold."""
SHARES = (0.5, 0.1, 0.9, 0.25, 0.75, 0.02, 0.98, 0.05, 0.95, 0.01, 0.99, 0.35, 0.65)
"""Quantiles near which one row on each side is taken, the most useful first."""


@dataclass(frozen=True)
class Shown:
    """A row with pictures. images: (what it shows, a thumbnail's name). note: why there is none."""

    level: int
    row: int
    id: str
    images: list[tuple[str, str]]
    note: str


def choose(data: Data, now: Sequence[StageYield], count: int) -> list[list[int]]:
    """Rows of each level whose pictures are shown, at most so many in all.

    Present thresholds come first, then columns with a rule at each quantile, then the other columns.
    """
    chosen: list[dict[int, None]] = [{} for _ in data.levels]
    for level, row in _candidates(data, now):
        if sum(map(len, chosen)) >= count:
            break
        chosen[level][row] = None
    return [sorted(rows) for rows in chosen]


def _candidates(data: Data, now: Sequence[StageYield]) -> Iterator[tuple[int, int]]:
    """(level, row), the most useful first."""
    ranked: list[tuple[int, _Sorted]] = []
    free: list[tuple[int, _Sorted]] = []
    at_cuts: list[tuple[int, list[int]]] = []
    for found in now:
        stage = data.stage(found.name)
        for name in stage.columns:
            kinds = data.present.get(stage.name, {}).get(name, {})
            cuts = [found.fitted.get((name, kind), bound) for kind, bound in kinds.items()]
            sorted_rows = _Sorted.of(stage, name, found.rows)
            (ranked if cuts else free).append((stage.level, sorted_rows))
            at_cuts += [(stage.level, sorted_rows.around(cut, AT_CUT)) for cut in cuts]
    # The nearest of every cut before the second nearest of any.
    for place in range(2 * AT_CUT):
        yield from ((level, rows[place]) for level, rows in at_cuts if place < len(rows))
    for group in (ranked, free):
        for share in SHARES:
            for level, column in group:
                yield from ((level, row) for row in column.around(column.at(share), 1))


@dataclass(frozen=True)
class _Sorted:
    """The rows given to a stage that have a value, by value."""

    values: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, stage: TunedStage, name: str, given: np.ndarray) -> _Sorted:
        column = stage.columns[name]
        here = np.zeros(len(stage.state), dtype=bool)
        here[given] = True
        usable = column.finite & here[stage.measured]
        order = np.argsort(column.values[usable], kind="stable")
        return cls(column.values[usable][order], stage.measured[usable][order])

    def at(self, share: float) -> float:
        return float(np.quantile(self.values, share)) if len(self.values) else 0.0

    def around(self, value: float, count: int) -> list[int]:
        """The nearest rows below and above, taken in turns."""
        middle = int(np.searchsorted(self.values, value))
        below = self.rows[max(middle - count, 0) : middle][::-1].tolist()
        above = self.rows[middle : middle + count].tolist()
        turns = list(zip(below, above, strict=False))
        rest = below[len(turns) :] + above[len(turns) :]
        return [row for pair in turns for row in pair] + rest


def load(view: RunView, data: Data, chosen: Sequence[Sequence[int]]) -> tuple[list[Shown], Thumbnails]:
    """Thumbnails of the chosen rows."""
    names = [name for name in IMAGES if name in view.pipeline.providers]
    expected = sum(len(rows) * (2 if data.levels[level].name == "edit" else 1) for level, rows in enumerate(chosen))
    images = Thumbnails(min(SIDE, thumbnails.side_for(max(expected, 1), BUDGET)))
    shown: list[Shown] = []
    for level, rows in enumerate(chosen):
        starts = data.levels[level].starts
        for number, fragment in enumerate(data.fragments):
            here = [row for row in rows if starts[number] <= row < starts[number + 1]]
            if here:
                shown += _read(view, data, fragment, level, here, names, images)
    images.shrink(BUDGET)
    return shown, images


def _read(
    view: RunView, data: Data, fragment: str, level: int, rows: Sequence[int], names: Sequence[str], images: Thumbnails
) -> list[Shown]:
    """Of the chosen rows of one fragment."""
    of = data.levels[level]
    ids = [of.ids[row].as_py() for row in rows]
    owners = ids
    base = [name for name in names if view.pipeline.is_base_column(name)]
    if of.parent is not None:
        owners = [data.levels[0].ids[int(of.parent[row])].as_py() for row in rows]
    own = [name for name in names if name not in base] if of.parent is not None else []
    base_values = view.values(fragment, base, sorted(set(owners))) if base else {}
    own_values = view.values(fragment, own, ids) if own else {}
    values = [{**base_values.get(o, {}), **own_values.get(key, {})} for key, o in zip(ids, owners, strict=True)]
    images.add(row[name] for row in values for name in names if row.get(name))
    is_edit = of.name == "edit"
    return [
        Shown(level, row, key, *_named(found, is_edit, images))
        for row, key, found in zip(rows, ids, values, strict=True)
    ]


def _named(values: dict[str, Any], is_edit: bool, images: Thumbnails) -> tuple[list[tuple[str, str]], str]:
    """The pictures of a row: its photograph, or source and edited; a null one is the photograph itself."""
    photo, source, edited = (values.get(name) for name in IMAGES)
    pictures = [("photograph", photo)]
    if is_edit:
        pictures = [("source", source or photo)]
        pictures += [("edited", edited or photo)] if source or edited else []
    named, notes = [], []
    for what, blob in pictures:
        name = thumbnails.key(blob) if blob else ""
        if name in images.made:
            named.append((what, name))
        else:
            notes.append(clip(images.failed[name]) if blob else "no image bytes")
    return named, "; ".join(dict.fromkeys(notes))
