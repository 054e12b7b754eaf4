"""Running jobs in batches that may not fit: a batch is halved where memory runs out, and no job is lost."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ugaf.base.errors import StopRun
from ugaf.base.failure import Failure, at_once


class Batches:
    """Runs jobs in batches of up to `size`; remembers, by bucket, the size at which memory ran out.

    classify: what an exception means: "memory", "device" (nothing can be run any more) or "" (a fault of the jobs).
    recover: called after an exception, before the next attempt, with no frame of the failed one alive.
    """

    def __init__(self, size: int, classify: Callable[[BaseException], str], recover: Callable[[], None]) -> None:
        self.size = size
        self.limits: dict[Hashable, int] = {}
        self._classify = classify
        self._recover = recover

    def run(
        self, bucket: Hashable, jobs: Sequence[Any], work: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> list[Any | Failure]:
        """One result a job, in order: what `work` gave for it, or a Failure.

        Out of memory, a batch is tried again in halves, and the bucket's batches stay that small; a single job that
        does not fit fails. Jobs of a batch that fails otherwise are run one by one, and each answers for itself.

        Raises StopRun where the device is gone, and what `work` raises of that kind.
        """
        done: list[Any | Failure] = []
        while len(done) < len(jobs):
            size = min(self.limits.get(bucket, self.size), len(jobs) - len(done))
            try:
                some = jobs[len(done) : len(done) + size]
                done += at_once(work, some, failure=self._failure, after=self._after)
            except _NoRoomError as error:
                self.limits[bucket] = error.count // 2
        return done

    def _failure(self, error: BaseException) -> Failure:
        return _no_memory(error) if self._classify(error) == "memory" else Failure.of(error)

    def _after(self, error: BaseException, count: int) -> None:
        meaning = self._classify(error)
        if meaning == "device":
            raise StopRun(f"the device cannot be used any more: {error}") from error
        self._recover()
        if meaning == "memory" and count > 1:
            raise _NoRoomError(count)


class _NoRoomError(Exception):
    """So many jobs at once do not fit."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def _no_memory(error: BaseException) -> Failure:
    advice = "a smaller max_area, offload: model, weights: float8 or vae_tiling: true needs less"
    return Failure("OutOfMemory", f"one picture at a time does not fit ({error}); {advice}")
