"""Starts the servers of a pipeline's `models:`, here or on Ray, and stops them when the run has no more use for them.

On Ray every server has an actor that reserves its CPUs and GPUs and keeps the process alive on that node (see
`supervised`). If the node is lost, Ray starts the actor on another one. Workers ask the actors where the servers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ugaf.base.errors import StopRun, UgafError
from ugaf.models.servers import ModelServer, ServerLink
from ugaf.models.servers.supervised import Status, SupervisedServer, Timing

PLACE_S = 180.0
"""How long a server waits for free CPUs and GPUs of a Ray that is this machine; a cluster may be adding nodes."""

NEWS_S = 60.0
"""How often the user is told what a server that is starting wrote last."""

ASK_S = 10.0
"""How long a supervisor's answer is waited for."""

STOP_S = 75.0
"""How long a supervisor may take to end its server: more than it gives the server itself."""

CALLS = 16
"""Calls that a supervisor answers at once, of many workers."""

Notify = Callable[[str], None]


class Handle(Protocol):
    """One server of an entry, wherever its supervisor is."""

    def poll(self) -> Status | None:
        """Its status as far as it is known; None as long as it has no place to run."""

    def last_line(self) -> str:
        """What it wrote last."""

    def stop(self) -> Status | None:
        """End it, and tell how it was."""


class Here:
    """A server that this process supervises: for runs without Ray."""

    def __init__(self, name: str, settings: ModelServer, timing: Timing) -> None:
        self.server = SupervisedServer(name, settings, timing=timing)
        self.server.start()

    def poll(self) -> Status:
        return self.server.status()

    def last_line(self) -> str:
        return self.server.log_end(1)

    def stop(self) -> Status:
        self.server.stop()
        return self.server.status()


class SupervisorActor:
    """What Ray keeps on the node: one supervised server. local: nobody on other machines has to reach it."""

    def __init__(self, name: str, settings: ModelServer, timing: Timing, local: bool) -> None:
        import ray

        host = "127.0.0.1" if local else ray.util.get_node_ip_address()
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._server = SupervisedServer(name, settings, host, True, timing, restarted)
        self._server.start()

    def status(self) -> Status:
        return self._server.status()

    def log_end(self, lines: int) -> str:
        return self._server.log_end(lines)

    def stop(self) -> Status:
        self._server.stop()
        return self._server.status()


class OnRay:
    """A server whose supervisor is an actor."""

    def __init__(self, name: str, settings: ModelServer, timing: Timing, local: bool) -> None:
        import ray

        self._name = name
        options: dict[str, Any] = {
            "num_cpus": settings.cpus,
            "num_gpus": settings.gpus,
            "max_restarts": settings.restarts,
            "max_concurrency": CALLS,
        }
        self.actor: Any = ray.remote(**options)(SupervisorActor).remote(name, settings, timing, local)
        self._asked: Any = None
        self._last: Status | None = None

    def poll(self) -> Status | None:
        import ray

        self._asked = self._asked or self.actor.status.remote()
        if ray.wait([self._asked], timeout=0)[0]:
            asked, self._asked = self._asked, None
            self._last = _answer(self._name, asked) or self._last
        return self._last

    def last_line(self) -> str:
        import ray

        try:
            return str(ray.get(self.actor.log_end.remote(1), timeout=ASK_S))
        except ray.exceptions.RayError as error:
            return f"({type(error).__name__})"

    def stop(self) -> Status | None:
        import ray

        # Whatever keeps the actor from answering, its end is the server's end too.
        with suppress(ray.exceptions.RayError):
            try:
                if self._last is not None:
                    self._last = ray.get(self.actor.stop.remote(), timeout=STOP_S)
            finally:
                ray.kill(self.actor)
        return self._last


@dataclass(frozen=True)
class AskHere:
    """`ServerLink.refresh` for servers of this process."""

    servers: tuple[SupervisedServer, ...]

    def __call__(self) -> tuple[str, ...]:
        return tuple(_url(server.status()) for server in self.servers)


@dataclass
class AskActors:
    """`ServerLink.refresh` for servers on Ray; it can be pickled.

    urls: where the servers were last. One whose node was lost is said to be there until its new place is known.
    """

    name: str
    actors: tuple[Any, ...]
    urls: tuple[str, ...]

    def __call__(self) -> tuple[str, ...]:
        import ray

        asked = [actor.status.remote() for actor in self.actors]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=ASK_S)
        answers = {one: _answer(self.name, one) for one in ready}
        now = (_url(status) if (status := answers.get(one)) else "" for one in asked)
        self.urls = tuple(new or old for new, old in zip(now, self.urls, strict=True))
        return self.urls


def _url(status: Status) -> str:
    """Where a server is, or is being started. Raises StopRun with the end of its log if it was given up."""
    if status.state == "failed":
        raise StopRun(status.problem)
    return status.url or ""


Handles = dict[str, list[Handle]]


def begin_servers(
    models: Mapping[str, ModelServer],
    names: Iterable[str],
    on_ray: bool,
    notify: Notify,
    across_nodes: bool = False,
    timing: Timing | None = None,
) -> tuple[dict[str, ServerLink], Handles]:
    """Links to the servers of these entries, and by name what `stop_servers` takes. Those that the pipeline starts are
    started side by side, and are healthy when this returns. If one cannot start, or the wait is interrupted, all are
    stopped before the error is raised.

    across_nodes: Ray is a cluster, to which nodes may still be added: servers listen on their node's address. They do
    so too if there are several nodes already; else they listen on 127.0.0.1.

    Raises:
        StopRun: a server cannot start; with its command line and the end of its log.
        UgafError: Ray has no room for a server; with what is missing.
    """
    names = list(dict.fromkeys(names))
    started = {name: models[name] for name in names if models[name].is_started}
    local = not across_nodes and not (on_ray and started and len(_nodes()) > 1)
    handles: Handles = {name: [] for name in started}
    try:
        # The largest first: those of one GPU fit between them, and not the other way round.
        for name, server in sorted(started.items(), key=lambda item: -item[1].gpus):
            notify(f"models.{name}: starting {_describe(server)}")
            for _ in range(server.least):
                timed = timing or Timing()
                handles[name].append(OnRay(name, server, timed, local) if on_ray else Here(name, server, timed))
        _wait(started, handles, notify, PLACE_S if local else None)
        return {name: _link(name, models[name], handles.get(name, [])) for name in names}, handles
    except BaseException:
        stop_servers(handles, notify)
        raise


def _wait(
    servers: Mapping[str, ModelServer], handles: Mapping[str, Sequence[Handle]], notify: Notify, place_s: float | None
) -> None:
    """Until all are healthy. place_s: how long one may be without a place, if not as long as it may take to start."""
    began, news = time.monotonic(), NEWS_S
    waiting = {name: list(some) for name, some in handles.items()}
    while waiting:
        spent = time.monotonic() - began
        for name, some in list(waiting.items()):
            for handle in list(some):
                status = handle.poll()
                if status is None and spent > (place_s or servers[name].start_timeout_s):
                    raise UgafError(_no_room(name, servers[name], spent))
                if status is not None and _url(status) and status.state == "healthy":
                    some.remove(handle)
            if not some:
                del waiting[name]
                notify(f"models.{name}: healthy after {spent:.0f} s")
        if spent > news:
            news += NEWS_S
            for name, some in waiting.items():
                notify(f"models.{name}: {spent:.0f} s: {_news(servers[name], some)}")
        time.sleep(0.1)


def stop_servers(handles: Mapping[str, Sequence[Handle]], notify: Notify) -> None:
    every = [(name, handle) for name, some in handles.items() for handle in some]
    if not every:
        return
    with ThreadPoolExecutor(len(every)) as pool:
        ends = list(pool.map(lambda pair: pair[1].stop(), every))
    for (name, _), status in zip(every, ends, strict=True):
        if status is not None and status.restarts:
            times = "once" if status.restarts == 1 else f"{status.restarts} times"
            notify(f"models.{name}: a server was started again {times}; its log is {status.log} on {status.node}")


def _link(name: str, server: ModelServer, handles: Sequence[Handle]) -> ServerLink:
    if not server.is_started:
        return ServerLink(name, server, tuple(server.endpoints))
    here = tuple(handle.server for handle in handles if isinstance(handle, Here))
    actors = tuple(handle.actor for handle in handles if isinstance(handle, OnRay))
    statuses = [handle.poll() for handle in handles]
    urls = tuple(status.url or "" for status in statuses if status is not None)
    return ServerLink(name, server, urls, AskActors(name, actors, urls) if actors else AskHere(here))


def _answer(name: str, asked: Any) -> Status | None:
    """A supervisor's answer; None if it is being started again. Raises StopRun if there is none any more."""
    import ray

    try:
        status: Status = ray.get(asked)
    except ray.exceptions.ActorUnavailableError:
        return None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()
        raise StopRun(f"models.{name}: a server's supervisor is lost: {' '.join(reason[-2:])}") from error
    return status


def _describe(server: ModelServer) -> str:
    count = "a server" if server.least == 1 else f"{server.least} servers"
    return f"{count} of {server.model} ({server.serve}, {_resources(server)}{' each' if server.least > 1 else ''})"


def _resources(server: ModelServer) -> str:
    return f"{_count(server.gpus, 'GPU')} and {_count(server.cpus, 'CPU')}"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def _news(server: ModelServer, handles: Sequence[Handle]) -> str:
    placed = [handle for handle in handles if handle.poll() is not None]
    if len(placed) < len(handles):
        return f"{len(handles) - len(placed)} of {server.least} wait for a node with {_resources(server)} free"
    return f"{len(handles)} of {server.least} still starting; the last line of the log: {placed[0].last_line()}"


def _no_room(name: str, server: ModelServer, spent: float) -> str:
    import ray

    free = ray.available_resources()
    nodes = ", ".join(f"{_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}" for cpus, gpus in _nodes())
    return (
        f"models.{name}: Ray found no room for a server in {spent:.0f} s. Each of its {server.least} needs "
        f"{_resources(server)} on one node; free on all nodes together are {_count(free.get('GPU', 0), 'GPU')} and "
        f"{_count(free.get('CPU', 0), 'CPU')}. The nodes have {nodes}. Set smaller replicas, gpus or cpus, add nodes, "
        "or name a server that runs elsewhere with `endpoints`"
    )


def _nodes() -> list[tuple[float, float]]:
    """CPUs and GPUs of each node."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]
