"""Candidates for near-duplicates: which signatures have a window whose hash is close to another's whole hash.

Multi-index hashing (Norouzi, Punjani and Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014)
with query-directed probing (Lv et al., "Multi-probe LSH", 2007). The 96 lowest frequencies give 96 sign bits, dealt
into 4 keys of 24 bits. Two signatures meet if one of the keys agrees, or agrees after flipping any one bit, or two or
three of those bits whose coefficients are smallest and whose signs are therefore least sure. Pairs that meet and differ
in at most `RADIUS` of the 96 bits are candidates. Whether two signatures meet depends on these two alone, so it does
not matter which other rows there are, or in how many parts they came.

A crop is found because every signature asks with 16 windows of itself: along each axis the whole, 92 % at the start,
the middle, the end. Cost of a row: 16 windows x 4 keys x 73 probes, each one look into a bit map of 2 MB that the
cache holds, whatever the number of rows; only the few probes that hit something (rows / 2^24 of them) cost more. The
multi-hash index of faiss, on hash maps, takes four times as long for a third of the probes (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from ugaf.measures import signatures
from ugaf.measures.signatures import Floats

TABLES, KEY_BITS = 4, 24
BITS = TABLES * KEY_BITS
RADIUS = 20
"""Largest Hamming distance of a candidate, of 96 bits. Crops of 10 %: 15 for 97 of 100; distinct photographs: 27 and
more (benchmarks/dedup.py)."""
GUARANTEED = 2 * TABLES - 1
"""Windows within this Hamming distance always meet: with at most 7 differing bits, some key has at most one."""
SPANS = ((0.0, 1.0), (0.0, 0.92), (0.04, 0.96), (0.08, 1.0))
"""Parts of an axis that a query looks at; a window is the product of two."""
PAIRS_AMONG, TRIPLES_AMONG = 8, 6
BUCKET = 64
"""Rows of one key that a probe looks at, the first ones: a heap of photographs that are all alike is then linked with
its first rows, and not each with each."""
QUERIES = 4096
"""Rows that ask at a time, which bounds the memory of a search."""

Rows = NDArray[np.int64]
Packed = NDArray[np.uint8]


@dataclass(frozen=True)
class Candidates:
    """Pairs that met: positions of the query and of the index row, int64 (n,), each pair once, sorted."""

    queries: Rows
    index: Rows


class HashIndex:
    """Whole-photograph hashes of a block of rows, to be asked by windows of others.

    Memory: 16 B of hash and 4 x 12 B of keys and where they are a row, and 8 MB of bit maps.
    """

    def __init__(self, packed: Packed, rows: Rows) -> None:
        """The `rows` int64 (n,) of signatures uint8 (m, 264), or of values that begin with one; n < 2^31."""
        self.hashes = np.empty((len(rows), 2), np.uint64)
        keys = np.empty((TABLES, len(rows)), np.uint32)
        for part in slices(len(rows)):
            bits = _coefficients(packed, rows[part])[:, _positions()] > 0
            self.hashes[part], keys[:, part] = _words(bits), _keys(bits)
        self._rows = np.empty((TABLES, len(rows)), np.int32)
        self._present = np.zeros((TABLES, 2**KEY_BITS // 8), np.uint8)
        self._buckets = []
        for table in range(TABLES):
            self._rows[table] = np.argsort(keys[table], kind="stable")
            there, starts = np.unique(keys[table][self._rows[table]], return_index=True)
            self._buckets.append((there, np.append(starts, len(rows)).astype(np.int32)))
            np.bitwise_or.at(self._present[table], there >> 3, _bit(there))

    def __len__(self) -> int:
        return len(self.hashes)

    def meet(self, values: Floats) -> tuple[Rows, Rows]:
        """(query, index row) of all that meet and are within `RADIUS`; pairs may come more than once.

        values: float32 (n, 96), the queries' coefficients in the order of the hash's bits, at comparable sizes.
        """
        bits = values > 0
        keys, words = _keys(bits), _words(bits)
        found = []
        for table in range(TABLES):
            probes = keys[table][:, None] ^ _flips(np.abs(values[:, table * KEY_BITS : (table + 1) * KEY_BITS]))
            query, row = self._rows_of(table, probes)
            near = ones(words[query] ^ self.hashes[row]) <= RADIUS
            found.append((query[near], row[near]))
        return np.concatenate([query for query, _ in found]), np.concatenate([row for _, row in found])

    def _rows_of(self, table: int, probes: NDArray[np.uint32]) -> tuple[Rows, Rows]:
        places = np.flatnonzero(self._present[table][probes >> 3] & _bit(probes))
        # In the order of the keys, so that the searches and what they read walk through memory once.
        places = places[np.argsort(probes.ravel()[places])]
        query, wanted = places // probes.shape[1], probes.ravel()[places]
        keys, starts = self._buckets[table]
        bucket = np.searchsorted(keys, wanted)
        start = starts[bucket]
        count = np.minimum(starts[bucket + 1] - start, BUCKET)
        places = np.repeat(start - np.cumsum(count) + count, count) + np.arange(count.sum())
        return np.repeat(query, count), self._rows[table][places].astype(np.int64)


def candidates(index: HashIndex, packed: Packed, rows: Rows, flips: bool = False) -> Iterator[Candidates]:
    """What meets the index, asked for by `rows` (n,) of signatures (m, 264), `QUERIES` at a time; as places in `rows`
    and in the rows of the index. `flips`: mirrored ones ask too."""
    if not len(index):
        return
    for part in slices(len(rows)):
        coefficients = _coefficients(packed, rows[part])
        found = [index.meet(variant @ view) for variant in variants(coefficients, flips) for view in _views()]
        pairs = np.unique(np.concatenate([query * len(index) + row for query, row in found]))
        query, row = np.divmod(pairs, len(index))
        yield Candidates(query + part.start, row)


def _coefficients(packed: Packed, rows: Rows) -> Floats:
    return signatures.unpack_array(packed[rows, : signatures.BYTES])


def slices(count: int, size: int = QUERIES) -> Iterator[slice]:
    """0..count in slices of at most `size`."""
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


def variants(coefficients: Floats, flips: bool) -> list[Floats]:
    """The photographs as they are and, with `flips`, mirrored."""
    return [coefficients, signatures.flipped(coefficients)] if flips else [coefficients]


def distance(first: Floats, second: Floats) -> NDArray[np.int32]:
    """Hamming distance int32 (n,) of the 96-bit hashes of coefficients (n, 256), pair by pair."""
    bits = first[:, _positions()] > 0, second[:, _positions()] > 0
    return np.count_nonzero(bits[0] != bits[1], axis=1).astype(np.int32)


def ones(words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Bits that are set in each row of uint64 (n, m): (n,)."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words).sum(axis=1, dtype=np.intp)
    return _ones_of_16()[words.view(np.uint16)].sum(axis=1, dtype=np.intp)


@cache
def _ones_of_16() -> NDArray[np.uint8]:
    return np.array([value.bit_count() for value in range(2**16)], np.uint8)


@cache
def _positions() -> NDArray[np.int64]:
    """The coefficients that give the hash's bits, key by key; each key has low and high frequencies."""
    return np.concatenate([signatures.order()[table:BITS:TABLES] for table in range(TABLES)])


@cache
def _views() -> tuple[Floats, ...]:
    """For each window float32 (256, 96): coefficients of a photograph to those of its window at the hash's positions,
    whitened, so that their sizes say how sure each sign is."""
    maps = (np.kron(signatures.window(*y), signatures.window(*x)) for y, x in product(SPANS, SPANS))
    scale = signatures.whitening()[_positions()]
    return tuple(np.ascontiguousarray((window[_positions()] * scale[:, None]).T) for window in maps)


def _keys(bits: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """uint32 (4, n) of bits (n, 96)."""
    places = (1 << np.arange(KEY_BITS)).astype(np.float32)  # exact: sums stay below 2^24
    return (bits.reshape(-1, TABLES, KEY_BITS).astype(np.float32) @ places).T.astype(np.uint32)


def _words(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """uint64 (n, 2) of bits (n, 96)."""
    packed = np.zeros((len(bits), 16), np.uint8)
    packed[:, : BITS // 8] = np.packbits(bits, axis=1)
    return packed.view(np.uint64)


def _bit(keys: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (keys & np.uint32(7)).astype(np.uint8))


def _flips(sizes: Floats) -> NDArray[np.uint32]:
    """Masks uint32 (n, 73) of the bits to flip in a key, from its coefficients' sizes (n, 24): none, each one, all
    pairs of the 8 smallest, all triples of the 6 smallest."""
    least = np.argpartition(sizes, PAIRS_AMONG, axis=1)[:, :PAIRS_AMONG]
    least = np.take_along_axis(least, np.argsort(np.take_along_axis(sizes, least, axis=1), axis=1), axis=1)
    bit = np.left_shift(np.uint32(1), least.astype(np.uint32))
    pairs, triples = _combinations()
    masks = np.empty((len(sizes), 1 + KEY_BITS + len(pairs) + len(triples)), np.uint32)
    masks[:, 0] = 0
    masks[:, 1 : KEY_BITS + 1] = np.left_shift(np.uint32(1), np.arange(KEY_BITS, dtype=np.uint32))
    masks[:, KEY_BITS + 1 : -len(triples)] = bit[:, pairs[:, 0]] | bit[:, pairs[:, 1]]
    masks[:, -len(triples) :] = bit[:, triples[:, 0]] | bit[:, triples[:, 1]] | bit[:, triples[:, 2]]
    return masks


@cache
def _combinations() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    pairs = np.array(list(combinations(range(PAIRS_AMONG), 2)))
    return pairs, np.array(list(combinations(range(TRIPLES_AMONG), 3)))
