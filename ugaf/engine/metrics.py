"""What a run tells Ray's own metrics: rows, seconds and failures by stage, what waits and what is in hand.

The driver takes them from the Monitor's counts a few times a second, so a row costs nothing more. Ray's agent on the
driver's node offers them to Prometheus, every name with `ray_` before it. Without Ray there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ugaf.engine.monitor import AT_WORK, KINDS, MERGED, ONWARD

Snapshot = Mapping[str, Mapping[str, Any]]

VERDICTS = ("kept", "rejected", "failed", "pending", MERGED)
"""Those of the Monitor's counts that are rows done."""


class RunMetrics:
    """Counters and gauges of one run, in a process that is connected to Ray.

    run: the pipeline's name. stages: its stages in order, ingest first.
    """

    def __init__(self, run: str, stages: Sequence[str]) -> None:
        from ray.util import metrics

        self._run = run
        self._stages = list(stages)
        keys = ("run", "stage")
        self._rows = metrics.Counter("ugaf_rows", "Rows done, by verdict.", (*keys, "verdict"))
        self._failures = metrics.Counter("ugaf_failures", "Rows that failed, by kind of error.", (*keys, "kind"))
        self._seconds = metrics.Counter("ugaf_stage_seconds", "Seconds of work, summed over workers.", keys)
        self._waiting = metrics.Gauge("ugaf_rows_waiting", "Rows that are there for a stage and not done.", keys)
        self._at_work = metrics.Gauge("ugaf_units_at_work", "Units of work that workers have in hand.", keys)
        self._seen: dict[tuple[str, ...], float] = {}
        self._asked: dict[str, int] = {}
        self._before: dict[str, tuple[int, int]] = {}
        self._last: Snapshot = {}

    def segment(self, waiting: Mapping[str, int]) -> None:
        """A segment begins. waiting: of its stages, in order, the rows that are there for each; {} where it is over."""
        self._asked = dict(waiting)
        self._before = {name: _done_and_onward(self._last.get(name, {})) for name in self._stages}
        if not waiting:
            self._last = {name: {**counts, AT_WORK: 0} for name, counts in self._last.items()}
        self._gauges(self._last)

    def beside(self, progress: Callable[[Snapshot], None]) -> Callable[[Snapshot], None]:
        """`progress` that tells the metrics, too."""

        def both(snapshot: Snapshot) -> None:
            self.update(snapshot)
            progress(snapshot)

        return both

    def update(self, snapshot: Snapshot) -> None:
        """snapshot: of `Monitor.snapshot`, counts since the call began."""
        for stage, counts in snapshot.items():
            self._add(self._seconds, counts.get("seconds", 0.0), stage)
            for verdict in VERDICTS:
                self._add(self._rows, counts.get(verdict, 0), stage, verdict=verdict)
            for kind, count in counts.get(KINDS, {}).items():
                self._add(self._failures, count, stage, kind=kind)
        self._last = snapshot
        self._gauges(snapshot)

    def _add(self, counter: Any, total: float, stage: str, **more: str) -> None:
        key = (counter.info["name"], stage, *more.values())
        before = self._seen.get(key, 0)
        # A Monitor that died counts from 0 again.
        new = total - before if total >= before else total
        if new > 0:
            counter.inc(new, {"run": self._run, "stage": stage, **more})
        self._seen[key] = total

    def _gauges(self, snapshot: Snapshot) -> None:
        handed_on = 0
        for stage in self._stages:
            done, onward = _done_and_onward(snapshot.get(stage, {}))
            done_before, onward_before = self._before.get(stage, (0, 0))
            waiting = self._asked[stage] + handed_on - (done - done_before) if stage in self._asked else 0
            # Only what a stage of this segment hands on is worked on in it.
            handed_on = onward - onward_before if stage in self._asked else 0
            tags = {"run": self._run, "stage": stage}
            self._waiting.set(max(0, waiting), tags)
            self._at_work.set(snapshot.get(stage, {}).get(AT_WORK, 0), tags)


def _done_and_onward(counts: Mapping[str, Any]) -> tuple[int, int]:
    return sum(int(counts.get(verdict, 0)) for verdict in VERDICTS), int(counts.get(ONWARD, 0))
