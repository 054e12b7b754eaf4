"""Reading a lane's records in the order of its plan, a window ahead, with a bounded number of chunks in memory.

A window's chunks are read when half of the window before it is used up, several at once; they are let go when the
window ends. Samples that still wait for their microbatch then are kept as copies, without their chunks. So a lane
holds two windows at most: `window_mb` twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ugaf.trainer.data.plan import Microbatch, Plan, Window
from ugaf.trainer.data.records import ChunkRecords, CorruptSampleError, Record, read_chunk

Chunks = dict[int, "Future[ChunkRecords]"]
Found = Record | CorruptSampleError


def lane_records(
    plan: Plan, lane: int, start: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[Microbatch, list[Found]]]:
    """A lane's microbatches from step `start`, with their records or why there is none. Endless."""
    windows = plan.windows(lane, start)
    window = next(windows)
    chunks = _submit(plan, window, pool)
    kept = _carried(plan, window.carried)
    while True:
        following: tuple[Window, Chunks] | None = None
        first = max(0, start - window.step)
        for number in range(first, window.count):
            if following is None and number >= window.count // 2:
                following = _ahead(plan, windows, pool)
            microbatch = window.microbatch(number)
            yield microbatch, [_record(plan, row, kept, chunks) for row in microbatch.rows.tolist()]
        if following is None:
            following = _ahead(plan, windows, pool)
        kept = {row: _record(plan, row, kept, chunks) for row in window.left.tolist()}
        window, chunks = following


def _ahead(plan: Plan, windows: Iterator[Window], pool: ThreadPoolExecutor) -> tuple[Window, Chunks]:
    window = next(windows)
    return window, _submit(plan, window, pool)


def _submit(plan: Plan, window: Window, pool: ThreadPoolExecutor) -> Chunks:
    numbers = np.unique(np.searchsorted(plan.index.chunk_firsts, window.rows, side="right") - 1).tolist()
    return {number: _read(plan, number, pool) for number in numbers}


def _read(plan: Plan, number: int, pool: ThreadPoolExecutor) -> Future[ChunkRecords]:
    return pool.submit(read_chunk, plan.index, plan.index.chunks[number], plan.settings)


def _carried(plan: Plan, rows: np.ndarray) -> dict[int, Found]:
    """Records of rows that waited when the training was left: their chunks are read one after the other."""
    kept: dict[int, Found] = {}
    numbers = np.searchsorted(plan.index.chunk_firsts, rows, side="right") - 1
    for number in np.unique(numbers).tolist():
        chunk = read_chunk(plan.index, plan.index.chunks[number], plan.settings)
        for row in rows[numbers == number].tolist():
            kept[row] = _from_chunk(plan, row, chunk)
    return kept


def _record(plan: Plan, row: int, kept: dict[int, Found], chunks: Chunks) -> Found:
    number = plan.index.chunk_of(row)
    if number not in chunks:
        return kept[row]
    return _from_chunk(plan, row, chunks[number].result())


def _from_chunk(plan: Plan, row: int, chunk: ChunkRecords) -> Found:
    where = plan.index.where(row)
    try:
        return chunk.record(int(plan.index.local[row]), where)
    except CorruptSampleError as error:
        return error
