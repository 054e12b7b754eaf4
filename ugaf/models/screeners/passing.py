"""Engine "rules": nobody screens after the stage's own rules (`rules` beside this module)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from ugaf import stage
from ugaf.models.screeners.interface import OK, Ruling
from ugaf.models.screeners.rules import Edit
from ugaf.stage import Failure


class RuleScreener:
    """Engine "rules": what the stage's rules let through, passes."""

    name: ClassVar[str] = "rules"
    version: ClassVar[int] = 1

    class Settings(stage.Settings):
        """The rules' numbers are settings of the stage: they hold whoever screens after them."""

    def __init__(self, settings: RuleScreener.Settings | None = None) -> None:
        self.settings = settings or RuleScreener.Settings()

    def screen(self, edits: Iterable[Edit]) -> list[Ruling | Failure]:
        return [Ruling(OK) for _ in edits]
