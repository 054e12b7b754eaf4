"""The endpoints of one server: which of them is up, and which one the next request goes to.

An endpoint is asked for its models before it gets the first request, and again until it answers after it was away.
Requests go to the endpoint with the fewest on their way. While none is up they wait, and after `patience_s` the run
stops. All of it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ugaf.base.errors import StopRun, nearest
from ugaf.models.chat import transport
from ugaf.models.chat.transport import Pace, TryError
from ugaf.models.servers import ServerLink

log = logging.getLogger(__name__)


class Endpoint:
    """One base URL. clients: its `openai.AsyncOpenAI`s. outstanding: requests on their way. why: what is wrong."""

    def __init__(self, url: str, clients: list[Any]) -> None:
        self.url = url
        self.clients = clients
        self._loads = [0] * len(clients)
        self.ready = False
        self.outstanding = 0
        self.turn = 0
        self.why = "not asked yet"
        self.probing: asyncio.Task[bool] | None = None
        self.revival: asyncio.Task[None] | None = None

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The client with the fewest requests on their way, for one more."""
        index = self._loads.index(min(self._loads))
        self._loads[index] += 1
        try:
            yield self.clients[index]
        finally:
            self._loads[index] -= 1


class Endpoints:
    """open: makes the clients of a URL. stop: what to do with a StopRun that comes up between requests."""

    def __init__(
        self, link: ServerLink, pace: Pace, open: Callable[[str], list[Any]], stop: Callable[[StopRun], None]
    ) -> None:
        self.link = link
        self._pace = pace
        self._open = open
        self._stop = stop
        self._all: list[Endpoint] = []
        self._turn = 0
        self._calls = 0
        self._away_since = 0.0
        self._any_ready = asyncio.Event()

    def enter(self) -> None:
        """A call begins: endpoints that are not up are looked at as long as one is going on."""
        if not self._all:
            self._all = [Endpoint(url, self._open(url)) for url in self.link.urls]
        self._calls += 1
        if self._calls == 1:
            self._away_since = time.monotonic()
        for endpoint in self._all:
            self._revive(endpoint, at_once=True)

    def leave(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            for endpoint in self._all:
                if endpoint.revival is not None:
                    endpoint.revival.cancel()
                    endpoint.revival = None

    def reset(self) -> None:
        """Forget what is known: after a stop, the next call looks at every endpoint anew."""
        for endpoint in self._all:
            endpoint.ready = False
        self._any_ready.clear()

    def use_key(self, key: str) -> None:
        for client in (client for endpoint in self._all for client in endpoint.clients):
            client.api_key = key

    async def take(self) -> Endpoint:
        """The endpoint for the next request; `give` it back. Waits while none is up. Raises StopRun."""
        while True:
            ready = [endpoint for endpoint in self._all if endpoint.ready]
            if ready:
                chosen = min(ready, key=lambda endpoint: (endpoint.outstanding, endpoint.turn))
                self._turn += 1
                chosen.turn = self._turn
                chosen.outstanding += 1
                return chosen
            left = self._away_since + self.patience_s - time.monotonic()
            try:
                async with asyncio.timeout(left):
                    await self._any_ready.wait()
            except TimeoutError:
                raise self._gone() from None

    def give(self, endpoint: Endpoint) -> None:
        endpoint.outstanding -= 1

    def set_aside(self, endpoint: Endpoint, why: str) -> None:
        """It gets no requests until it answers again."""
        endpoint.why = why
        if not endpoint.ready:
            return
        endpoint.ready = False
        log.warning("server %s: %s is away (%s)", self.link.name, endpoint.url, why)
        if not any(other.ready for other in self._all):
            self._away_since = time.monotonic()
            self._any_ready.clear()
        self._revive(endpoint)

    async def is_up(self, endpoint: Endpoint) -> bool:
        """Ask it for its models; one that does not answer is set aside. Requests that doubt it at once share one look.

        Raises StopRun where it refuses the key or does not have the model.
        """
        if endpoint.probing is None:
            endpoint.probing = asyncio.create_task(self._look(endpoint))
            endpoint.probing.add_done_callback(functools.partial(_looked, endpoint))
        return await asyncio.shield(endpoint.probing)

    @property
    def patience_s(self) -> float:
        """How long all may be away: a supervised server may take as long as to start; `refresh` says if it is lost."""
        settings = self.link.settings
        return max(settings.patience_s, settings.start_timeout_s) if self.link.refresh else settings.patience_s

    async def _look(self, endpoint: Endpoint) -> bool:
        settings = self.link.settings
        timeout = min(settings.timeout_s, self._pace.probe_timeout_s)
        try:
            with endpoint.client() as client:
                names = await transport.models(client, timeout, self._pace.connect_s)
        except TryError as fault:
            if fault.status in (401, 403):
                raise self.refused(endpoint, str(fault)) from fault
            # Other statuses under 500 are of a server that answers but has no list of models.
            if fault.status is None or fault.status >= 500:
                self.set_aside(endpoint, f"{fault.kind}: {fault}")
                return False
            names = None
        wanted = settings.name_in_requests
        if names is not None and wanted not in names:
            raise StopRun(
                f"server {self.link.name!r}: {endpoint.url} does not have the model {wanted!r}{nearest(wanted, names)}"
                f". Set models.{self.link.name}.served_name to the name that the server uses"
            )
        return True

    def refused(self, endpoint: Endpoint, said: str) -> StopRun:
        """The StopRun for a key that is missing or wrong; it names the variable, never the key."""
        variable = self.link.settings.api_key_env
        if variable is None:
            todo = f"set models.{self.link.name}.api_key_env to the name of the environment variable that holds the key"
        else:
            todo = f"check the key in the environment variable {variable}"
        return StopRun(f"server {self.link.name!r}: {endpoint.url} refuses the key ({said}): {todo}")

    def _gone(self) -> StopRun:
        states = "; ".join(f"{endpoint.url}: {endpoint.why}" for endpoint in self._all)
        return StopRun(
            f"server {self.link.name!r}: no endpoint could be reached for {self.patience_s:g} s ({states}). "
            f"Start it and run the same command again; models.{self.link.name}.patience_s is how long to wait"
        )

    def _revive(self, endpoint: Endpoint, at_once: bool = False) -> None:
        if not endpoint.ready and self._calls and (endpoint.revival is None or endpoint.revival.done()):
            endpoint.revival = asyncio.create_task(self._until_up(endpoint, at_once))

    async def _until_up(self, endpoint: Endpoint, at_once: bool) -> None:
        wait = self._pace.probe_first_s
        try:
            while True:
                if not at_once:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, self._pace.probe_most_s)
                    await self._refresh()
                at_once = False
                if endpoint not in self._all:
                    return
                if await self.is_up(endpoint):
                    break
            if not endpoint.ready:
                endpoint.ready = True
                self._any_ready.set()
                log.info("server %s: %s is up", self.link.name, endpoint.url)
        except StopRun as error:
            self._stop(error)

    async def _refresh(self) -> None:
        """Ask the supervisors where their servers are; StopRun if one was given up."""
        if self.link.refresh is None:
            return
        try:
            urls = await asyncio.get_running_loop().run_in_executor(None, self.link.refresh)
        except Exception as error:  # whoever supervises may be away itself: patience bounds the wait
            log.warning("server %s: its supervisor cannot be asked: %r", self.link.name, error)
            return
        known = {endpoint.url: endpoint for endpoint in self._all}
        if not urls or set(urls) == set(known):
            return
        self._all = [known.get(url) or Endpoint(url, self._open(url)) for url in urls]
        for endpoint in self._all:
            self._revive(endpoint, at_once=True)
        if not any(endpoint.ready for endpoint in self._all):
            self._any_ready.clear()


def _looked(endpoint: Endpoint, task: asyncio.Task[bool]) -> None:
    endpoint.probing = None
    # Whoever waited for it may have been cancelled: asyncio would log its StopRun as never seen.
    if not task.cancelled():
        task.exception()
