"""Whose fault is a request that failed: its own, or the server's?

A request is to blame only where the server answers others after it. Unless one that was sent since it failed was
answered, the last that was answered well is asked again (the witness, one for all that wait): if it is answered, the
failure is the request's own; if not, the server has changed its mind (a key that has expired, a model that was
unloaded, a template that broke) and no row is failed for it. Answers to what was sent before say nothing: the server
may have changed between the two. Where nothing was ever answered there is no witness: such failures are marked as
unforeseen (`Failure.foreseen`), so that the run stops if they are all there is, and after REFUSED_AT_FIRST of them it
stops here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar

from ugaf.base.errors import StopRun
from ugaf.base.failure import Failure
from ugaf.models.chat.reply import AnswerError
from ugaf.models.chat.transport import Pace, TryError

REFUSED_AT_FIRST = 20
"""Requests that failed, with none answered well, after which the run stops: it would be so for every row."""

Ready = TypeVar("Ready")


class Blame(Generic[Ready]):
    """What one client knows of its server's answers. All of it runs on the event loop.

    name: the server's, for messages. ask: sends a request once, as the attempt of that number, and reads its answer;
    raises TryError, AnswerError.
    patience_s: how long a server may fail in a way that passes. tries: how often in one that does not.
    """

    def __init__(
        self, name: str, pace: Pace, patience_s: float, tries: int, ask: Callable[[Ready, int], Awaitable[object]]
    ) -> None:
        self._good = 0
        self._well_since = -math.inf
        self._name = name
        self._pace = pace
        self._patience_s = patience_s
        self._tries = tries
        self._ask = ask
        self._bad = 0
        self._witness: list[tuple[Ready, int]] = []
        self._asking: asyncio.Task[bool] | None = None

    def answered(self, ready: Ready, sent_at: float, attempt: int) -> None:
        """A request was answered well. sent_at: of time.monotonic, when it was last sent. attempt: the one that was."""
        self._good += 1
        self._well_since = max(self._well_since, sent_at)
        self._witness = [(ready, attempt)]

    def reset(self) -> None:
        """After a stop: the server may be mended."""
        self._bad = 0

    async def of(self, failure: Failure) -> Failure | None:
        """The failure, where it is the request's own; None where the server was at fault and is well again, so that the
        request is to be sent anew. Raises StopRun where the server is at fault. To be called when it has just failed.
        """
        failed_at = time.monotonic()
        if not self._witness:
            self._bad += 1
            if self._bad >= REFUSED_AT_FIRST:
                raise StopRun(
                    f"server {self._name!r} refused the first {self._bad} requests and answered none, or none in a way "
                    f"that can be used; the last: {failure}"
                )
            return replace(failure, foreseen=False)
        while self._well_since < failed_at:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask_alone(failure))
                self._asking.add_done_callback(self._asked)
            if not await asyncio.shield(self._asking):
                return None
        return failure

    async def _ask_alone(self, failure: Failure) -> bool:
        try:
            return await self._ask_witness(failure)
        finally:
            # Here, not when its callbacks run: who comes in between would wait for what is over, for ever.
            self._asking = None

    async def _ask_witness(self, failure: Failure) -> bool:
        """Whether it is answered at once; False where that took a while. Raises StopRun if it is not answered."""
        # As it was answered, then with other seeds: to one of them a model may say what cannot be used.
        ready, attempt = self._witness[0]
        began, tries, at_once = time.monotonic(), 0, True
        while True:
            sent_at = time.monotonic()
            try:
                await self._ask(ready, attempt)
            except TryError as error:
                passes, said, at_once = error.retry or error.unreachable, str(error), False
            except AnswerError as error:
                passes, said = False, str(error)
                attempt += 1
            else:
                self._good += 1
                self._well_since = max(self._well_since, sent_at)
                self._witness = [(ready, attempt)]
                return at_once
            tries += 1
            if time.monotonic() - began > self._patience_s if passes else tries >= self._tries:
                raise StopRun(
                    f"server {self._name!r} answered {self._good} requests, and now fails them all, also one that it "
                    f"answered before: {failure.type}: {said}. Look at the server (its log, its key, its model), then "
                    "run the same command again; no row is failed for it"
                )
            await asyncio.sleep(self._pace.backoff(tries, None))

    @staticmethod
    def _asked(task: asyncio.Task[bool]) -> None:
        # Whoever waited for it may have been cancelled: asyncio would log its StopRun as never seen.
        if not task.cancelled():
            task.exception()
