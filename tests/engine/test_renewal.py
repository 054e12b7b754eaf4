"""A worker that has grown too large ends between two units."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ugaf.engine.renewal import Renewal, resident_bytes


class Ended(BaseException):
    pass


class Process:
    """Its first unit has left it with so many MB."""

    def __init__(self, after_first: int, limit: int | None = 1000) -> None:
        self.size = 0
        self.renewal = Renewal(limit, self.end, lambda: self.size)
        self.unit(after_first)

    def end(self) -> None:
        raise Ended

    def unit(self, mb: int) -> None:
        self.renewal.begin()
        self.size = mb << 20
        self.renewal.done()


def test_it_ends_before_the_next_unit_when_it_is_too_large() -> None:
    process = Process(100)
    for mb in (900, 1000, 1100):
        process.unit(mb)
    with pytest.raises(Ended):
        process.unit(1100)


def test_it_waits_for_what_other_threads_have_in_hand() -> None:
    process = Process(100)
    process.renewal.begin()
    process.size = 5000 << 20
    ended = threading.Event()

    def next_unit() -> None:
        with pytest.raises(Ended):
            process.unit(5000)
        ended.set()

    thread = threading.Thread(target=next_unit)
    thread.start()
    assert not ended.wait(0.2)
    process.renewal.done()
    assert ended.wait(10)
    thread.join()


def test_a_model_that_is_larger_than_the_limit_is_not_loaded_over_and_over() -> None:
    process = Process(4000)
    for mb in (7900, 8000, 8100):
        process.unit(mb)
    with pytest.raises(Ended):
        process.unit(1)


def test_without_a_limit_it_goes_on() -> None:
    process = Process(1, None)
    for _ in range(3):
        process.unit(10**6)


def test_the_resident_memory_is_that_of_this_process() -> None:
    before = resident_bytes()
    block = np.ones(64 << 20, np.uint8)
    assert 50 << 20 < resident_bytes() - before < 200 << 20
    del block
