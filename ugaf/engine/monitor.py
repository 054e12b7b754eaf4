"""What must live outside the workers' processes: the journal of rows in hand, and the counts of progress.

`Monitor` is plain Python; the engine runs it as a Ray actor, and inline runs and tests use it as it is. Nothing
heavy is imported here: the actor's process would start later and hold it for the whole run.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ugaf.base.errors import STOPPED
from ugaf.engine.alike import Alike, AlikeError, FailedRow, Window

ONWARD = "onward"
"""Among a stage's counts: rows that it handed on to the next stage (one that fans out makes several of one)."""

MERGED = "merged"
"""Among ingest's counts: sources that were exact duplicates of others, and became one row with them."""

KINDS = "kinds"
"""In a snapshot of a stage: its failed rows by the type of their error."""

AT_WORK = "at_work"
"""In a snapshot of a chain's first stage: units of work that workers have in hand there."""

VERDICTS = ("kept", "rejected", "pending", "failed")
"""What a worker counts a row as that it has done; pending where the rules are not fitted yet."""


@dataclass(frozen=True)
class Blame:
    """What the journal knows of a fragment whose worker died: rows to take one by one, and deaths of rows alone."""

    suspects: frozenset[str] = frozenset()
    deaths: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Journal(Protocol):
    """Lives outside the worker's process: remembers what was in hand when a process died, and counts progress."""

    def enter(self, chain: str, fragment: str) -> Blame: ...

    def begin(self, chain: str, fragment: str, stage: str, ids: Sequence[str]) -> None: ...

    def leave(self, chain: str, fragment: str) -> None: ...

    def progress(
        self, stage: str, counts: Mapping[str, int], seconds: float, failed: Sequence[FailedRow] = ()
    ) -> Alike | None: ...

    def put_off(self, why: str) -> None: ...

    def tell(self, line: str) -> None: ...

    def rates(self) -> Mapping[str, float]: ...


class Monitor:
    """Journal and counters of one session (one driver). A new session starts with an empty journal, so that rows in
    hand when a driver was killed are not blamed for it."""

    def __init__(self, stop_after_alike: int = 0) -> None:
        self._rates: dict[str, float] = {}
        self._stop_after_alike = stop_after_alike
        self._windows: dict[str, Window] = {}
        self._alike: Alike | None = None
        self._open: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
        self._suspects: dict[tuple[str, str], set[str]] = {}
        self._deaths: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._seconds: dict[str, float] = {}
        self._kinds: dict[str, Counter[str]] = {}
        self._starts: Counter[str] = Counter()
        self._problem = ("", STOPPED)
        self._put_off: Counter[str] = Counter()
        self._told: list[str] = []
        self._deaths_seen = 0

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
            self._deaths_seen += 1
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

    def progress(
        self, stage: str, counts: Mapping[str, int], seconds: float, failed: Sequence[FailedRow] = ()
    ) -> Alike | None:
        """Rows that a worker has done: how many by verdict, and those that failed. Why the worker is to stop, if so."""
        self._counts.setdefault(stage, Counter()).update(counts)
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        kinds = self._kinds.setdefault(stage, Counter())
        for row in failed:
            kind = row.error.partition(":")[0]
            kinds[kind if kind in kinds or len(kinds) < MOST_KINDS else "others"] += 1
        window = self._windows.setdefault(stage, Window(stage, self._stop_after_alike))
        good = sum(counts.get(verdict, 0) for verdict in VERDICTS[:3])
        return self._stopping(window.add(good, failed))

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

    def deaths(self) -> int:
        """Units, since the last call, whose worker died while it had them in hand, and that came back."""
        seen, self._deaths_seen = self._deaths_seen, 0
        return seen

    def at_end(self) -> Alike | None:
        """A segment's plan has ended. Why the run is to stop nevertheless, if so."""
        for window in self._windows.values():
            self._stopping(window.at_end())
        return self.alike()

    def alike(self) -> Alike | None:
        """The rows that failed alike and stopped the run, if any; with the fragments that workers have in hand."""
        return None if self._alike is None else self._with_open(self._alike)

    def doubtful(self) -> tuple[Alike, ...]:
        """For a run that was stopped for another reason: failures that are hardly the rows' fault either."""
        return tuple(self._with_open(alike) for window in self._windows.values() for alike in window.doubtful())

    def _with_open(self, alike: Alike) -> Alike:
        return replace(alike, fragments=alike.fragments | {unit.partition("/")[0] for _, unit in self._open})

    def _stopping(self, alike: Alike | None) -> Alike | None:
        self._alike = self._alike or alike
        return self._alike

    def fail(self, problem: str, status: int) -> None:
        """A worker stops the run; the first one's reason is kept. status: the exit status of the command."""
        self._problem = self._problem if self._problem[0] else (problem, status)

    def problem(self) -> tuple[str, int]:
        """Why the run was stopped, and the exit status; "" if no worker said so."""
        return self._problem

    def learn(self, rates: Mapping[str, float]) -> None:
        """Seconds a row of stages, as they are known from before."""
        self._rates.update(rates)

    def rates(self) -> dict[str, float]:
        """Seconds a row of the stages that have been measured: in this session, else as was known before it."""
        rows = {stage: sum(counts[name] for name in VERDICTS) for stage, counts in self._counts.items()}
        return {**self._rates, **{stage: self._seconds[stage] / count for stage, count in rows.items() if count}}

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Rows done in this session by stage: counts by verdict, seconds of work, failures by kind; and what is in hand
        (see AT_WORK)."""
        found: dict[str, dict[str, Any]] = {
            stage: {**counts, "seconds": self._seconds[stage], KINDS: dict(self._kinds[stage])}
            for stage, counts in self._counts.items()
        }
        for name, count in Counter(re.split(r"[+\[]", chain)[0] for chain, _ in self._open).items():
            found.setdefault(name, {})[AT_WORK] = count
        return found


MOST_KINDS = 20
"""Of a stage's errors, so many types are counted by name: each is a time series of its own."""

REASONS = 1000
"""Most different reasons and lines that are kept."""


@dataclass
class _Waiting:
    """Counts of one stage that have not been sent yet."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failed: list[FailedRow] = field(default_factory=list)


class BatchedJournal:
    """A worker's end of a Monitor actor: the journal at once and acknowledged, the counts a few times a second."""

    def __init__(self, actor: Any, every: float = 0.5) -> None:
        self._actor = actor
        self._every = every
        self._sent = time.monotonic()
        self._waiting: dict[str, _Waiting] = {}
        self._lock = threading.Lock()

    def enter(self, chain: str, fragment: str) -> Blame:
        return self._call("enter", chain, fragment)

    def begin(self, chain: str, fragment: str, stage: str, ids: Sequence[str]) -> None:
        self._call("begin", chain, fragment, stage, list(ids))

    def leave(self, chain: str, fragment: str) -> None:
        alike = self.flush()
        if alike is not None:
            raise AlikeError(alike)
        # Not waited for: if it is lost with this process, rows that are committed are looked at once more.
        self._actor.leave.remote(chain, fragment)

    def put_off(self, why: str) -> None:
        self._actor.put_off.remote(why)

    def tell(self, line: str) -> None:
        self._actor.tell.remote(line)

    def progress(
        self, stage: str, counts: Mapping[str, int], seconds: float, failed: Sequence[FailedRow] = ()
    ) -> Alike | None:
        """See `Monitor.progress`; rows of other workers count too."""
        with self._lock:
            waiting = self._waiting.setdefault(stage, _Waiting())
            waiting.counts.update(counts)
            waiting.seconds += seconds
            waiting.failed.extend(failed)
        return self.flush() if time.monotonic() - self._sent > self._every else None

    def rates(self) -> dict[str, float]:
        """See `Monitor.rates`."""
        return dict(self._call("rates"))

    def flush(self) -> Alike | None:
        """Send what is waiting."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._sent = time.monotonic()
        found: Alike | None = None
        for stage, some in waiting.items():
            alike = self._call("progress", stage, dict(some.counts), some.seconds, some.failed)
            found = found or alike
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, method).remote(*arguments))
