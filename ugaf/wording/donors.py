"""Objects of other photographs that are put in the place of one: looked for among a photograph's neighbours.

The neighbours are those of the same fragment, given to the stage as `peers`. Their boxes and masks say which objects
fit; only the one that is chosen has its picture opened, for the instruction has to say what is put in.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ugaf.imaging import images
from ugaf.stage import Row
from ugaf.wording import asks, colours, naming
from ugaf.wording.asks import Ask, Donor
from ugaf.wording.scene import MAX_JOINED, SURE, Thing, borders_touched, joined_outlines

SIDE = 256
"""Longer side, pixels, at which a donor's picture is read for its colour."""
PICTURES = 32
"""Donors' pictures that are kept, for many rows of a fragment share a donor."""


class Donors(threading.local):
    """Finds donors. What is kept from row to row is each thread's own, for each works on a fragment of its own."""

    def __init__(self) -> None:
        self._fragment: Fragment | None = None
        self._photos: OrderedDict[str, np.ndarray] = OrderedDict()

    def find(self, target: Thing, row: Row, seed: int) -> Donor | None:
        """An object of another photograph of the fragment for the target's place, not yet described."""
        if self._fragment is None or self._fragment.peers is not row.peers:
            self._fragment = Fragment(row.peers)
        for peer, position in self._fragment.donors(target, row.id, seed):
            if self._fragment.is_whole(peer, position):
                return Donor(peer.id, position)
        return None

    def described(self, ask: Ask, row: Row) -> Ask:
        """The ask with its donor's measurements, where it has a donor."""
        if ask.donor is None:
            return ask
        donor = ask.donor
        peer = next(peer for peer in row.peers if peer.id == donor.id)
        found = peer["objects"][donor.position]
        photo = self._photo(peer)
        mask = images.decode_mask(found["mask"])
        size = (peer["width"], peer["height"])
        facts = naming.facts(
            donor.position, found["box"], found.get("label"), mask, photo, size, colours.name_indices(photo)
        )
        return replace(ask, donor=replace(donor, facts=facts))

    def _photo(self, peer: Row) -> np.ndarray:
        """The donor's picture, small."""
        if peer.id not in self._photos:
            self._photos[peer.id] = images.decode(peer["image"], SIDE)
            while len(self._photos) > PICTURES:
                self._photos.popitem(last=False)
        return self._photos[peer.id]


class Fragment:
    """All objects of a fragment's photographs as arrays, so that a donor is looked for in microseconds.

    where: int (n, 2): position in the peers, position in its objects. sides: int (n, 2): width and height of the box,
    pixels. free: bool (n,): has a mask, and touches at most one border.
    """

    def __init__(self, peers: Sequence[Row]) -> None:
        self.peers = peers
        where: list[tuple[int, int]] = []
        sides: list[tuple[int, int]] = []
        free: list[bool] = []
        for i, peer in enumerate(peers):
            size = (peer["width"], peer["height"])
            for k, found in enumerate(peer["objects"] or ()):
                x1, y1, x2, y2 = found["box"]
                where.append((i, k))
                sides.append((x2 - x1, y2 - y1))
                free.append(bool(found.get("mask")) and borders_touched((x1, y1, x2, y2), size) <= 1)
        self.where = np.array(where, dtype=int).reshape(-1, 2)
        self.sides = np.array(sides, dtype=float).reshape(-1, 2)
        self.free = np.array(free, dtype=bool)
        self._joined: dict[str, list[float]] = {}
        self._ranked: tuple[str, int] | None = None
        self._ranks_of = np.zeros(len(peers))

    def donors(self, target: Thing, own: str, seed: int) -> Iterator[tuple[Row, int]]:
        """Objects of other photographs that fit in the target's place, the highest rendezvous hash first."""
        x1, y1, x2, y2 = target.box
        ranks = self._ranks(own, seed)
        fits = self.free & asks.fits(self.sides, (x2 - x1, y2 - y1)) & (ranks > 0)[self.where[:, 0]]
        found = self.where[fits]
        for i, k in found[np.lexsort((found[:, 1], -ranks[found[:, 0]]))]:
            yield self.peers[i], int(k)

    def is_whole(self, peer: Row, position: int) -> bool:
        """Whether an object can stand alone: surely one, with a plausible outline, and not a part of another."""
        if peer.id not in self._joined:
            self._joined[peer.id] = joined_outlines(peer["objects"], (peer["width"], peer["height"]))
        found = peer["objects"][position]
        mask = images.decode_mask(found["mask"])
        sure = bool(found.get("label")) or (found.get("score") or 0.0) >= SURE
        alone = self._joined[peer.id][position] <= MAX_JOINED
        return sure and alone and bool(mask.size) and asks.is_outline(float(mask.mean()))

    def _ranks(self, own: str, seed: int) -> np.ndarray:
        """Rank of each photograph as the donor of `own`, float in (0, 1]; 0 for itself."""
        if self._ranked != (own, seed):
            ranks = [0.0 if peer.id == own else asks.rank(seed, own, peer.id) for peer in self.peers]
            self._ranked, self._ranks_of = (own, seed), np.array(ranks)
        return self._ranks_of
