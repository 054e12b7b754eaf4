"""The stage that benchmarks/chat.py runs: one question with a picture for each photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from ugaf import stage
from ugaf.base.needs import Needs, together
from ugaf.models.chat import Answer, ChatRequest, Message, Picture, chat_needs, open_chat
from ugaf.models.chat.schemas import line
from ugaf.stage import Outcome, Row

Line = line(200)


class Judgement(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Line
    score: int = Field(ge=1, le=5)


class Ask(stage.Stage):
    """Writes score, 1..5."""

    reads = ("image",)
    writes = pa.schema([("score", pa.int32())])

    class Settings(stage.Settings):
        side: int = Field(512, description="longer side in pixels of the picture that is sent")

    settings: Settings

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:  # noqa: ARG003
        return together([chat_needs(), Needs(servers=("judge",))])

    def setup(self) -> None:
        self.chat = open_chat(self.servers["judge"])

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        side = self.settings.side
        answers = self.chat.ask(
            ChatRequest((Message("user", (row.id, Picture(row.photo(side), side))),), Judgement) for row in rows
        )
        return [{"score": answer.value.score} if isinstance(answer, Answer) else answer for answer in answers]
