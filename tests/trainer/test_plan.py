"""The plan: the same steps for any number of ranks, from any step on, with nothing lost or repeated in an epoch."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from shard_tools import index_of, settings

from ugaf.base.errors import ConfigError
from ugaf.trainer.data.plan import Microbatch, Plan

SIZES = [(1024, 1024), (1200, 800), (800, 1200), (1920, 1080), (3000, 700)]
BUDGET = 3 * 2 * 64 * 64


def plan(seed: int = 0, chunks: int = 60, rows: int = 7, references: tuple[int, ...] = (), **changes: object) -> Plan:
    made = index_of(SIZES, [rows + n % 3 for n in range(chunks)], references)
    return Plan(made, settings("unread", **{"lanes": 4, "window": 3, "tokens": BUDGET, **changes}), seed)


def flat(step: list[Microbatch]) -> list[tuple[int, int, int]]:
    """(row, epoch, place in the step) of each sample."""
    return [
        (row, epoch, part.first + place)
        for part in step
        for place, (row, epoch) in enumerate(zip(part.rows.tolist(), part.epochs.tolist(), strict=True))
    ]


@given(
    st.integers(1, 12), st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 5), st.integers(1, 6)
)
@examples(max_examples=40)
def test_an_epoch_of_a_lane_has_each_of_its_samples_once(
    lanes: int, chunks: int, rows: int, window: int, seed: int, budget: int
) -> None:
    made = index_of(SIZES, [1 + (rows * n) % 9 for n in range(chunks)])
    if len(made) < lanes:
        return
    built = Plan(made, settings("unread", lanes=lanes, window=window, tokens=budget * 2 * 64 * 64), seed)
    given_out: Counter[tuple[int, int]] = Counter()
    waiting: Counter[tuple[int, int]] = Counter()
    for lane in range(lanes):
        for full in built.windows(lane):
            if full.epoch == 3:
                break
            for number in range(full.count):
                part = full.microbatch(number)
                given_out.update(zip(part.rows.tolist(), part.epochs.tolist(), strict=True))
            left = list(zip(full.left.tolist(), full.left_epochs.tolist(), strict=True))
        waiting.update(left)
    # Lanes deal out every epoch among them: what was not given out yet waits in a queue.
    assert given_out + waiting == Counter((row, epoch) for row in range(len(made)) for epoch in range(3))


def test_every_microbatch_is_of_one_bucket_and_full() -> None:
    built = plan(references=(0, 0, 1, 2), tokens=2 * BUDGET)
    for step in islice(built.steps(), 200):
        for part in step:
            assert len(part) == part.bucket.batch_size(2 * BUDGET)
            codes = built.codes(part.rows, part.epochs)
            assert {built.buckets[code] for code in codes} == {part.bucket}
            assert set((built.index.references[part.rows] + 1).tolist()) == {part.bucket.conditions}


def test_who_waits_longest_comes_first() -> None:
    """In a lane each bucket is a queue: its samples come in the order in which the windows shuffled them."""
    built = plan()
    windows = list(islice(built.windows(2), 12))
    given_out = [row for full in windows for n in range(full.count) for row in full.microbatch(n).rows.tolist()]
    queued = [row for full in windows for row in full.rows.tolist()]
    codes = built.codes(np.arange(len(built.index)), 0)
    for code in np.unique(codes):
        own = [row for row in given_out if codes[row] == code]
        assert own == [row for row in queued if codes[row] == code][: len(own)]


def test_places_in_a_step_count_over_all_lanes() -> None:
    for step in islice(plan().steps(), 20):
        assert [place for _, _, place in flat(step)] == list(range(sum(map(len, step))))
        assert [part.lane for part in step] == [0, 1, 2, 3]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_see_the_same_steps(world: int) -> None:
    """Each rank asks only for its own lanes."""
    whole = [[part.rows.tolist() for part in step] for step in islice(plan().steps(), 60)]
    for rank in range(world):
        own = plan()
        lanes = {lane: own.microbatches(lane) for lane in range(rank, 4, world)}
        for step in whole:
            for lane, parts in lanes.items():
                assert next(parts).rows.tolist() == step[lane]


@given(st.integers(0, 150), st.integers(0, 3))
@examples(max_examples=25)
def test_going_on_at_a_step_is_the_tail(start: int, seed: int) -> None:
    whole = [flat(step) for step in islice(plan(seed).steps(), start + 5)]
    assert [flat(step) for step in islice(plan(seed).steps(start), 5)] == whole[start:]


def test_seeds_and_epochs_differ_and_the_same_seed_does_not() -> None:
    def first(seed: int) -> list[list[tuple[int, int, int]]]:
        return [flat(step) for step in islice(plan(seed).steps(), 30)]

    assert first(0) == first(0)
    assert first(0) != first(1)
    by_epoch: dict[int, list[int]] = {}
    for step in islice(plan().steps(), 200):
        for row, epoch, _ in flat(step):
            by_epoch.setdefault(epoch, []).append(row)
    assert by_epoch[0][:50] != by_epoch[1][:50]


def test_neighbours_in_a_chunk_are_apart_after_shuffling() -> None:
    built = plan(tokens=None, window=8, chunks=64)
    order = [part.rows[0] for part in islice(built.microbatches(0), 60)]
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.2
    chunks = [built.index.chunk_of(int(row)) for row in order[:40]]
    assert len(set(chunks)) == 8


def test_windows_hold_no_more_than_their_megabytes() -> None:
    built = plan(window=50, window_mb=20, tokens=None)
    for full in islice(built.windows(1), 20):
        assert len(full.rows) <= 20
    # A chunk above the limit is a window of its own.
    assert all(len(full.rows) in (7, 8, 9) for full in islice(plan(window=50, window_mb=0.5).windows(0), 10))


def test_few_chunks_are_cut_so_that_every_lane_has_some() -> None:
    built = Plan(index_of(SIZES, [40, 3]), settings("unread", lanes=8, tokens=None), 0)
    assert len(built.pieces) >= 32
    assert np.concatenate([np.arange(*piece) for piece in built.pieces]).tolist() == list(range(43))
    step = next(built.steps())
    assert len({row for row, _, _ in flat(step)}) == 8


def test_fewer_samples_than_lanes_is_an_error_that_says_what_to_lower() -> None:
    with pytest.raises(ConfigError, match=r"data.lanes: 8 lanes, but the shards have 5 samples.*lower data.lanes"):
        Plan(index_of(SIZES, [5]), settings("unread", lanes=8), 0)


def test_dropped_references_change_the_bucket_and_named_ones_stay() -> None:
    built = plan(references=(3,), alignment={"drop": 0.5})
    rows = np.arange(len(built.index))
    built.index.needed[:] = 0b010
    bits = built.kept_references(rows, 0)
    assert (bits & 0b010).all()
    assert 0.3 < np.mean((bits & 0b001) > 0) < 0.7
    conditions = [built.buckets[code].conditions for code in built.codes(rows, 0)]
    assert conditions == [1 + bin(value).count("1") for value in bits]
    assert (built.kept_references(rows, 1) != bits).any()
    for part in islice(built.microbatches(0), 30):
        shown = built.kept_references(part.rows, part.epochs)
        assert {1 + bin(value).count("1") for value in shown} == {part.bucket.conditions}
