"""What a screener is: it looks at edits that no rule has turned down, and passes each or says the reason against it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ugaf.models.screeners.rules import Edit
from ugaf.stage import Failure

OK = "ok"


@dataclass(frozen=True)
class Ruling:
    """verdict: "ok" or the reason against the edit. detail: in words, None if there is nothing to say.

    tokens_in, tokens_out, thinking: what a model used and thought; None where none was asked (or none thought).
    """

    verdict: str
    detail: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    thinking: str | None = None


class Screener(Protocol):
    """name: as it is written into rows."""

    name: str
    version: int

    def screen(self, edits: Iterable[Edit]) -> list[Ruling | Failure]:
        """One ruling for each edit, in order. The edits are those that no rule turned down; each is taken when its turn
        comes. Called from several threads."""
        ...
