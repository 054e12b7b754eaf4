"""Rows done of those known, the rate of now and the time left, from the counts that the engine gives.

The engine counts rows by stage and verdict since the call began, and how many each stage handed on to the next. What a
stage will be given is known in part: the rows that were waiting when its segment began, and those that the stage before
it has handed on since. The rest is an estimate: the share that the stage before hands on, times what it has yet to do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ugaf.engine.monitor import MERGED, ONWARD

DONE = ("kept", "rejected", "failed", "pending", MERGED)
"""Those of the engine's counts that are rows done."""

WINDOW_S = 60.0
"""The rate of now is that of the last minute, or of the last two changes where they lie further back."""

Snapshot = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class StageState:
    """A stage in this call. known: rows that are there for it. expected: with those that are likely to come.

    rate: rows a second now. average: since its first row. left_s: seconds until `expected` is done at the rate of now;
    None where there is nothing to do, or no rate yet. state: "waiting", "running" or "done".
    """

    name: str
    state: str
    done: int
    known: int
    expected: int
    kept: int
    rejected: int
    failed: int
    rate: float
    average: float
    seconds: float
    left_s: float | None


@dataclass(frozen=True)
class State:
    """The call at one moment. doing: in words. bounds: the stage whose rows take longest; "" if none is known to.

    left_s: seconds until all that is known to come is done, in this segment; None where that is not known.
    """

    doing: str
    doing_s: float
    stages: tuple[StageState, ...]
    bounds: str
    left_s: float | None

    @property
    def failed(self) -> int:
        return sum(stage.failed for stage in self.stages)


@dataclass
class _Pace:
    """One stage: its counts, and when they changed."""

    counts: dict[str, int] = field(default_factory=dict)
    changes: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=4096))
    before: tuple[float, int] | None = None
    waiting: int = 0
    done_before: int = 0
    onward_before: int = 0
    asked: bool = False

    @property
    def done(self) -> int:
        return sum(self.counts.get(verdict, 0) for verdict in DONE)

    @property
    def onward(self) -> int:
        return self.counts.get(ONWARD, 0)

    def update(self, counts: Mapping[str, Any], now: float, began: float) -> None:
        before = self.done
        self.counts = {name: int(counts.get(name, 0)) for name in (*DONE, ONWARD)}
        if self.done != before:
            if self.before is None:
                self.before = (began, before)
            self.changes.append((now, self.done))

    def rate(self, now: float) -> float:
        """Rows a second of the last minute, or since the last change but one; falls while nothing is done."""
        if self.before is None:
            return 0.0
        since = self.before
        for change in list(self.changes)[:-1]:
            if change[0] > now - WINDOW_S:
                break
            since = change
        return (self.done - since[1]) / max(now - since[0], 1e-3)

    def average(self) -> float:
        """Rows a second from the first row to the last."""
        return (self.done - self.before[1]) / max(self.seconds(), 1e-3) if self.before else 0.0

    def seconds(self) -> float:
        return self.changes[-1][0] - self.before[0] if self.before and self.changes else 0.0


class Tracker:
    """Takes what the runner and the engine tell; `state` may be asked by another thread at any time.

    stages: the pipeline's, ingest first. clock: seconds, for tests.
    """

    def __init__(self, stages: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = list(stages)
        self._clock = clock
        self._paces = {name: _Pace() for name in stages}
        self._segment: tuple[str, ...] = ()
        self._doing, self._since = "starting", clock()
        self._began = self._since
        self._lock = threading.Lock()

    def is_doing(self, what: str) -> bool:
        """Whether that goes on already: text after a colon changes while the same thing does."""
        return what.partition(":")[0] == self._doing.partition(":")[0]

    def doing(self, what: str, waiting: Mapping[str, int] | None = None) -> None:
        """Something else begins. waiting: for a segment of stages, in order, the rows that are there for each."""
        with self._lock:
            if waiting is not None or not self.is_doing(what):
                self._since = self._clock()
            self._doing, self._segment = what, tuple(waiting or ())
            for name, rows in (waiting or {}).items():
                pace = self._paces[name]
                pace.waiting, pace.done_before, pace.onward_before, pace.asked = rows, pace.done, pace.onward, True
                self._began = self._since

    def counts(self, snapshot: Snapshot) -> None:
        """The engine's counts since the call began."""
        with self._lock:
            now = began = self._clock()
            for name in self._names:
                pace = self._paces[name]
                # A stage begins when the one before it has its first rows; the first one with its segment.
                if name == next(iter(self._segment), None) or began == now:
                    began = self._began
                if name in snapshot:
                    pace.update(snapshot[name], now, began)
                began = pace.changes[0][0] if pace.changes else began

    def state(self) -> State:
        with self._lock:
            now = self._clock()
            stages: list[StageState] = []
            for name in self._names:
                stages.append(self._stage(name, stages, now))
            running = [stage for stage in stages if stage.name in self._segment and stage.left_s is not None]
            slowest = max(running, key=lambda stage: stage.left_s or 0.0, default=None)
            idle = any(s.name in self._segment and s.expected > s.done and s.left_s is None for s in stages)
            left = slowest.left_s if slowest is not None and not idle else None
            bounds = slowest.name if slowest is not None else ""
            return State(self._doing, now - self._since, tuple(stages), bounds, left)

    def _stage(self, name: str, before: Sequence[StageState], now: float) -> StageState:
        pace = self._paces[name]
        known, coming = pace.done_before + pace.waiting, 0.0
        at_work = name in self._segment
        previous = before[-1] if before else None
        fed = previous is not None and previous.name in self._segment and at_work
        if fed and previous is not None:
            feeder = self._paces[previous.name]
            known += feeder.onward - feeder.onward_before
            share = feeder.onward / feeder.done if feeder.done else 1.0
            coming = share * (previous.expected - previous.done)
        known = max(known, pace.done)
        expected = max(known + round(coming), known)
        rate = pace.rate(now) if at_work else 0.0
        left = expected - pace.done
        if not (pace.asked and expected):
            state = "waiting"
        elif left or (fed and previous is not None and previous.state == "running"):
            state = "running" if at_work else "waiting"
        else:
            state = "done"
        return StageState(
            name=name,
            state=state,
            done=pace.done,
            known=known,
            expected=expected,
            kept=pace.counts.get("kept", 0),
            rejected=pace.counts.get("rejected", 0),
            failed=pace.counts.get("failed", 0),
            rate=rate,
            average=pace.average(),
            seconds=pace.seconds(),
            left_s=left / rate if left and rate else None,
        )


def ended(state: State) -> State:
    """The same when its segment is over: what is done is done, and nothing more comes."""
    stages = [replace(s, state="done" if s.done else s.state, expected=s.done, left_s=None) for s in state.stages]
    return replace(state, stages=tuple(stages), bounds="", left_s=None)
