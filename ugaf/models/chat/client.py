"""The Chat of a served model: many requests at once to OpenAI-compatible endpoints, each tried until it is answered.

`ask` runs in the caller's thread: it takes a request from the iterable when one of the `in_flight` slots is free, makes
its body (pictures are encoded here, outside of the event loop) and hands it to the loop's thread, which all clients of
the process share. There a request goes from try to try:

- no connection, or a gateway with nothing behind it: the endpoint is set aside and the request waits for one that is
  up; this uses up no try;
- busy, failing, silent, cut off: again after a growing wait, up to `tries` times; the slot stays taken meanwhile, so
  that an overloaded server is not sent new requests instead;
- an answer that cannot be used: asked again with another seed, up to `answer_tries` times;
- refused as a request (other 4xx): a Failure at once.

What is nobody's own fault (a refused key, a model that is not there, a server that stays away) stops every call with
StopRun, and what is in flight is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ugaf.errors import StopRun
from ugaf.models.chat import Answer, ChatRequest, reply, transport
from ugaf.models.chat.body import body_of, reseeded
from ugaf.models.chat.endpoints import Endpoint, Endpoints
from ugaf.models.chat.reply import AnswerError, Reply
from ugaf.models.chat.transport import STEADY, Pace, TryError
from ugaf.models.servers import ServerLink
from ugaf.stage import Failure

REFUSED_CONNECTIONS = 20
"""Times that a request may find nobody at an endpoint which was up a moment before."""

Outcome = Answer | Failure


class Client:
    """A `ugaf.models.chat.Chat`; get it from `client_of`. Pickled, it is its link, and opened anew where it arrives."""

    def __init__(self, link: ServerLink, pace: Pace = STEADY) -> None:
        transport.require()
        self.model = link.settings.answers
        self._link = link
        self._settings = link.settings
        self._pace = pace
        self._slots = threading.BoundedSemaphore(link.settings.in_flight)
        self._lock = threading.Lock()
        self._calls: list[_Call] = []
        self._answered = False
        self._loop = _loop()
        self._key = self._read_key()
        self._endpoints = Endpoints(link, pace, self._open, self._stop)

    def __reduce__(self) -> Any:
        return client_of, (self._link,)

    def __repr__(self) -> str:
        return f"Client({self._link.name!r}, model={self.model!r}, urls={self._link.urls})"

    def relink(self, link: ServerLink) -> None:
        """Take a newer link to the same server: its `refresh` reaches the supervisors of this run."""
        self._link = link
        self._loop.call_soon_threadsafe(setattr, self._endpoints, "link", link)

    def ask(self, requests: Iterable[ChatRequest]) -> list[Outcome]:
        """See `ugaf.models.chat.Chat`."""
        key = self._read_key()
        with self._call(key) as call:
            futures: list[Future[Outcome]] = []
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

    def _started(self, requests: Iterator[ChatRequest], call: _Call) -> Iterator[Future[Outcome]]:
        """Start each request when a slot is free for it; nothing of a picture is kept here once it is encoded."""
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

    def _start(self, requests: Iterator[ChatRequest]) -> Future[Outcome] | None:
        request = next(requests, None)
        if request is None:
            return None
        try:
            body = body_of(request, self._settings.name_in_requests, self._settings.structured)
        except Exception as error:  # a picture that cannot be encoded is its row's own fault
            failed: Future[Outcome] = Future()
            failed.set_result(Failure.of(error))
            return failed
        # The body holds the pictures from here on, a quarter of their size or less.
        rest = replace(request, messages=())
        return asyncio.run_coroutine_threadsafe(self._outcome(body, rest), self._loop)

    async def _outcome(self, body: dict[str, Any], request: ChatRequest) -> Outcome:
        try:
            return await self._answer(body, request)
        except StopRun as error:
            self._stop(error)
            raise
        except Exception as error:
            return Failure(type(error).__name__, self._safe(str(error) or repr(error)))

    async def _answer(self, body: dict[str, Any], request: ChatRequest) -> Outcome:
        spent = _Spent()
        while True:
            endpoint = await self._endpoints.take()
            try:
                said = await self._sent(endpoint, reseeded(body, request.sampling.seed, spent.answers), spent)
            except TryError as fault:
                failure = await self._after(fault, endpoint, spent)
                if failure is not None:
                    return failure
                continue
            try:
                return self._finished(reply.read(said, request), spent)
            except AnswerError as error:
                spent.answers += 1
                if spent.answers >= self._settings.answer_tries:
                    return self._failure(error.kind, str(error), spent)

    async def _sent(self, endpoint: Endpoint, body: dict[str, Any], spent: _Spent) -> Any:
        settings = self._settings
        try:
            with endpoint.client() as client:
                said = await transport.complete(client, body, settings.timeout_s, self._pace.connect_s)
        finally:
            self._endpoints.give(endpoint)
        spent.sent += 1
        tokens_in, tokens_out = reply.usage(said)
        spent.tokens_in += tokens_in
        spent.tokens_out += tokens_out
        self._answered = True
        return said

    async def _after(self, fault: TryError, endpoint: Endpoint, spent: _Spent) -> Failure | None:
        """What follows a try without an answer: a Failure, or None (after a wait) for another try. Raises StopRun."""
        if fault.unreachable:
            self._endpoints.set_aside(endpoint, f"{fault.kind}: {fault}")
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
        if spent.faults >= self._settings.tries or spent.unreachable >= REFUSED_CONNECTIONS:
            return self._fault(fault, endpoint, spent)
        asked_for = None if fault.retry_after is None else min(fault.retry_after, self._settings.patience_s)
        await asyncio.sleep(self._pace.backoff(max(spent.faults, 1), asked_for))
        return None

    async def _blame(self, fault: TryError, endpoint: Endpoint) -> None:
        """Raise StopRun if a refused request would be refused for every row: the key, the model, the address."""
        if fault.status in (401, 403):
            await self._endpoints.is_up(endpoint)
            if not self._answered:
                raise self._endpoints.refused(endpoint, self._safe(str(fault)))
        elif fault.status in (404, 405) and not self._answered:
            raise StopRun(
                f"server {self._link.name!r}: {endpoint.url}/chat/completions: {self._safe(str(fault))}. Check the URL "
                f"(most end in /v1) and the model's name, {self._settings.name_in_requests!r}"
            )

    def _finished(self, good: Reply, spent: _Spent) -> Answer:
        return Answer(good.text, good.value, good.thinking, good.tokens, spent.tokens_in, spent.tokens_out, spent.sent)

    def _fault(self, fault: TryError, endpoint: Endpoint, spent: _Spent) -> Failure:
        return self._failure(fault.kind, f"{endpoint.url}: {fault}", spent)

    def _failure(self, kind: str, message: str, spent: _Spent) -> Failure:
        tries = "1 try" if spent.sent == 1 else f"{spent.sent} tries"
        return Failure(kind, self._safe(f"after {tries}: {message}"))

    def _stop(self, error: StopRun) -> None:
        """Stop every call that is going on; later calls begin anew."""
        self._answered = False
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
        settings = self._settings
        return transport.open_clients(
            url, self._key, in_flight=settings.in_flight, through_proxy=not settings.is_started
        )

    def _read_key(self) -> str | None:
        """The key as it stands in the environment now. Raises StopRun naming the variable if it is not set."""
        variable = self._settings.api_key_env
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
    tokens_in: int = 0
    tokens_out: int = 0


class _Call:
    """One `ask` that is going on. stop: why it has to end, None if nothing is wrong."""

    def __init__(self) -> None:
        self.stop: StopRun | None = None
        self._cancelled = False
        self._futures: set[Future[Outcome]] = set()
        self._lock = threading.Lock()

    def add(self, future: Future[Outcome]) -> None:
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

    def _forget(self, future: Future[Outcome]) -> None:
        with self._lock:
            self._futures.discard(future)


_GUARD = threading.RLock()
_CLIENTS: dict[tuple[str, str, tuple[str, ...]], Client] = {}
_LOOP: list[asyncio.AbstractEventLoop] = []


def client_of(link: ServerLink) -> Client:
    """The process's client of that server. Raises StopRun if its key is not set, ConfigError without `openai`."""
    key = (link.name, link.settings.model_dump_json(), link.urls)
    with _GUARD:
        client = _CLIENTS.get(key)
        if client is None:
            client = _CLIENTS[key] = Client(link)
        else:
            client.relink(link)
        return client


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
    _CLIENTS.clear()
    _LOOP.clear()


# A forked process has no such thread, and must not share the parent's connections.
os.register_at_fork(after_in_child=_forget_after_fork)
