"""Reading several files at once, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ugaf.base import faults

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], readers: int, under_way: int | None = None
) -> Generator[Result, None, None]:
    """Map in order, with so many threads and so many results made ahead (two a thread); one thread alone is none."""
    if readers <= (1 if under_way is None else 0):
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    stop = threading.Event()
    with ThreadPoolExecutor(readers, initializer=faults.wait_until, initargs=(stop,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= (under_way or 2 * readers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Where one has given up, the others wait for the store no longer.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
