"""Engine "llm": a language model looks at an edit that no rule has turned down.

FineEdit (section 4.1, "Data Annotation") has Qwen3-32B, thinking, screen the instructions for unreasonable edits,
inappropriate manipulation of people and safety violations. It reads words alone: the instruction, and what is known of
the photograph and of the target's box. With `image`, a vision-language model is shown the photograph too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ugaf import stage
from ugaf.base import tasks
from ugaf.base.needs import Needs
from ugaf.imaging import images, marks
from ugaf.models.chat import Answer, Chat, ChatRequest, Message, Picture, Sampling, chat_needs, open_chat
from ugaf.models.chat.schemas import line
from ugaf.models.judging import asking
from ugaf.models.judging.asking import Question
from ugaf.models.judging.pairs import seed_of
from ugaf.models.screeners.interface import Ruling
from ugaf.models.screeners.rules import Edit
from ugaf.models.servers import Servers
from ugaf.stage import Failure, prompts
from ugaf.stage.engines import ServerName
from ugaf.wording.layout import where
from ugaf.wording.places import Place

if TYPE_CHECKING:
    Reason = str
else:
    Reason = line(400)

FOLDER = "annotation/screen"
"""Of the prompts: `system`, and the question, in `words` without a photograph and in `picture` with one."""
Prompts = Annotated[dict[str, str], prompts.PromptsOf(FOLDER)]
CAPTION = 600
"""Most characters of a caption that are told."""


class Judgement(BaseModel):
    """What the model answers: its reason first, so that the verdict follows from it."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    verdict: Literal["ok", "unreasonable", "human_centric", "unsafe", "ambiguous", "not_visible"]


class LLMScreener:
    """Engine "llm": one question for each instruction, one verdict each."""

    name: str = "llm"
    version: ClassVar[int] = 1

    class Settings(stage.Settings):
        """The defaults for sampling are those that Qwen3's model cards give for thinking."""

        server: ServerName = Field(description="Entry of `models:` that answers.")
        image: bool = Field(False, description="Show the photograph, its target framed; for vision-language models.")
        image_side: int = Field(768, ge=64, description="Longer side of the photograph as it is sent, pixels.")
        thinking: bool | None = Field(
            True,
            description="Have a hybrid model think first, or not; null says nothing of it. For its thinking to be kept "
            "apart from the answer, vLLM is started with --reasoning-parser.",
        )
        thinking_tokens: int | None = Field(
            None, ge=1, description="Where thinking is broken off, for vLLM with a reasoning parser; null lets it end."
        )
        temperature: float | None = Field(0.6, ge=0, le=2, description="Of sampling; null leaves it to the server.")
        top_p: float | None = Field(0.95, gt=0, le=1, description="Of sampling; null leaves it to the server.")
        top_k: int | None = Field(20, ge=1, description="Of sampling; null leaves it out, for servers without it.")
        max_tokens: int = Field(4096, ge=64, description="Longest answer, in tokens, with what the model thinks first.")
        prompts: Prompts = Field(
            {}, description="Other prompts: a folder of .md files, or texts by name; null or {} takes those of ugaf."
        )

    @classmethod
    def needs(cls, settings: LLMScreener.Settings) -> Needs:  # noqa: ARG003
        return replace(chat_needs(), reads=("target",), optional_reads=("caption",))

    def __init__(self, settings: LLMScreener.Settings, servers: Servers) -> None:
        self.settings = settings
        self.chat: Chat = open_chat(servers[settings.server])
        self.name = f"llm:{self.chat.model}"
        self.texts = prompts.texts(FOLDER, settings.prompts)

    def screen(self, edits: Iterable[Edit]) -> list[Ruling | Failure]:
        answers = asking.ask_all(self.chat, edits, self._questions)
        return [answer if isinstance(answer, Failure) else _ruling(answer) for answer in answers]

    def _questions(self, edit: Edit) -> Iterator[Question]:
        yield Question("screening", self._request(edit))

    def _request(self, edit: Edit) -> ChatRequest:
        options = self.settings
        values = {"instruction": prompts.quoted(edit.instruction, "instruction"), "facts": facts(edit)}
        parts: tuple[str | Picture, ...] = (prompts.fill(self.texts["words"], values),)
        if options.image:
            shown = Picture(framed(edit, options.image_side), options.image_side)
            parts = (shown, prompts.fill(self.texts["picture"], values))
        system = Message("system", (prompts.fill(self.texts["system"], {}),))
        sampling = Sampling(options.temperature, options.top_p, options.top_k, options.max_tokens, seed_of(edit.row.id))
        extra = asking.thinking_switch(options.thinking)
        if options.thinking_tokens is not None:
            extra["thinking_token_budget"] = options.thinking_tokens
        return ChatRequest((system, Message("user", parts)), Judgement, sampling, extra=extra)


def facts(edit: Edit) -> str:
    """What is known of the photograph and of the edit's targets, line by line."""
    width, height = edit.size
    lines = [f"Photograph: {width} x {height} pixels."]
    if caption := (edit.row.get("caption") or "").strip():
        told = prompts.quoted(caption, "caption", CAPTION)
        lines.append(f"Caption that came with the photograph, which may be wrong: {told}")
    lines.append(f"Kind of edit: {edit.task}.")
    if edit.params is not None and tasks.of(edit.task).inverted:
        lines.append("What is said here of the photograph is how it looks after the edit; before it, it did not.")
    if target := (edit.row["target"] or "").strip():
        lines.append(f"Target, as its writer calls it: {prompts.quoted(target, 'target')}")
    lines += [f"Box {number}: {_told(edit, box)}" for number, box in enumerate(edit.boxes, start=1)]
    if not edit.boxes:
        lines.append("No box: the edit is not confined to a region.")
    return "\n".join(lines)


def _told(edit: Edit, box: tuple[int, int, int, int]) -> str:
    label = next((thing.get("label") for thing in edit.objects if tuple(thing["box"]) == box), None)
    what = f"{prompts.quoted(label, 'label')} (the detector's word)" if label else "no word from the detector"
    place = Place.of(box, *edit.size)
    x1, y1, x2, y2 = box
    told = [f"x {x1} to {x2}, y {y1} to {y2}", where(place), f"{place.area:.1%} of the photograph"]
    return f"{what}; {', '.join(part for part in told if part)}."


def framed(edit: Edit, side: int) -> np.ndarray:
    """The photograph, RGB uint8, its longer side at most `side`, with a frame around each box."""
    owner = edit.row.parent or edit.row
    photo = images.decode(owner["image"], side)
    size = photo.shape[1], photo.shape[0]
    for box in edit.boxes:
        photo = marks.draw_box(photo, marks.scaled(box, edit.size, size))
    return photo


def _ruling(answers: Mapping[str, Answer]) -> Ruling:
    answer = next(iter(answers.values()))
    said: Judgement = answer.value
    return Ruling(said.verdict, said.reason, answer.tokens_in, answer.tokens_out, answer.thinking or None)
