"""A vision-language model that grounds: it is asked for the objects of a photograph, and answers with labelled boxes.

Models differ in how they write a box: Qwen3-VL and InternVL3 in thousandths of the picture (`relative_1000`), and
Qwen2.5-VL in pixels of the picture as it sees it (`absolute`). A box that is inverted, empty or outside of the picture
is a malformed answer: the model is asked again, and then the row fails. A score is not to be had from it, and none is
made up: `score` is null, and the stage's `min_score` does not apply.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from ugaf.base.failure import through
from ugaf.base.needs import Needs, together
from ugaf.imaging import images
from ugaf.models.chat import ChatRequest, Message, Picture, Sampling, chat_needs, open_chat
from ugaf.models.chat.schemas import line
from ugaf.models.detectors.common import VocabularySettings
from ugaf.models.detectors.interface import Detection, DetectQuery, pixel_box
from ugaf.models.judging.asking import thinking_switch
from ugaf.models.judging.pairs import seed_of
from ugaf.stage import Failure, prompts
from ugaf.stage.engines import ServerName

FOLDER = "annotation/detect"
Prompts = Annotated[dict[str, str], prompts.PromptsOf(FOLDER)]
PATCH = 28
"""Qwen2.5-VL sees pictures whose sides are multiples of this many pixels, and counts pixels there."""
RELATIVE = 1000
LABEL_CHARACTERS = 60
CAPTION = 600
"""Characters of a caption that are told."""


class VLMDetector:
    """Implements `detectors.interface.Detector`. Detections come in the model's order, the most prominent first."""

    name = "vlm"
    version = 2

    class Settings(VocabularySettings):
        """Options of the engine `vlm`."""

        server: ServerName = Field(min_length=1, description="The entry of `models:` that is asked.")
        coordinates: Literal["relative_1000", "absolute"] = Field(
            "relative_1000",
            description="How the model writes boxes: thousandths of the picture (Qwen3-VL, InternVL3), or its pixels "
            "(Qwen2.5-VL).",
        )
        image_side: int = Field(
            1024, ge=PATCH, le=8192, description="Longer side in pixels of the picture that is sent."
        )
        max_boxes: int = Field(20, ge=1, le=100, description="At most this many boxes an image.")
        temperature: float | None = Field(0.2, ge=0, le=2, description="Sampling temperature; null: the server's own.")
        top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling; null: the server's own.")
        top_k: int | None = Field(None, ge=1, description="Top-k sampling; null: the server's own.")
        max_tokens: int = Field(2048, ge=64, description="Longest answer in tokens.")
        thinking: bool | None = Field(None, description="Ask a hybrid model to think, or not to; null leaves it out.")
        prompts: Prompts = Field({}, description="Prompts in place of those that ship: a folder, or texts by name.")

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return together([chat_needs(), Needs(reads=settings.columns, optional_reads=("caption",))])

    def __init__(self, settings: Settings, servers: Mapping[str, Any]) -> None:
        self.settings = settings
        self._chat = open_chat(servers[settings.server])
        self._texts = prompts.texts(FOLDER, settings.prompts)

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        """For each photograph: the objects that the model names; all photographs are asked about at once."""
        answers = through(self._request, queries, self._chat.ask)
        return [
            answer if isinstance(answer, Failure) else self._read(answer.value, query)
            for query, answer in zip(queries, answers, strict=True)
        ]

    def _request(self, query: DetectQuery) -> ChatRequest:
        settings, photo = self.settings, query.photo()
        vocabulary = settings.phrases_for(query) if settings.told else ()
        width, height = self._extent(query)
        if settings.coordinates == "absolute":
            size = (width, height)
            shrinks = width * height < photo.shape[0] * photo.shape[1]
            photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
            picture = Picture(photo, side=None)
        else:
            picture = Picture(photo, side=settings.image_side)
        return ChatRequest(
            messages=(Message("user", (picture, self._prompt(query, vocabulary, width, height))),),
            schema=answer_model(max(width, height), settings.max_boxes, vocabulary),
            sampling=Sampling(
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                max_tokens=settings.max_tokens,
                seed=seed_of(query.id),
            ),
            check=functools.partial(check, width=width, height=height),
            extra=thinking_switch(settings.thinking),
        )

    def _extent(self, query: DetectQuery) -> tuple[int, int]:
        """The width and height that coordinates refer to."""
        if self.settings.coordinates == "relative_1000":
            return RELATIVE, RELATIVE
        width, height = images.fit(*query.size, self.settings.image_side)
        return max(PATCH, round(width / PATCH) * PATCH), max(PATCH, round(height / PATCH) * PATCH)

    def _prompt(self, query: DetectQuery, vocabulary: Sequence[str], width: int, height: int) -> str:
        named = {"width": width, "height": height}
        words = ", ".join(vocabulary)
        which = "relative" if self.settings.coordinates == "relative_1000" else "absolute"
        values = {
            "limit": self.settings.max_boxes,
            # Words of a column are data, those of the settings are not.
            "vocabulary": prompts.quoted(words, "words") if query.vocabulary else words,
            "coordinates": prompts.fill(self._texts[which], named),
            "caption": self._caption(query.caption) if query.caption else "",
        }
        return prompts.fill(self._texts["vocabulary" if vocabulary else "objects"], values)

    def _caption(self, caption: str) -> str:
        return prompts.fill(self._texts["caption"], {"text": prompts.quoted(caption, "caption", CAPTION)})

    def _read(self, answer: Any, query: DetectQuery) -> list[Detection]:
        """The answer's boxes in pixels of the photograph; the same box with the same label once."""
        (width, height), extent = query.size, self._extent(query)
        scale = (width / extent[0], height / extent[1]) * 2
        found: dict[tuple[str, tuple[int, ...]], Detection] = {}
        for thing in answer.objects:
            box = pixel_box(np.multiply(thing.box, scale).tolist(), width, height)
            # Less than a pixel: nothing that an edit could use.
            if box is not None:
                found.setdefault((thing.label, box), Detection(box, thing.label, None, None))
        return list(found.values())


@functools.lru_cache(maxsize=1024)
def answer_model(largest: int, limit: int, vocabulary: tuple[str, ...] = ()) -> type[BaseModel]:
    """The shape of an answer: at most `limit` objects, coordinates 0..largest, labels of the vocabulary if given."""
    label: Any = Literal[vocabulary] if vocabulary else line(LABEL_CHARACTERS)
    number = Annotated[int, Field(ge=0, le=largest)]
    box = Annotated[list[number], Field(min_length=4, max_length=4)]  # type: ignore[valid-type]
    closed = ConfigDict(extra="forbid")
    thing = create_model("Thing", __config__=closed, label=(label, ...), box=(box, ...))
    things = Annotated[list[thing], Field(max_length=limit)]  # type: ignore[valid-type]
    return create_model("Things", __config__=closed, objects=(things, ...))


def check(answer: Any, width: int, height: int) -> None:
    """Raises ValueError for a box that is inverted, empty, or outside of a picture of this extent."""
    for thing in answer.objects:
        x1, y1, x2, y2 = thing.box
        if x1 >= x2 or y1 >= y2:
            raise ValueError(f"the box {thing.box} of {thing.label!r} is empty or inverted")
        if x2 > width or y2 > height:
            raise ValueError(f"the box {thing.box} of {thing.label!r} is outside of a picture of {width} x {height}")
