"""What must live outside the workers' processes: the journal of rows in hand, and the counts of progress.

`Monitor` is plain Python; the engine runs it as a Ray actor, and inline runs and tests use it as it is. Nothing
heavy is imported here: the actor's process would start later and hold it for the whole run.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ONWARD = "onward"
"""Among a stage's counts: rows that it handed on to the next stage (one that fans out makes several of one)."""

MERGED = "merged"
"""Among ingest's counts: sources that were exact duplicates of others, and became one row with them."""


@dataclass(frozen=True)
class Blame:
    """What the journal knows of a fragment whose worker died: rows to take one by one, and deaths of rows alone."""

    suspects: frozenset[str] = frozenset()
    deaths: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Monitor:
    """Journal and counters of one session (one driver). A new session starts with an empty journal, so that rows in
    hand when a driver was killed are not blamed for it."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
        self._suspects: dict[tuple[str, str], set[str]] = {}
        self._deaths: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._seconds: dict[str, float] = {}
        self._starts: Counter[str] = Counter()
        self._problem = ""
        self._put_off: Counter[str] = Counter()
        self._told: list[str] = []

    def starting(self, worker: str) -> int:
        """A worker's process begins its set-up. Returns how many of its processes before died in theirs."""
        self._starts[worker] += 1
        return self._starts[worker] - 1

    def started(self, worker: str) -> None:
        """Its set-up has ended."""
        self._starts.pop(worker, None)

    def enter(self, chain: str, fragment: str) -> Blame:
        """A worker starts on a fragment. If it was being worked on already, that worker died: blame what it held.

        A death with nothing in hand is counted under ("", "").
        """
        key = (chain, fragment)
        held = self._open.get(key)
        if held is not None:
            stage, ids = held
            if stage or not ids:
                self._deaths.setdefault(key, Counter())[stage, ids[0] if ids else ""] += 1
            else:
                self._suspects.setdefault(key, set()).update(ids)
        self._open[key] = ("", ())
        return Blame(frozenset(self._suspects.get(key, ())), dict(self._deaths.get(key, {})))

    def begin(self, chain: str, fragment: str, stage: str, ids: Sequence[str]) -> None:
        """The worker is about to touch these rows; with a stage, exactly one row alone."""
        self._open[chain, fragment] = (stage, tuple(ids))

    def leave(self, chain: str, fragment: str) -> None:
        """All that was pending is committed."""
        for record in (self._open, self._suspects, self._deaths):
            record.pop((chain, fragment), None)

    def progress(self, stage: str, counts: Mapping[str, int], seconds: float) -> None:
        self._counts.setdefault(stage, Counter()).update(counts)
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def put_off(self, why: str) -> None:
        """A source stays pending, since its host gave no answer. why: the host, and what it said."""
        self._put_off[why if why in self._put_off or len(self._put_off) < REASONS else "other hosts"] += 1

    def tell(self, line: str) -> None:
        """Something that whoever watches the run should know now."""
        if line not in self._told[-REASONS:]:
            self._told.append(line)

    def news(self) -> list[str]:
        """What was told since the last call, and what was put off."""
        told, self._told = self._told, []
        put_off, self._put_off = self._put_off, Counter()
        if put_off:
            hosts = "; ".join(f"{why} ({count})" for why, count in put_off.most_common(5))
            more = f"; {len(put_off) - 5} hosts more" if len(put_off) > 5 else ""
            told.append(
                f"{put_off.total()} sources stay pending, since their hosts gave no answer: {hosts}{more}. The same "
                "command asks them again; with http.unanswered: failed in the input they count as failed"
            )
        return told

    def fail(self, problem: str) -> None:
        """A worker stops the run; the first one's reason is kept."""
        self._problem = self._problem or problem

    def problem(self) -> str:
        """Why the run was stopped; "" if no worker said so."""
        return self._problem

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Rows done in this session by stage: counts by verdict, and seconds of work."""
        return {stage: {**counts, "seconds": self._seconds[stage]} for stage, counts in self._counts.items()}


REASONS = 1000
"""Most different reasons and lines that are kept."""


class BatchedJournal:
    """A worker's end of a Monitor actor: the journal at once and acknowledged, the counts a few times a second."""

    def __init__(self, actor: Any, every: float = 0.5) -> None:
        self._actor = actor
        self._every = every
        self._sent = time.monotonic()
        self._waiting: dict[str, tuple[Counter[str], float]] = {}
        self._lock = threading.Lock()

    def enter(self, chain: str, fragment: str) -> Blame:
        return self._call("enter", chain, fragment)

    def begin(self, chain: str, fragment: str, stage: str, ids: Sequence[str]) -> None:
        self._call("begin", chain, fragment, stage, list(ids))

    def leave(self, chain: str, fragment: str) -> None:
        self._flush()
        # Not waited for: if it is lost with this process, rows that are committed are looked at once more.
        self._actor.leave.remote(chain, fragment)

    def put_off(self, why: str) -> None:
        self._actor.put_off.remote(why)

    def tell(self, line: str) -> None:
        self._actor.tell.remote(line)

    def progress(self, stage: str, counts: Mapping[str, int], seconds: float) -> None:
        with self._lock:
            total, spent = self._waiting.get(stage, (Counter(), 0.0))
            total.update(counts)
            self._waiting[stage] = (total, spent + seconds)
        if time.monotonic() - self._sent > self._every:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._sent = time.monotonic()
        for stage, (counts, seconds) in waiting.items():
            self._actor.progress.remote(stage, dict(counts), seconds)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, method).remote(*arguments))
