"""Drops edits that no sensible person would ask for, each with its reason, before anything is paid for.

FineEdit (section 4.1) lets a language model screen the instructions for unreasonable edits, inappropriate manipulation
of people and safety violations. Here rules that need no model come first, whoever screens after them: an edit that
would change nothing, a local edit of nearly the whole image, a target too small to see, a face that would be altered,
words that do not belong in a training set. What they let through is the `screener`'s, by default nobody's. The stage
labels; the keep rule `screen: {one_of: [ok]}` drops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from ugaf import stage
from ugaf.base.failure import Failure, attempt
from ugaf.models.screeners import rules as screen_rules
from ugaf.models.screeners.faces import Faces
from ugaf.models.screeners.interface import Ruling, Screener
from ugaf.models.screeners.rules import Edit
from ugaf.stage import Outcome, Row, engines
from ugaf.stage.engines import ScreenerSpec

RULES = "rules"


class Screen(stage.Stage):
    """Writes `screen` ("ok" or the first reason that applies), `screen_detail`, and who said so (`screener`)."""

    version = 2
    reads = ("image", "width", "height", "objects", "task", "instruction", "boxes", "params")
    refs = {"donor": ("image", "width", "height", "objects")}  # noqa: RUF012
    writes: ClassVar = {
        "screen": stage.Column(str, "'ok' or the reason"),
        "screen_detail": stage.Column(str, "the reason's numbers, or the model's sentence", text=True),
        "screener": stage.Column(str, "who said so: `rules`, `llm:MODEL`"),
        "screener_tokens_in": stage.Column(pa.int32(), "tokens of the request; null where no model was asked"),
        "screener_tokens_out": stage.Column(pa.int32(), "tokens of the answer"),
        "screener_thinking": stage.Column(str, "what a reasoning model thought, or null", text=True),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"screen": {"one_of": ["ok"]}}

    class Settings(stage.Settings):
        screener: ScreenerSpec = Field(
            {"engine": "rules"}, description="Who screens what the rules let through, and its options."
        )
        max_box_share: float = Field(
            0.7, gt=0, le=1, description="A local edit whose box covers more of the image is `whole_image`."
        )
        min_box_share: float = Field(
            0.002, ge=0, le=1, description="A target box that covers less of the image is `too_small`."
        )
        min_box_side: int = Field(16, ge=1, description="A target box narrower or lower, in pixels, is `too_small`.")
        min_colour_difference: float = Field(
            20, ge=0, description="A recolouring by less (CIE76) of an object's mean colour is `no_op`."
        )
        max_face_share: float = Field(
            0.15, ge=0, le=1, description="An edit that alters more of a detected face's area is `face`."
        )
        faces: bool = Field(True, description="Look for faces; false for sets in which no people occur.")

    settings: Settings

    def setup(self) -> None:
        self.rules = screen_rules.Rules(self.settings, Faces() if self.settings.faces else None)
        self.screener: Screener = engines.build("screener", self.settings.screener, self.servers)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        outcomes: dict[int, Outcome] = {}
        passed: list[int] = []

        def passing() -> Iterator[Edit]:
            # Taken one by one: the rules of the next edit are tried while the model thinks about the last ones.
            for number, row in enumerate(rows):
                known = attempt(self._by_rules, row)
                if isinstance(known, Failure):
                    outcomes[number] = known
                    continue
                edit, broken = known
                if broken:
                    outcomes[number] = _columns(RULES, Ruling(*broken))
                    continue
                passed.append(number)
                yield edit

        rulings = self.screener.screen(passing())
        for number, ruling in zip(passed, rulings, strict=True):
            outcomes[number] = ruling if isinstance(ruling, Failure) else _columns(self.screener.name, ruling)
        return [outcomes[number] for number in range(len(rows))]

    def _by_rules(self, row: Row) -> tuple[Edit, screen_rules.Found | None]:
        """The edit, and the rule that it breaks."""
        edit = screen_rules.read(row)
        return edit, self.rules.broken(edit)


def _columns(screener: str, ruling: Ruling) -> dict[str, Any]:
    return {
        "screen": ruling.verdict,
        "screen_detail": ruling.detail,
        "screener": screener,
        "screener_tokens_in": ruling.tokens_in,
        "screener_tokens_out": ruling.tokens_out,
        "screener_thinking": ruling.thinking,
    }
