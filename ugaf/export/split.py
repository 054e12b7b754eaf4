"""Train or validation: no picture, source or edited, is in both.

The split of a photograph is a pure function of its id, which is a hash of its bytes: it does not depend on what else
is in the run, so it stays when the data grows, and every run and machine agrees. Raising the share only moves
photographs from train to validation. An edit made here belongs to the split of its photograph. Where it also shows an
object of a second photograph (the donor of a `replace`), both must lie in the same split, else it is left out.

Pairs that came from elsewhere share pictures as they like: the source of one is the edited image of another. They are
grouped by both their pictures and their `image_id` (`Grouping`), and a group has one split: the one that came with its
pairs, else that of its anchor, the `image_id` or source with the smallest hash. So neither the order of the pairs nor
of the fragments matters, and what can move when a set grows is a group that a new pair enlarges or joins to another.
Where pairs of a group came with both splits, train wins: what somebody may have trained on is no test of it.

Last, `Shown` looks at the bytes that are written. Two photographs that differ in a byte of metadata are two to all of
the above, and may still become the same pixels: the later pair is left out where the other split shows its picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ugaf.base import chance

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)
OTHER_SPLIT = "one of its pictures is in the other split"
"""Why a pair or a photograph is left out of an export."""

_HELD_OUT = frozenset({VALIDATION, "valid", "val", "dev", "test", "eval", "evaluation"})
_NONE, _TRAIN, _VALIDATION = -1, 0, 1


def of_photograph(image_id: str, share: float) -> str:
    """ "train" or "validation". `share` (0..1) is the expected share of photographs in validation."""
    return SPLITS[int(_draw(image_id) < share * 2**64)]


def of_edit(image_id: str, donor: str | None, share: float) -> str | None:
    """The split of an edit; None where its photograph and its donor lie in different splits."""
    own = of_photograph(image_id, share)
    return own if donor is None or of_photograph(donor, share) == own else None


def named(given: str | None) -> str | None:
    """The split that a data set's own word means ("dev": validation); None for null and unknown words."""
    word = (given or "").strip().lower()
    return VALIDATION if word in _HELD_OUT else TRAIN if word.startswith(TRAIN) else None


@dataclass(frozen=True)
class Groups:
    """The split of every picture of a set of pairs.

    pictures: uint64 (n,), sorted keys of the pictures. sides: int8 (n,), 0 for train, 1 for validation. moved: pairs
    that came with `validation` and are in train, because a pair of their group came with `train`.
    """

    pictures: np.ndarray
    sides: np.ndarray
    moved: int

    def of(self, picture: str) -> str | None:
        """The split of a picture by its id; None for one that is in no pair."""
        key = np.uint64(_key(picture))  # of the array's own type: an int would turn all of them into floats
        place = int(np.searchsorted(self.pictures, key))
        known = place < len(self.pictures) and self.pictures[place] == key
        return SPLITS[int(self.sides[place])] if known else None


class Grouping:
    """Collects pairs, in any order; 33 bytes a pair, and about 200 while `result` works."""

    def __init__(self) -> None:
        self._anchors: list[np.ndarray] = []
        self._draws: list[np.ndarray] = []
        self._sources: list[np.ndarray] = []
        self._edited: list[np.ndarray] = []
        self._given: list[np.ndarray] = []

    def add(
        self,
        sources: Iterable[str],
        edited: Iterable[str],
        image_ids: Iterable[str | None],
        splits: Iterable[str | None],
    ) -> None:
        """Pairs by the ids of their two pictures, with the photograph and the split that they came with, or None."""
        rows = [
            (s, e, image_id or s, named(side))
            for s, e, image_id, side in zip(sources, edited, image_ids, splits, strict=True)
        ]
        sides = {None: _NONE, TRAIN: _TRAIN, VALIDATION: _VALIDATION}
        self._sources.append(np.array([_key(source) for source, _, _, _ in rows], np.uint64))
        self._edited.append(np.array([_key(picture) for _, picture, _, _ in rows], np.uint64))
        self._anchors.append(np.array([_key(anchor) for _, _, anchor, _ in rows], np.uint64))
        self._draws.append(np.array([_draw(anchor) for _, _, anchor, _ in rows], np.uint64))
        self._given.append(np.array([sides[side] for _, _, _, side in rows], np.int8))

    def result(self, share: float) -> Groups:
        """`share` (0..1) is the expected share of the groups that came without a split in validation."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        empty = np.zeros(0, np.uint64)
        columns = [np.concatenate([empty, *one]) for one in (self._anchors, self._sources, self._edited)]
        draws, given = np.concatenate([empty, *self._draws]), np.concatenate([np.zeros(0, np.int8), *self._given])
        n = len(given)
        if not n:
            return Groups(empty, given, 0)
        pictures, places = np.unique(np.concatenate(columns), return_inverse=True)
        anchor, source, edited = places.astype(np.int32).reshape(3, n)
        edges = (np.ones(2 * n, bool), (np.concatenate([anchor, anchor]), np.concatenate([source, edited])))
        count, labels = connected_components(coo_array(edges, shape=(len(pictures),) * 2), directed=False)
        group = labels[anchor]
        # The anchor of a group is its smallest; places are in the order of the keys.
        order = np.lexsort((anchor, group))
        first = order[np.unique(group[order], return_index=True)[1]]
        sides = np.zeros(count, np.int8)
        sides[group[first]] = draws[first] < np.uint64(min(int(share * 2**64), 2**64 - 1))
        for side in (_VALIDATION, _TRAIN):
            sides[group[given == side]] = side
        moved = int(np.count_nonzero((given == _VALIDATION) & (sides[group] == _TRAIN)))
        return Groups(pictures, sides[labels], moved)


class Shown:
    """The pictures that each split shows so far, by their bytes; about 70 bytes a picture."""

    def __init__(self) -> None:
        self._by: dict[str, set[int]] = {split: set() for split in SPLITS}

    def admits(self, split: str, *pictures: bytes) -> bool:
        """Whether no other split shows one of the pictures; if so, this one does from now on."""
        keys = {int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") for data in pictures}
        if any(not keys.isdisjoint(shown) for other, shown in self._by.items() if other != split):
            return False
        self._by[split] |= keys
        return True


def _key(picture: str) -> int:
    return int.from_bytes(hashlib.blake2b(picture.encode(), digest_size=8).digest(), "big")


def _keys(pictures: Iterable[str]) -> np.ndarray:
    return np.array([_key(picture) for picture in pictures], np.uint64)


def _draw(image_id: str) -> int:
    return chance.number(f"ugaf split/{image_id}")
