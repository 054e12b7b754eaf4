"""Where a server is, for those that ask it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ugaf.models.servers.entry import ModelServer


@dataclass(frozen=True)
class ServerLink:
    """Where a server is, for the workers; it can be pickled.

    name: of the entry. urls: base URLs ("http://host:port/v1"), as they were when the run started.
    refresh: asks the supervisors where their servers are now, one URL for each, whether it answers or is being started
    again, and raises StopRun with the end of the log if one was given up; None for endpoints that the user runs.
    """

    name: str
    settings: ModelServer
    urls: tuple[str, ...]
    refresh: Callable[[], tuple[str, ...]] | None = None


Servers = Mapping[str, ServerLink]
