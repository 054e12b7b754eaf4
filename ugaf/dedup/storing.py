"""From links between numbered rows to what a stage stores: for each pending row its neighbours, by id.

An edge is stored at one pending end at least, so that whatever is committed before a crash, no link is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ugaf.dedup.grid import unpacked
from ugaf.dedup.links import Ends, Links, ends
from ugaf.stage import Failure
from ugaf.stage.whole import RunRows


@dataclass(frozen=True)
class Neighbours:
    """What is stored of a row: its links, best first, as `{id, measures ...}`; a Failure where it has no value."""

    fragment: str
    rows: Sequence[list[dict[str, Any]] | Failure]


def stored(run: RunRows, links: Links, most: int, column: str, size: int) -> Iterator[Neighbours]:
    """For each fragment that has pending rows, what is stored of them, in the order of their ids."""
    places = ends(links, most)
    numbers = np.unique(np.concatenate([links.a, links.b]))
    ids = _ids(run, numbers)
    start = 0
    for fragment, (count, waiting) in run.counts.items():
        if waiting:
            table = run.table(fragment, [column])
            pending = np.flatnonzero(table.column("pending").to_numpy(zero_copy_only=False))
            _, good = unpacked(table.column(column), size)
            rows: list[list[dict[str, Any]] | Failure] = []
            for place in pending:
                if good[place]:
                    rows.append(_neighbours(links, places, int(place) + start, numbers, ids))
                else:
                    rows.append(Failure("ValueError", f"its {column} is null or damaged: measure it again"))
            yield Neighbours(fragment, rows)
        start += count


def _neighbours(links: Links, places: Ends, row: int, numbers: np.ndarray, ids: pa.Array) -> list[dict[str, Any]]:
    low, high = np.searchsorted(places.row, [row, row + 1])
    chosen = places.link[low:high]
    others = np.where(links.a[chosen] == row, links.b[chosen], links.a[chosen])
    found = {"id": ids.take(pa.array(np.searchsorted(numbers, others))).to_pylist()}
    found |= {name: _listed(values[chosen]) for name, values in links.measures.items()}
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def _listed(values: np.ndarray) -> list[Any]:
    """Numbers of which the last digits, that depend on how rows were grouped, are cut; null for NaN."""
    if values.dtype.kind != "f":
        return values.tolist()
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _ids(run: RunRows, numbers: np.ndarray) -> pa.Array:
    """Ids of rows of the run, by their sorted numbers."""
    found, start = [pa.array([], pa.string())], 0
    for fragment, (count, _) in run.counts.items():
        low, high = np.searchsorted(numbers, [start, start + count])
        if high > low:
            column = run.table(fragment, []).column("id").take(pa.array(numbers[low:high] - start))
            found.append(column.combine_chunks())
        start += count
    return pa.concat_arrays(found)
