"""The model servers of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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

    def lacks(self, names: Sequence[str]) -> bool:
        """Whether one of them has to be started."""
        return any(name not in self._links for name in names)

    def need(self, names: Sequence[str], on_ray: bool) -> dict[str, ServerLink]:
        """Links to these servers; those that the pipeline has to start are started side by side, and healthy."""
        from ugaf.models.servers.supervisor import begin_servers

        new = [name for name in names if name not in self._links]
        if new:
            links, handles = begin_servers(self._models, new, on_ray, self._notify, self._on_cluster)
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
