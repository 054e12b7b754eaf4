"""What the runner tells of its work to whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ugaf.base.printing import complain


class Watcher:
    """Watches nothing. Methods are called from the runner's thread, but for `lost`."""

    def accepted(self) -> None:
        """The run is not refused: its folder may be written to. Called once or more."""

    def doing(self, what: str, waiting: Mapping[str, int] | None = None) -> None:
        """Something else begins, such as `listing the inputs`; text after a colon may change while the same goes on.

        waiting: for a segment of stages, in order, the rows that are there for each.
        """

    def lost(self, why: str) -> None:
        """The head of Ray is gone, and Ray will end this process without a word. Called from a thread of its own."""
        complain("ugaf", why)

    def runs_on(self, machine: Mapping[str, Any]) -> None:
        """The CPUs and GPUs that do the work are known now: the fields of a `Machine`."""
