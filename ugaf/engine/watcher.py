"""What the runner tells of its work to whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Watcher:
    """Watches nothing. Methods are called from the runner's thread."""

    def accepted(self) -> None:
        """The run is not refused: its folder may be written to. Called once or more."""

    def doing(self, what: str, waiting: Mapping[str, int] | None = None) -> None:
        """Something else begins, such as `listing the inputs`; text after a colon may change while the same goes on.

        waiting: for a segment of stages, in order, the rows that are there for each.
        """

    def runs_on(self, machine: Mapping[str, Any]) -> None:
        """The CPUs and GPUs that do the work are known now: the fields of a `Machine`."""
