"""A sample by quota that depends on the rows alone.

Rows of a category are ranked by a hash of seed and id, and the first ones are taken. So the same rows give the same
sample on any machine, in whatever order they are read; a smaller quota takes a part of what a larger one takes; and a
new row takes at most the place of one other of its category, as long as the quotas stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ugaf.base import chance


def ranks(ids: Iterable[str], seed: int) -> np.ndarray:
    """The hash of each row, uint64 (n,)."""
    return np.fromiter((chance.number(f"ugaf balance/{seed}/{key}") for key in ids), np.uint64)


@dataclass(frozen=True)
class Sample:
    """Which rows are taken: those whose hash is at most their category's `cuts`; a category without one gives none."""

    seed: int
    cuts: Mapping[str, int]

    def takes(self, ids: Iterable[str], categories: Iterable[str]) -> np.ndarray:
        """bool (n,) for rows by id and category."""
        cuts = [self.cuts.get(name, -1) for name in categories]
        return np.array([rank <= cut for rank, cut in zip(ranks(ids, self.seed).tolist(), cuts, strict=True)], bool)


def draw(names: list[str], codes: np.ndarray, hashes: np.ndarray, quotas: Mapping[str, int], seed: int) -> Sample:
    """The sample that takes `quotas[name]` rows of each category.

    Args:
        names: categories by code. codes: int32 (n,), each row's. hashes: uint64 (n,), each row's, from `ranks`.
    """
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    cuts: dict[str, int] = {}
    for code, name in enumerate(names):
        own = hashes[order[ends[code - 1] if code else 0 : ends[code]]]
        quota = quotas.get(name, 0)
        if quota >= len(own):
            cuts[name] = 2**64 - 1
        elif quota > 0:
            cuts[name] = int(np.partition(own, quota - 1)[quota - 1])
    return Sample(seed, cuts)
