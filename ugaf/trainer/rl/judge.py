"""The judge: a vision-language model on any OpenAI-compatible server scores the parts of an edit.

For the region both pictures are shown with everything outside the boxes painted over, for the background with the boxes
painted over, and for the whole (the ablation) as they are. A rating of 1..5 becomes 0..1. Where the server gives
log-probabilities it is the expectation over the rating tokens after the reasoning, and with several passes the mean of
those (FireRed-Image-Edit, arXiv 2602.13344, equation 4).

An answer that cannot be read is asked again with another seed, as the server's entry says, and is then a Failure of the
edit. Nothing is scored that was not said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ugaf.base.errors import ConfigError
from ugaf.base.needs import install_hint
from ugaf.models.chat import Answer, ChatRequest, Message, Picture, Sampling, chat_needs, open_chat
from ugaf.models.chat.ratings import expected_rating
from ugaf.models.chat.schemas import line
from ugaf.models.judging import asking
from ugaf.models.judging.asking import Question
from ugaf.models.judging.pairs import seed_of
from ugaf.models.servers import ServerLink
from ugaf.stage import Failure, prompts
from ugaf.trainer.rl.rewards import Case, Part, Scores, only
from ugaf.trainer.rl.settings import RewardSettings

LOW, HIGH = 1, 5
TOP_LOGPROBS = 10
"""Alternatives asked for at each token: the five ratings and their spellings with a space."""

if TYPE_CHECKING:
    Reasoning = str
else:
    Reasoning = line(1000)


class Judgement(BaseModel):
    """What the model answers: the reasoning first, so that the rating follows from it."""

    model_config = ConfigDict(extra="forbid")

    reasoning: Reasoning
    rating: Annotated[int, Field(ge=LOW, le=HIGH)]


class Judge:
    """Asks a served model. The connection is opened with the first question.

    Raises ConfigError where the client's package is not installed.
    """

    def __init__(self, settings: RewardSettings) -> None:
        if lacking := chat_needs().missing():
            raise ConfigError(f"reward.scorer: judge: {install_hint(lacking)}")
        if settings.server is None:
            raise ConfigError("reward.server: not set, and a judge needs it")
        self.settings = settings
        self.link = ServerLink("judge", settings.server, tuple(settings.server.endpoints))
        folder = files("ugaf.trainer.rl") / "prompts"
        names: tuple[Part, ...] = ("region", "background", "whole")
        self.texts = {name: (folder / f"{name}.md").read_text(encoding="utf-8") for name in names}

    def score(self, case: Case, parts: Sequence[Part]) -> list[Scores | Failure]:
        """Of each output; a Failure names the questions without an answer. Raises StopRun if the server is gone."""

        def questions(member: int) -> Iterator[Question]:
            for part in parts:
                for number in range(self.settings.passes):
                    yield Question(_label(part, number), self._request(case, member, part, number))

        answers = asking.ask_all(open_chat(self.link), range(len(case.outputs)), questions)
        return [found if isinstance(found, Failure) else self._scores(found, parts) for found in answers]

    def _scores(self, answers: dict[str, Answer], parts: Sequence[Part]) -> Scores:
        passes = range(self.settings.passes)
        return {part: fmean(_rated(answers[_label(part, number)]) for number in passes) for part in parts}

    def _request(self, case: Case, member: int, part: Part, number: int) -> ChatRequest:
        settings = self.settings
        before, after = (Picture(image, settings.image_side) for image in _shown(case, member, part))
        text = prompts.fill(self.texts[part], {"instruction": prompts.quoted(case.instruction, "instruction")})
        sampling = Sampling(
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=seed_of(f"{case.seeds[member]}", _label(part, number)),
            top_logprobs=TOP_LOGPROBS,
        )
        said: tuple[Any, ...] = ("Picture 1, before the edit:", before, "Picture 2, after the edit:", after, text)
        extra = asking.thinking_switch(settings.thinking)
        return ChatRequest((Message("user", said),), Judgement, sampling, extra=extra)


def _shown(case: Case, member: int, part: Part) -> tuple[np.ndarray, np.ndarray]:
    pair = case.source, case.outputs[member]
    if part == "whole":
        return pair
    mask = case.roi_mask if part == "region" else case.background_mask
    return only(pair[0], mask), only(pair[1], mask)


def _rated(answer: Answer) -> float:
    """0..1 of the expected rating, or of the one that was said."""
    expected = expected_rating(answer, "rating", LOW, HIGH)
    rating = answer.value.rating if expected is None else expected
    return float((rating - LOW) / (HIGH - LOW))


def _label(part: Part, number: int) -> str:
    return f"{part}, pass {number + 1}"
