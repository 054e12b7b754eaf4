"""The plan: which samples make up which microbatch of which step, as a pure function of index, settings and seed.

An epoch permutes the chunks of the shards and deals them to a fixed number of lanes, whatever the number of ranks. A
lane is one endless stream of chunks, epoch after epoch. It takes a window of a few chunks, permutes their samples, and
appends each to the queue of its bucket; whenever a queue has a microbatch together, that microbatch is the lane's next
one. What is left in a queue waits for the following windows, so within an epoch of a lane nothing is lost or repeated.

Step s is the s-th microbatch of every lane. Ranks share out whole lanes: any number of ranks that divides the lanes
sees the same steps, and no chunk is read by two of them. To go on at step s is to run through the plan, without
reading anything; it takes seconds for millions of samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise

import numpy as np

from ugaf.base.errors import ConfigError
from ugaf.trainer.data import wording
from ugaf.trainer.data.geometry import Bucket, choose_many
from ugaf.trainer.data.index import Index
from ugaf.trainer.data.settings import DataSettings
from ugaf.trainer.seeds import seed_of

PIECES_A_LANE = 4
"""Chunks are cut finer where there are fewer than so many for each lane: lanes would be of very unequal length."""


@dataclass(frozen=True)
class Microbatch:
    """Samples that go through the model together.

    rows: their places in the index, int64 (n,). epochs: the epoch of each, int32 (n,). first: place of the first one in
    the step, of all lanes in order.
    """

    lane: int
    step: int
    bucket: Bucket
    rows: np.ndarray
    epochs: np.ndarray
    first: int = 0

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class Window:
    """A few chunks of a lane, and the microbatches that are complete with them.

    step: that of the first microbatch. rows: the samples of its chunks, shuffled. carried: rows that waited in queues
    before. left: rows that wait after it. count: number of microbatches.
    """

    lane: int
    epoch: int
    step: int
    rows: np.ndarray
    carried: np.ndarray
    left: np.ndarray
    left_epochs: np.ndarray
    _buckets: Sequence[Bucket] = field(repr=False)
    _rows: np.ndarray = field(repr=False)
    _epochs: np.ndarray = field(repr=False)
    _codes: np.ndarray = field(repr=False)
    _ends: np.ndarray = field(repr=False)

    @property
    def count(self) -> int:
        return len(self._ends)

    def microbatch(self, number: int) -> Microbatch:
        """The number-th of the window."""
        start, stop = self._ends[number - 1] if number else 0, self._ends[number]
        bucket = self._buckets[self._codes[number]]
        return Microbatch(self.lane, self.step + number, bucket, self._rows[start:stop], self._epochs[start:stop])


class Plan:
    """The steps over an index.

    Attributes:
        buckets: every bucket there can be; a sample's code is its place here.
        pieces: runs of rows of one chunk that are dealt to lanes, int64 (p, 2): first row, row after the last.

    Raises:
        ConfigError: fewer samples than lanes.
    """

    def __init__(self, index: Index, settings: DataSettings, seed: int) -> None:
        if len(index) < settings.lanes:
            raise ConfigError(
                f"data.lanes: {settings.lanes} lanes, but the shards have {len(index)} samples"
                f"{index.filtered_hint()}: lower data.lanes to at most that"
            )
        self.index = index
        self.settings = settings
        self.seed = seed
        self.shapes = index.shapes
        most = int(index.references.max(initial=0))
        self.buckets = [Bucket(b.width, b.height, 1 + n) for b in self.shapes for n in range(most + 1)]
        sizes = [bucket.batch_size(settings.tokens, settings.token_side) for bucket in self.buckets]
        self._sizes = np.array(sizes, dtype=np.int64)
        self._shape_codes = choose_many(index.widths, index.heights, self.shapes).astype(np.int32) * (most + 1)
        self.pieces, self._piece_bytes = _cut(index, settings.lanes)
        self._permutations: dict[int, np.ndarray] = {}

    def kept_references(self, rows: np.ndarray, epochs: np.ndarray | int) -> np.ndarray:
        """Bits of the references that each of these samples is shown with: uint8 (n,)."""
        index = self.index
        return wording.kept(
            index.keys[rows], index.references[rows], index.needed[rows], self.settings.alignment, self.seed, epochs
        )

    def codes(self, rows: np.ndarray, epochs: np.ndarray | int) -> np.ndarray:
        """Each sample's bucket, as its place in `buckets`: int32 (n,)."""
        codes = self._shape_codes[rows]
        if len(self.buckets) == len(self.shapes):
            return codes
        bits = self.kept_references(rows, epochs)
        return codes + np.unpackbits(bits[:, None], axis=1).sum(axis=1, dtype=np.int32)

    def steps(self, start: int = 0) -> Iterator[list[Microbatch]]:
        """Step after step from `start`: the microbatches of all lanes, with their places in the step. Endless."""
        lanes = [self.microbatches(lane, start) for lane in range(self.settings.lanes)]
        while True:
            yield placed([next(lane) for lane in lanes])

    def microbatches(self, lane: int, start: int = 0) -> Iterator[Microbatch]:
        """A lane's microbatches from step `start`; places in the step are not known here."""
        for window in self.windows(lane, start):
            for number in range(max(0, start - window.step), window.count):
                yield window.microbatch(number)

    def windows(self, lane: int, start: int = 0) -> Iterator[Window]:
        """A lane's windows, from the one with the microbatch of step `start`. Endless."""
        rows, epochs, codes = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32)
        step = 0
        for epoch in count():
            mine = self._order(epoch)[lane :: self.settings.lanes]
            for number, pieces in enumerate(self._cut_windows(mine)):
                own = np.concatenate([np.arange(*self.pieces[piece], dtype=np.int64) for piece in pieces])
                own = _rng(self.seed, "window", epoch, lane, number).permutation(own)
                window, codes = self._fill(lane, epoch, step, own, (rows, epochs, codes))
                rows, epochs = window.left, window.left_epochs
                step += window.count
                if step > start or window.step >= start:
                    yield window

    def _fill(
        self, lane: int, epoch: int, step: int, own: np.ndarray, queued: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> tuple[Window, np.ndarray]:
        """The window of these rows behind what is queued, and the codes of what is left."""
        rows = np.concatenate([queued[0], own])
        epochs = np.concatenate([queued[1], np.full(len(own), epoch, np.int32)])
        codes = np.concatenate([queued[2], self.codes(own, epoch)])
        by_bucket = np.argsort(codes, kind="stable")
        ordered = codes[by_bucket]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        lengths = np.diff(np.r_[starts, len(ordered)])
        sizes = self._sizes[ordered[starts]]
        place = np.arange(len(ordered)) - np.repeat(starts, lengths)
        complete = place < np.repeat(lengths // sizes * sizes, lengths)
        last = complete & (place % np.repeat(sizes, lengths) == np.repeat(sizes, lengths) - 1)
        # A microbatch comes when its last sample does; sizes of microbatches differ by bucket.
        chosen = by_bucket[complete]
        ends = by_bucket[last]
        of_batch = np.cumsum(last[complete]) - last[complete]
        chosen = chosen[np.argsort(ends[of_batch], kind="stable")]
        in_order = np.argsort(ends, kind="stable")
        counts = self._sizes[ordered[last][in_order]]
        left = np.sort(by_bucket[~complete])
        window = Window(
            lane, epoch, step, own, queued[0], rows[left], epochs[left],
            self.buckets, rows[chosen], epochs[chosen], ordered[last][in_order], np.cumsum(counts),
        )  # fmt: skip
        return window, codes[left]

    def _order(self, epoch: int) -> np.ndarray:
        """The pieces in the order in which they are dealt. Lanes are in neighbouring epochs: a few are kept."""
        if epoch not in self._permutations:
            if len(self._permutations) >= 4:
                self._permutations.pop(min(self._permutations))
            self._permutations[epoch] = _rng(self.seed, "epoch", epoch).permutation(len(self.pieces))
        return self._permutations[epoch]

    def _cut_windows(self, pieces: np.ndarray) -> Iterator[list[int]]:
        """Runs of at most `window` pieces and `window_mb`, of one piece at least."""
        limit, run, size = self.settings.window_mb * 1e6, list[int](), 0.0
        for piece in pieces.tolist():
            if run and (len(run) == self.settings.window or size + self._piece_bytes[piece] > limit):
                yield run
                run, size = [], 0.0
            run.append(piece)
            size += float(self._piece_bytes[piece])
        if run:
            yield run


def placed(microbatches: Sequence[Microbatch]) -> list[Microbatch]:
    """The microbatches of one step, lanes in order, with the places of their first samples."""
    firsts = np.cumsum([0, *map(len, microbatches)])
    return [
        Microbatch(part.lane, part.step, part.bucket, part.rows, part.epochs, int(first))
        for part, first in zip(microbatches, firsts, strict=False)
    ]


def _cut(index: Index, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """The pieces, and the bytes of each: the chunks themselves where there are enough of them."""
    firsts, sizes = index.chunk_firsts, index.chunk_rows
    wanted = lanes * PIECES_A_LANE
    longest = int(sizes.max()) if len(sizes) >= wanted else max(1, len(index) // wanted)
    pieces: list[tuple[int, int]] = []
    bytes_: list[float] = []
    for first, rows, size in zip(firsts.tolist(), sizes.tolist(), index.chunk_bytes.tolist(), strict=True):
        parts = -(-rows // longest)
        edges = [first + rows * part // parts for part in range(parts + 1)]
        pieces += pairwise(edges)
        bytes_ += [size / parts] * parts
    return np.array(pieces, dtype=np.int64).reshape(-1, 2), np.array(bytes_, dtype=np.float64)


def _rng(*parts: int | str) -> np.random.Generator:
    return np.random.default_rng(seed_of(*parts))
