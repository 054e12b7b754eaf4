"""Which rows the gallery shows: a stratified sample that depends only on the rows' ids and a seed.

A plain random sample of a run would show what is frequent. A reader of the report wants to see each reason: so the
places are shared out over statuses (kept rows get half), inside a status over (stage, rule), inside those over tasks,
each time equally, and what a small group leaves over goes to the others. Inside a stratum, rows are taken in the order
of a hash of seed and id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

STATUSES = ("kept", "rejected", "failed", "pending")
WEIGHTS = {"kept": 0.5, "rejected": 0.35, "failed": 0.1, "pending": 0.05}

Stratum = tuple[str, str, str]
"""(status, stage and rule, task)"""


class Sampler:
    """Takes every row's id once; remembers at most `room` ids of each stratum."""

    def __init__(self, room: int, seed: int) -> None:
        self.room = room
        self.key = str(seed).encode()
        self.sizes: dict[Stratum, int] = {}
        self._ids: dict[Stratum, list[tuple[bytes, str]]] = {}

    def add(self, stratum: Stratum, id: str) -> None:
        self.sizes[stratum] = self.sizes.get(stratum, 0) + 1
        ids = self._ids.setdefault(stratum, [])
        ids.append((hashlib.blake2b(id.encode(), key=self.key, digest_size=8).digest(), id))
        if len(ids) > 2 * self.room + 64:
            ids.sort()
            del ids[self.room :]

    def choose(self, places: int | None = None) -> list[str]:
        """The ids shown: by status (kept first), then in the order of the hash, so that tasks and reasons mix."""
        shares = allocate(self.sizes, self.room if places is None else places)
        chosen: list[tuple[int, bytes, str]] = []
        for stratum, count in shares.items():
            ids = sorted(self._ids[stratum])[:count]
            chosen.extend((STATUSES.index(stratum[0]), digest, id) for digest, id in ids)
        return [id for _, _, id in sorted(chosen)]


def allocate(sizes: Mapping[Stratum, int], places: int) -> dict[Stratum, int]:
    """Places for each stratum: never more than its rows, all `places` used if there are enough rows."""
    result: dict[Stratum, int] = {}
    for status, in_status, weight_places in _shared(sizes, 0, places, WEIGHTS):
        for _, in_rule, rule_places in _shared(in_status, 1, weight_places):
            for _, in_task, task_places in _shared(in_rule, 2, rule_places):
                (stratum,) = in_task
                assert stratum[0] == status
                result[stratum] = task_places
    return result


def _shared(
    sizes: Mapping[Stratum, int], position: int, places: int, weights: Mapping[str, float] | None = None
) -> list[tuple[str, dict[Stratum, int], int]]:
    """Group strata by one of their parts and share the places out over the groups."""
    groups: dict[str, dict[Stratum, int]] = {}
    for stratum in sorted(sizes):
        groups.setdefault(stratum[position], {})[stratum] = sizes[stratum]
    names = list(groups)
    totals = [sum(group.values()) for group in groups.values()]
    shares = fill(totals, places, [weights[name] for name in names] if weights else None)
    return [(name, groups[name], share) for name, share in zip(names, shares, strict=True)]


def fill(sizes: Sequence[int], places: int, weights: Sequence[float] | None = None) -> list[int]:
    """Share `places` out over groups in proportion to the weights (equal if None), never more than a group's size.

    Small groups are served first, so what they leave over goes to the larger ones. With fewer places than groups the
    larger groups get one each.
    """
    weight = list(weights) if weights is not None else [1.0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i] / weight[i], i))
    shares = [0] * len(sizes)
    weight_left = sum(weight)
    for rank, i in enumerate(order):
        last = rank == len(order) - 1
        share = places if last else int(places * weight[i] / weight_left + 1e-9)
        if share == 0 and weights is not None and places:
            share = 1
        shares[i] = min(sizes[i], share)
        places -= shares[i]
        weight_left -= weight[i]
    return shares
