"""The model servers of a run: which run when, and how many of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ugaf.models.servers import ServerLink
from ugaf.pipeline.config import Pipeline

Notify = Callable[[str], None]


class RunningServers:
    """The model servers of a run: started when a segment needs them, stopped when they are in the way or of no use."""

    def __init__(self, pipeline: Pipeline, on_cluster: bool, notify: Notify) -> None:
        self._models = pipeline.settings.models
        self._on_cluster = on_cluster
        self._notify = notify
        self._links: dict[str, ServerLink] = {}
        self._handles: dict[str, Any] = {}

    def __enter__(self) -> RunningServers:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep_only(())

    @property
    def names(self) -> list[str]:
        """Those that run now."""
        return sorted(self._links)

    @property
    def running(self) -> dict[str, int]:
        """Those that run now, and how many of each."""
        return {name: len(self._handles.get(name, ())) for name in self.names}

    def lacks(self, names: Sequence[str]) -> bool:
        """Whether one of them has to be started."""
        return any(name not in self._links for name in names)

    def need(
        self, names: Sequence[str], on_ray: bool, replicas: Mapping[str, int] | None = None
    ) -> dict[str, ServerLink]:
        """Links to these servers; those that the pipeline has to start are started side by side, and healthy.

        replicas: how many of each; of others, the fewest that their entries allow.
        """
        from ugaf.models.servers.supervisor import begin_servers

        new = [name for name in names if name not in self._links]
        if new:
            counts = {name: (replicas or {}).get(name, self._models[name].least) for name in new}
            models = {name: self._models[name].model_copy(update={"replicas": counts[name]}) for name in new}
            links, handles = begin_servers(models, new, on_ray, self._notify, self._on_cluster)
            self._links.update(links)
            self._handles.update(handles)
        return {name: self._links[name] for name in names}

    def keep_only(self, names: Collection[str]) -> None:
        """Stop all others."""
        from ugaf.models.servers.supervisor import stop_servers

        unused = [name for name in self._links if name not in names]
        for name in unused:
            del self._links[name]
        handles = {name: self._handles.pop(name) for name in unused if name in self._handles}
        if handles:
            stop_servers(handles, self._notify)
