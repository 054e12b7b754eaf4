"""Links between rows, and which of them are stored where.

Rows are numbers (their place in the whole run). A thousand copies of one photograph have half a million links; stored
are the `most` best of each row, and a maximum spanning forest over all: at every bound on the similarity, the stored
links join exactly the same rows into clusters as all links would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Links:
    """Pairs of rows a < b (n,), each pair once, and what is known of them: arrays (n,) by name, `similarity` among them
    (a number that is not known is NaN)."""

    a: Rows
    b: Rows
    measures: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.a)

    def take(self, chosen: np.ndarray) -> Links:
        return Links(self.a[chosen], self.b[chosen], {name: values[chosen] for name, values in self.measures.items()})


def join(parts: Sequence[Links]) -> Links:
    """All of one or more parts, sorted by rows; each pair is in one part only."""
    a, b = np.concatenate([part.a for part in parts]), np.concatenate([part.b for part in parts])
    measures = {name: np.concatenate([part.measures[name] for part in parts]) for name in parts[0].measures}
    return Links(a, b, measures).take(np.lexsort([b, a]))


@dataclass(frozen=True)
class Ends:
    """Where links are stored: at row `row` (m,) the link number `link` (m,) of a `Links`; sorted by row, best first."""

    row: Rows
    link: NDArray[np.intp]


def ends(links: Links, most: int) -> Ends:
    """At which rows each link is stored: at a row whose `most` most similar ones it is among, and if it belongs to the
    forest, at its later row."""
    rows = np.concatenate([links.a, links.b])
    others = np.concatenate([links.b, links.a])
    numbers = np.tile(np.arange(len(links)), 2)
    order = np.lexsort([others, -links.measures["similarity"][numbers], rows])
    rows, numbers = rows[order], numbers[order]
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows)))
    chosen = rank < most
    if not chosen.all():
        chosen |= forest(links)[numbers] & (rows == links.b[numbers])
    return Ends(rows[chosen], numbers[chosen])


def reduced(links: Links, most: int) -> Links:
    """The links that would be stored anywhere."""
    return links.take(np.unique(ends(links, most).link)) if len(links) else links


def forest(links: Links) -> NDArray[np.bool_]:
    """Which links (n,) are in a spanning forest of the largest similarities."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    rows, places = np.unique(np.concatenate([links.a, links.b]), return_inverse=True)
    a, b = places[: len(links)], places[len(links) :]
    # Ranks rather than similarities: a tree needs weights that are positive and, for one answer, all different.
    ranks = np.empty(len(links))
    ranks[np.lexsort([links.b, links.a, -links.measures["similarity"]])] = np.arange(1, len(links) + 1)
    tree = minimum_spanning_tree(coo_array((ranks, (a, b)), shape=(len(rows), len(rows))).tocsr())
    return np.isin(ranks, tree.data)
