"""The judge: a vision-language model on any OpenAI-compatible server, through `ugaf.models.chat`.

An answer is JSON with a reasoning and whole-number scores of a fixed range and count. What does not fit is asked again
with another seed (the server entry's `answer_tries`), and is then a failure of the item: it is counted, never scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ugaf.base.errors import ConfigError, nearest
from ugaf.base.needs import install_hint
from ugaf.models.chat import Answer, ChatRequest, Message, Picture, Sampling, chat_needs, open_chat
from ugaf.models.chat.schemas import line
from ugaf.models.judging import asking
from ugaf.models.judging.asking import Question
from ugaf.models.judging.pairs import seed_of
from ugaf.models.servers import ServerLink
from ugaf.stage import Failure, prompts

if TYPE_CHECKING:
    Reasoning = str
else:
    Reasoning = line(2000)

TEMPERATURE = 0.2
"""Not 0: a further try at an answer that could not be read has to be able to differ."""

SIDE = 1024
"""Longer side in pixels of the pictures sent."""

T = TypeVar("T")
FiveScore = Annotated[int, Field(ge=1, le=5)]
TenScore = Annotated[int, Field(ge=0, le=10)]


class OneOfFive(BaseModel):
    """One score of 1 to 5."""

    model_config = ConfigDict(extra="forbid")

    reasoning: Reasoning
    scores: list[FiveScore] = Field(min_length=1, max_length=1)


class ThreeOfFive(BaseModel):
    """Three scores of 1 to 5."""

    model_config = ConfigDict(extra="forbid")

    reasoning: Reasoning
    scores: list[FiveScore] = Field(min_length=3, max_length=3)


class TwoOfTen(BaseModel):
    """Two scores of 0 to 10."""

    model_config = ConfigDict(extra="forbid")

    reasoning: Reasoning
    scores: list[TenScore] = Field(min_length=2, max_length=2)


class Judge:
    """Asks a served model. The connection is opened with the first question.

    identity: what its scores depend on: the model, how it is asked, the texts. Raises ConfigError without `openai`.
    """

    def __init__(self, link: ServerLink, max_tokens: int, folder: str | None) -> None:
        if lacking := chat_needs().missing():
            raise ConfigError(f"--judge: {install_hint(lacking)}")
        self.texts = texts_of(folder)
        self.name = link.settings.answers
        self.identity: dict[str, Any] = {
            **link.settings.identity(),
            "prompts": hashlib.sha256(repr((prompts.QUOTING, sorted(self.texts.items()))).encode()).hexdigest()[:16],
            "max_tokens": max_tokens,
            "temperature": TEMPERATURE,
            "image_side": SIDE,
        }
        self._link = link
        self._max_tokens = max_tokens

    def question(
        self,
        label: str,
        schema: type[BaseModel],
        pictures: Iterable[np.ndarray],
        prompt: str,
        values: Mapping[str, str],
    ) -> Question:
        """A question: pictures (RGB uint8) in order, then the prompt of that name with its fields filled in."""
        shown = [Picture(pixels, SIDE) for pixels in pictures]
        named = [f"Picture {number}:" for number in range(1, len(shown) + 1)] if len(shown) > 1 else ["The picture:"]
        parts = [part for pair in zip(named, shown, strict=True) for part in pair]
        text = prompts.fill(self.texts[prompt], values)
        sampling = Sampling(TEMPERATURE, max_tokens=self._max_tokens, seed=seed_of(text, label))
        return Question(label, ChatRequest((Message("user", (*parts, text)),), schema, sampling))

    def ask(
        self, items: Iterable[T], questions: Callable[[T], Iterator[Question]]
    ) -> list[dict[str, Answer] | Failure]:
        """See `ugaf.models.judging.asking.ask_all`. Raises StopRun if the server is gone."""
        return asking.ask_all(open_chat(self._link), items, questions)


def texts_of(folder: str | None) -> dict[str, str]:
    """The shipped prompts by name, with those that a folder replaces. Raises ConfigError naming the file."""
    shipped = {
        Path(file.name).stem: file.read_text(encoding="utf-8")
        for file in (files("ugaf.bench") / "prompts").iterdir()
        if file.name.endswith(".md")
    }
    if folder is None:
        return shipped
    found = sorted(Path(folder).expanduser().glob("*.md"))
    if not found:
        raise ConfigError(f"--prompts: no .md file in {folder}; the prompts are {', '.join(sorted(shipped))}")
    own = {file.stem: file.read_text(encoding="utf-8") for file in found}
    for name, text in own.items():
        if name not in shipped:
            raise ConfigError(f"--prompts: {name}.md replaces no prompt{nearest(name, shipped)}")
        if unknown := prompts.fields(text) - prompts.fields(shipped[name]):
            known = ", ".join(sorted(prompts.fields(shipped[name]))) or "no fields"
            raise ConfigError(f"--prompts: {name}.md: {{{min(unknown)}}} cannot be filled in; there are {known}")
    return {**shipped, **own}
