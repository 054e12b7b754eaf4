"""A client of one server: many requests at once to its OpenAI-compatible endpoints, each tried until it is answered.

What is asked is a subclass's matter, by four hooks: `path`, `prepare`, `exchange`, `read`. How is the same for all.
`ask` runs in the caller's thread: it takes a request from the iterable when one of the `in_flight` slots is free,
prepares it (what costs time is done here, outside of the event loop) and hands it to the loop's thread, which all
clients of the process share. There a request goes from try to try:

- no connection, or a gateway with nothing behind it: the endpoint is set aside and the request waits for one that is
  up; this uses up no try;
- busy, failing, silent, cut off: again after a growing wait, up to `tries` times; the slot stays taken meanwhile, so
  that an overloaded server is not sent new requests instead;
- an answer that cannot be used: asked again, up to `answer_tries` times;
- refused as a request (other 4xx): a Failure at once.

A failure is the request's own only where the server answers others after it (`blame`).

What is nobody's own fault (a refused key, a model that is not there, a server that stays away) stops every call with
StopRun, and what is in flight is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from ugaf.base.errors import StopRun
from ugaf.base.failure import Failure
from ugaf.models.chat import transport
from ugaf.models.chat.blame import Blame
from ugaf.models.chat.endpoints import Endpoint, Endpoints
from ugaf.models.chat.reply import AnswerError
from ugaf.models.chat.transport import STEADY, Pace, TryError
from ugaf.models.servers import ServerLink

REFUSED_CONNECTIONS = 20
"""Times that a request may find nobody at an endpoint which was up a moment before."""

Request = TypeVar("Request")
Ready = TypeVar("Ready")
Answer = TypeVar("Answer")


class ServerClient(ABC, Generic[Request, Ready, Answer]):
    """Answers of type Answer to requests of type Request, each of which is sent from its Ready, what `prepare` made.

    Safe to use from several threads; the bound on requests in flight holds for all of them. Pickled, it is its link,
    and opened anew where it arrives.

    model: the model's name as it is written into rows. settings: the entry of `models:`. pace: waits between tries.
    Raises StopRun if the server's key is not set, ConfigError without `openai`.
    """

    path: ClassVar[str]
    """What follows the base URL where requests are sent, as messages name it."""

    def __init__(self, link: ServerLink, pace: Pace = STEADY) -> None:
        transport.require()
        self.model = link.settings.answers
        self.settings = link.settings
        self.pace = pace
        self._link = link
        self._slots = threading.BoundedSemaphore(link.settings.in_flight)
        self._lock = threading.Lock()
        self._calls: list[_Call] = []
        self._answered = False
        self._evidence = Blame(link.name, pace, link.settings.patience_s, link.settings.answer_tries, self._once)
        self._loop = _loop()
        self._key = self._read_key()
        self._endpoints = Endpoints(link, pace, self._open, self._stop)

    @property
    def link(self) -> ServerLink:
        """Where the server is: the newest link that is known."""
        return self._link

    @abstractmethod
    def prepare(self, request: Request) -> Ready:
        """What all tries of a request are sent from. Called in the thread of `ask`, when there is room for the request.

        What it raises is the request's own fault: its Failure.
        """

    @abstractmethod
    async def exchange(self, client: Any, ready: Ready, attempt: int) -> Any:
        """Send a request once by an `openai.AsyncOpenAI` and give the server's JSON. Raises TryError.

        attempt: answers to this request that could not be used so far; 0 for the first.
        """

    @abstractmethod
    async def read(self, said: Any, ready: Ready, tries: int) -> Answer:
        """The answer in the server's JSON. Raises AnswerError where it cannot be used: the request is sent again.

        It runs on the event loop, which serves everybody. tries: requests that the server has seen for it.
        """

    def __reduce__(self) -> Any:
        return type(self), (self.link, self.pace)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._link.name!r}, model={self.model!r}, urls={self._link.urls})"

    def relink(self, link: ServerLink) -> None:
        """Take a newer link to the same server: its `refresh` reaches the supervisors of this run."""
        self._link = link
        self._loop.call_soon_threadsafe(setattr, self._endpoints, "link", link)

    def ask(self, requests: Iterable[Request]) -> list[Answer | Failure]:
        """An answer or a Failure for each request, in order. Raises StopRun where the fault is no request's own.

        Requests are taken from the iterable only when there is room for them.
        """
        key = self._read_key()
        with self._call(key) as call:
            futures: list[Future[Answer | Failure]] = []
            try:
                for future in self._started(iter(requests), call):
                    futures.append(future)
                outcomes = [future.result() for future in futures]
            except CancelledError:
                if call.stop is None:
                    raise
                outcomes = []
            except BaseException:
                call.cancel(None)
                raise
        if call.stop is not None:
            raise StopRun(str(call.stop))
        return outcomes

    def _started(self, requests: Iterator[Request], call: _Call) -> Iterator[Future[Answer | Failure]]:
        """Start each request when a slot is free for it; of the request itself nothing is kept here."""
        while call.stop is None:
            self._slots.acquire()
            try:
                future = self._start(requests)
            except BaseException:
                self._slots.release()
                raise
            if future is None:
                self._slots.release()
                return
            future.add_done_callback(lambda _: self._slots.release())
            call.add(future)
            yield future

    def _start(self, requests: Iterator[Request]) -> Future[Answer | Failure] | None:
        try:
            request = next(requests)
        except StopIteration:
            return None
        try:
            ready = self.prepare(request)
        except Exception as error:  # what cannot be made ready is its row's own fault
            failed: Future[Answer | Failure] = Future()
            failed.set_result(Failure.of(error))
            return failed
        return asyncio.run_coroutine_threadsafe(self._outcome(ready), self._loop)

    async def _outcome(self, ready: Ready) -> Answer | Failure:
        try:
            return await self._answer(ready)
        except StopRun as error:
            self._stop(error)
            raise
        except Exception as error:
            return Failure(type(error).__name__, self._safe(str(error) or repr(error)))

    async def _answer(self, ready: Ready) -> Answer | Failure:
        spent = _Spent()
        while True:
            sent_at = time.monotonic()
            outcome = await self._tried(ready, spent)
            if isinstance(outcome, Failure):
                failure = await self._evidence.of(outcome)
                if failure is not None:
                    return failure
                spent = _Spent()
            elif outcome is not None:
                self._evidence.answered(ready, sent_at, spent.answers)
                return outcome

    async def _tried(self, ready: Ready, spent: _Spent) -> Answer | Failure | None:
        """What one more try brings; None where another one may help."""
        endpoint = await self._endpoints.take()
        try:
            said = await self._sent(endpoint, ready, spent)
            return await self.read(said, ready, spent.sent)
        except TryError as fault:
            return await self._after(fault, endpoint, spent)
        except AnswerError as error:
            spent.answers += 1
            enough = spent.answers >= self.settings.answer_tries
            return self._failure(error.kind, str(error), spent) if enough else None

    async def _once(self, ready: Ready, attempt: int) -> Answer:
        """One try of a request, for what it tells of the server. attempt: as of `exchange`. Raises as `read` does."""
        endpoint = await self._endpoints.take()
        try:
            return await self.read(await self._sent(endpoint, ready, _Spent(answers=attempt)), ready, 1)
        except TryError as fault:
            if fault.unreachable:
                self._endpoints.set_aside(endpoint, self._safe(f"{fault.kind}: {fault}"))
            raise

    async def _sent(self, endpoint: Endpoint, ready: Ready, spent: _Spent) -> Any:
        try:
            with endpoint.client() as client:
                said = await self.exchange(client, ready, spent.answers)
        finally:
            self._endpoints.give(endpoint)
        spent.sent += 1
        self._answered = True
        return said

    async def _after(self, fault: TryError, endpoint: Endpoint, spent: _Spent) -> Failure | None:
        """What follows a try without an answer: a Failure, or None (after a wait) for another try. Raises StopRun."""
        if fault.unreachable:
            self._endpoints.set_aside(endpoint, self._safe(f"{fault.kind}: {fault}"))
            spent.unreachable += 1
            return None if spent.unreachable < REFUSED_CONNECTIONS else self._fault(fault, endpoint, spent)
        spent.sent += 1
        if not fault.retry:
            await self._blame(fault, endpoint)
            return self._fault(fault, endpoint, spent)
        if fault.code == "insufficient_quota":
            raise StopRun(f"server {self._link.name!r}: {endpoint.url}: {self._safe(str(fault))}")
        doubtful = fault.status in transport.GATEWAY or fault.kind == "Disconnected"
        is_up = await self._endpoints.is_up(endpoint) if doubtful else True
        if is_up or fault.status not in transport.GATEWAY:
            spent.faults += 1
        else:
            spent.unreachable += 1
        if spent.faults >= self.settings.tries or spent.unreachable >= REFUSED_CONNECTIONS:
            return self._fault(fault, endpoint, spent)
        asked_for = None if fault.retry_after is None else min(fault.retry_after, self.settings.patience_s)
        await asyncio.sleep(self.pace.backoff(max(spent.faults, 1), asked_for))
        return None

    async def _blame(self, fault: TryError, endpoint: Endpoint) -> None:
        """Raise StopRun if a refused request would be refused for every row: the key, the model, the address."""
        if fault.status in (401, 403):
            await self._endpoints.is_up(endpoint)
            if not self._answered:
                raise self._endpoints.refused(endpoint, self._safe(str(fault)))
        elif fault.status == 402:
            raise StopRun(f"server {self._link.name!r}: {endpoint.url}: {self._safe(str(fault))}")
        elif fault.status in (404, 405) and not self._answered:
            raise StopRun(
                f"server {self._link.name!r}: {endpoint.url}{self.path}: {self._safe(str(fault))}. Check the URL "
                f"(most end in /v1) and the model's name, {self.settings.name_in_requests!r}"
            )

    def _fault(self, fault: TryError, endpoint: Endpoint, spent: _Spent) -> Failure:
        return self._failure(fault.kind, f"{endpoint.url}: {fault}", spent)

    def _failure(self, kind: str, message: str, spent: _Spent) -> Failure:
        tries = "1 try" if spent.sent == 1 else f"{spent.sent} tries"
        return Failure(kind, self._safe(f"after {tries}: {message}"))

    def _stop(self, error: StopRun) -> None:
        """Stop every call that is going on; later calls begin anew."""
        self._answered = False
        self._evidence.reset()
        self._endpoints.reset()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel(StopRun(self._safe(str(error))))

    @contextmanager
    def _call(self, key: str | None) -> Iterator[_Call]:
        call = _Call()
        with self._lock:
            self._calls.append(call)
        try:
            self._run(self._enter, key)
            try:
                yield call
            finally:
                self._run(self._endpoints.leave)
        finally:
            with self._lock:
                self._calls.remove(call)

    def _enter(self, key: str | None) -> None:
        if key != self._key:
            self._key = key
            self._endpoints.use_key(key or "EMPTY")
        self._endpoints.enter()

    def _run(self, function: Any, *arguments: Any) -> None:
        """Call it on the loop's thread and wait; what it raises is raised here."""

        async def run() -> None:
            function(*arguments)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _open(self, url: str) -> list[Any]:
        settings = self.settings
        return transport.open_clients(
            url, self._key, in_flight=settings.in_flight, through_proxy=not settings.is_started
        )

    def _read_key(self) -> str | None:
        """The key as it stands in the environment now. Raises StopRun naming the variable if it is not set."""
        variable = self.settings.api_key_env
        if variable is None:
            return None
        key = os.environ.get(variable)
        if not key:
            raise StopRun(
                f"server {self._link.name!r}: the environment variable {variable} "
                f"(models.{self._link.name}.api_key_env) is not set where the workers run: export the key there"
            )
        return key

    def _safe(self, text: str) -> str:
        """Servers may repeat the key that they refuse."""
        return text.replace(self._key, "***") if self._key else text


@dataclass
class _Spent:
    """What a request has used up. sent: requests that the server saw. faults, answers: those that count as tries."""

    sent: int = 0
    faults: int = 0
    answers: int = 0
    unreachable: int = 0


class _Call:
    """One `ask` that is going on. stop: why it has to end, None if nothing is wrong."""

    def __init__(self) -> None:
        self.stop: StopRun | None = None
        self._cancelled = False
        self._futures: set[Future[Any]] = set()
        self._lock = threading.Lock()

    def add(self, future: Future[Any]) -> None:
        with self._lock:
            cancelled = self._cancelled
            self._futures.add(future)
        future.add_done_callback(self._forget)
        if cancelled:
            future.cancel()

    def cancel(self, stop: StopRun | None) -> None:
        with self._lock:
            self.stop = self.stop or stop
            self._cancelled = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)


_GUARD = threading.RLock()
_LOOP: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process's clients, running on a thread of its own."""
    with _GUARD:
        if not _LOOP:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="ugaf-chat", daemon=True).start()
            _LOOP.append(loop)
        return _LOOP[0]


def _forget_after_fork() -> None:
    global _GUARD
    _GUARD = threading.RLock()
    _LOOP.clear()


# A forked process has no such thread.
os.register_at_fork(after_in_child=_forget_after_fork)
