"""A vision-language model writes the instructions from the photograph with a box drawn on it, and the box's crop.

FineEdit (section 4.1, "Data Annotation") has InternVL3-38B write fine-grained instructions from the box-annotated
image. Here each request is about one task and one marked object (two for `hybrid`, a free region for `add`), and asks
for a few instructions that differ in what they ask for. The model first says what it sees and whether the edit makes
sense at all; one that does not is declined, and nothing is made up in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import Field

from ugaf.base.failure import Failure, attempt
from ugaf.base.needs import Needs
from ugaf.imaging import images, marks
from ugaf.models.chat import Answer, Chat, ChatRequest, Message, Picture, Sampling, chat_needs, open_chat
from ugaf.models.writers import vlm_answers
from ugaf.stage import Settings, prompts
from ugaf.stage.engines import ServerName
from ugaf.wording.composing import Assignment, Brief, Composed, Composition
from ugaf.wording.layout import Layout, Target, where
from ugaf.wording.places import Place

FOLDER = "annotation/instruct"
"""Of the prompts: `system`, `chinese` (added where Chinese is asked for), and one named for each task."""
Prompts = Annotated[dict[str, str], prompts.PromptsOf(FOLDER)]
MARGIN = 0.25
"""Surroundings shown in a crop, as a share of the box's longer side, on each side."""
COLOURS = (("red", marks.RED), ("blue", marks.BLUE))
CAPTION, OTHERS = 600, 12
"""Most characters of a caption, and most of the other objects, that a request tells."""


class VLMWriter:
    """A Composer on a Chat. See the module's docstring."""

    name = "vlm"
    version = 1

    class Settings(Settings):
        server: ServerName = Field(description="Entry of `models:` that answers: a vision-language model.")
        instructions_per_request: int = Field(
            2, ge=1, le=8, description="Different instructions asked for about one task and object at once."
        )
        chinese: bool = Field(False, description="Ask for every instruction in Chinese too.")
        temperature: float = Field(0.8, ge=0, le=2, description="Temperature; above 0 for instructions that vary.")
        top_p: float | None = Field(
            0.95, gt=0, le=1, description="Nucleus of the sampling; null leaves it to the server."
        )
        top_k: int | None = Field(None, ge=1, description="Likeliest tokens drawn from; null leaves it to the server.")
        max_tokens: int = Field(1024, ge=64, description="Longest answer, in tokens, with what a model thinks first.")
        thinking: bool | None = Field(
            None,
            description="Switch a model's thinking on or off where its chat template can; null says nothing of it.",
        )
        image_side: int = Field(1024, ge=64, description="Longer side of the photograph as it is sent, pixels.")
        crop_side: int = Field(512, ge=32, description="Longer side of a marked object's crop as it is sent, pixels.")
        prompts: Prompts = Field(
            {}, description="Other prompts: a folder of .md files, or texts by name; null or {} takes those of ugaf."
        )

    @classmethod
    def needs(cls, settings: Settings) -> Needs:  # noqa: ARG003
        return replace(chat_needs(), optional_reads=("caption",))

    def __init__(self, settings: Settings, servers: Mapping[str, Any]) -> None:
        self.settings = settings
        self.chat: Chat = open_chat(servers[settings.server])
        self.texts = prompts.texts(FOLDER, settings.prompts)

    @property
    def writer(self) -> str:
        """As it is written into rows: "vlm:MODEL"."""
        return f"{self.name}:{self.chat.model}"

    @property
    def instructions_per_request(self) -> int:
        return self.settings.instructions_per_request

    def compose(self, assignments: Sequence[Assignment]) -> list[list[Composed | Failure]]:
        """One `ask` for all of them: a photograph is opened when its requests are about to be sent, and let go then."""
        composed: list[list[Composed | Failure]] = [[] for _ in assignments]
        asked: list[int] = []

        def requests() -> Iterator[ChatRequest]:
            for number, assignment in enumerate(assignments):
                pictures = attempt(self._pictures, assignment)
                if isinstance(pictures, Failure):
                    composed[number] = [pictures] * len(assignment.briefs)
                    continue
                small, crops = pictures
                del pictures
                for brief in assignment.briefs:
                    asked.append(number)
                    yield self._request(assignment, brief, small, crops.pop(0))

        for number, answer in zip(asked, self.chat.ask(requests()), strict=True):
            composed[number].append(answer if isinstance(answer, Failure) else _composed(answer))
        return composed

    def _pictures(self, assignment: Assignment) -> tuple[np.ndarray, list[list[np.ndarray]]]:
        """The photograph as it is sent, and the crops of each brief."""
        photo = images.decode(assignment.image)
        crops = [self._crops(brief, assignment.layout, photo) for brief in assignment.briefs]
        return _reduced(photo, self.settings.image_side), crops

    def _crops(self, brief: Brief, layout: Layout, photo: np.ndarray) -> list[np.ndarray]:
        """What each marked box shows, from the photograph at its full size."""
        shown = []
        for box in brief.plan.marked:
            own = marks.scaled(box, layout.size, (photo.shape[1], photo.shape[0]))
            shown.append(_reduced(marks.crop_with_margin(photo, own, MARGIN)[0], self.settings.crop_side))
        return shown

    def _request(
        self, assignment: Assignment, brief: Brief, small: np.ndarray, crops: Sequence[np.ndarray]
    ) -> ChatRequest:
        plan, settings, layout = brief.plan, self.settings, assignment.layout
        drawn = small
        for box, (_, colour) in zip(plan.marked, COLOURS, strict=False):
            drawn = marks.draw_box(drawn, marks.scaled(box, layout.size, (small.shape[1], small.shape[0])), colour)
        parts: list[str | Picture] = ["The photograph:", Picture(drawn, settings.image_side)]
        for (name, _), crop in zip(COLOURS, crops, strict=False):
            parts += [f"Close view of what the {name} frame marks:", Picture(crop, settings.crop_side)]
        values = {
            "metadata": metadata(assignment, brief),
            "count": len(brief.registers),
            "registers": ", ".join(brief.registers),
        }
        text = prompts.fill(self.texts[plan.task], values)
        if settings.chinese:
            text += "\n\n" + prompts.fill(self.texts["chinese"], {})
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, settings.max_tokens, brief.seed)
        extra = {} if settings.thinking is None else {"chat_template_kwargs": {"enable_thinking": settings.thinking}}
        system = Message("system", (prompts.fill(self.texts["system"], {}),))
        labels = tuple(target.label for target in layout.objects)
        return ChatRequest(
            messages=(system, Message("user", (*parts, text))),
            schema=vlm_answers.schema(plan.task, len(brief.registers), settings.chinese),
            sampling=sampling,
            check=functools.partial(vlm_answers.check, labels=labels),
            extra=extra,
        )


def metadata(assignment: Assignment, brief: Brief) -> str:
    """What is known of the photograph and of what is marked in it, line by line."""
    layout, plan = assignment.layout, brief.plan
    width, height = layout.size
    lines = [f"Photograph: {width} x {height} pixels."]
    if assignment.caption:
        caption = prompts.quoted(assignment.caption, "caption", CAPTION)
        lines.append(f"Caption that came with it, which may be wrong: {caption}")
    for number, box in enumerate(plan.marked):
        what = _label(plan.targets[number]) if plan.targets else "a place for something new"
        place = Place.of(box, width, height)
        x1, y1, x2, y2 = box
        told = [f"x {x1} to {x2}, y {y1} to {y2} of these pixels", where(place), f"{place.area:.0%} of the photograph"]
        lines.append(f"In the {COLOURS[number][0]} frame: {what}; {', '.join(part for part in told if part)}.")
    others = [other for other in layout.objects if other not in plan.targets and other.label]
    if others:
        named = ", ".join(f"{other.label} {where(other.place)}".strip() for other in others[:OTHERS])
        lines.append(f"Also found in it by the detector: {prompts.quoted(named, 'labels')}.")
    return "\n".join(lines)


def _label(target: Target) -> str:
    if not target.label:
        return "something that the detector has no word for"
    return f"{prompts.quoted(target.label, 'label')} (the detector's word)"


def _composed(answer: Answer) -> Composed:
    value: Any = answer.value
    edits = tuple(
        Composition(edit.instruction, getattr(edit, "instruction_cn", None), edit.target)
        for edit in (value.edits if value.feasible else ())
    )
    declined = "" if edits else value.why
    return Composed(edits, declined, answer.tokens_in, answer.tokens_out, answer.thinking)


def _reduced(photo: np.ndarray, side: int) -> np.ndarray:
    size = images.fit(photo.shape[1], photo.shape[0], side)
    if size == (photo.shape[1], photo.shape[0]):
        return photo
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
