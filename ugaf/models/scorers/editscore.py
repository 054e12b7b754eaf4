"""EditScore (VectorSpaceLab/EditScore): the quality of an edit by a vision-language model, in VIEScore's manner.

Two questions a pass. SC, semantic consistency: both images and the instruction, rated for the edit's success and for
leaving the rest alone. PQ, perceptual quality: the edited image alone, rated for naturalness and for being free of
artifacts. Each rating is an integer 0..25 after a reasoning.

    SC = min(pair) / 2.5    PQ = min(pair) / 2.5    O = sqrt(SC PQ)    each 0..10

Sampling is warm, so K passes with different seeds are made and O is averaged (the paper's avg@K). What cannot be read
is asked again, and then fails its row; it never becomes a score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ugaf import stage
from ugaf.base.needs import Needs
from ugaf.models.chat import Answer, ChatRequest, Message, Picture, Sampling, chat_needs, open_chat
from ugaf.models.chat.schemas import line
from ugaf.models.judging import asking
from ugaf.models.judging.asking import Question
from ugaf.models.judging.pairs import seed_of
from ugaf.models.scorers.interface import Pair, Scores
from ugaf.models.servers import Servers
from ugaf.stage import Failure, RowError, prompts
from ugaf.stage.engines import ServerName

if TYPE_CHECKING:
    Reasoning = str
else:
    Reasoning = line(1000)

RANGE = 25
"""Ratings are 0..25: the finer scale that the checkpoints were trained on (VIEScore's own is 0..10)."""

SC, PQ = "semantic consistency", "perceptual quality"

FOLDER = "refinement/score"
Prompts = Annotated[dict[str, str], prompts.PromptsOf(FOLDER)]


class Ratings(BaseModel):
    """The answer to either question, in the form that the checkpoints know: the reasoning, then two ratings."""

    model_config = ConfigDict(extra="forbid")

    reasoning: Reasoning
    score: list[Annotated[int, Field(ge=0, le=RANGE)]] = Field(min_length=2, max_length=2)

    def lowest(self) -> float:
        """The lower of the two ratings, 0..10."""
        return min(self.score) * 10 / RANGE


class EditScorer:
    """Engine "editscore": `quality` is the mean of O over the passes, 0..10; see the module for the formula.

    Beside it: semantic_consistency and perceptual_quality (means of SC and PQ), quality_spread (sample standard
    deviation of O over the passes, None for one pass), quality_reason (of the pass with the lowest O).
    """

    name: str = "editscore"
    version: ClassVar[int] = 1

    class Settings(stage.Settings):
        """`server` names an entry of `models:` that serves an EditScore checkpoint, or any VLM as a judge.

        The checkpoints are LoRAs on Qwen2.5-VL (7B, 32B, 72B) or Qwen3-VL (4B, 8B). Either merge one into its base
        (peft's `merge_and_unload`, as its authors do) and serve the result like any model, or let vLLM apply it:
        `{model: BASE, lora: THE_LORA, serve: vllm, args: {max-lora-rank: 64}}` in `models:`.

        The prompts are ours. A checkpoint that answers better to those it was trained with takes them by `prompts`.
        """

        server: ServerName = Field(description="which entry of `models:` scores the pairs")
        passes: int = Field(
            4, ge=1, le=64, description="times a pair is scored, each with other seeds; two requests each"
        )
        temperature: float | None = Field(0.7, ge=0, description="of sampling; null leaves it to the server")
        top_p: float | None = Field(0.9, gt=0, le=1, description="of sampling; null leaves it to the server")
        top_k: int | None = Field(20, ge=1, description="of sampling; null leaves it out, for servers without it")
        max_tokens: int = Field(512, ge=64, description="longest answer, thinking included")
        thinking: bool | None = Field(None, description="ask a hybrid model to think, or not to; null leaves it out")
        image_side: int = Field(1024, ge=64, description="longer side in pixels of the images sent, at most `side`")
        prompts: Prompts = Field({}, description="texts (or a folder of files) that replace shipped prompts")

    @classmethod
    def needs(cls, settings: EditScorer.Settings) -> Needs:  # noqa: ARG003
        return chat_needs()

    def __init__(self, settings: EditScorer.Settings, servers: Servers) -> None:
        self.settings = settings
        self.chat = open_chat(servers[settings.server])
        self.name = f"editscore:{self.chat.model}"
        self.texts = prompts.texts(FOLDER, settings.prompts)

    def score(self, pairs: Iterable[Pair]) -> list[Scores | Failure]:
        results = asking.ask_all(self.chat, pairs, self._questions)
        return [result if isinstance(result, Failure) else combined(result) for result in results]

    def _questions(self, pair: Pair) -> Iterator[Question]:
        if not pair.instruction.strip():
            raise RowError("no instruction: EditScore judges an edit against what was asked for")
        source, edited = (Picture(image, self.settings.image_side) for image in (pair.source, pair.edited))
        consistency = (
            *("Picture 1, before the edit:", source, "Picture 2, after the edit:", edited),
            prompts.fill(self.texts["consistency"], {"instruction": prompts.quoted(pair.instruction, "instruction")}),
        )
        perceptual = (edited, prompts.fill(self.texts["perceptual"], {}))
        for number in range(1, self.settings.passes + 1):
            for name, parts in ((SC, consistency), (PQ, perceptual)):
                label = f"{name}, pass {number}"
                yield Question(label, self._request(parts, seed_of(f"{pair.seed}", label)))

    def _request(self, parts: tuple[str | Picture, ...], seed: int) -> ChatRequest:
        options = self.settings
        sampling = Sampling(options.temperature, options.top_p, options.top_k, options.max_tokens, seed)
        return ChatRequest((Message("user", parts),), Ratings, sampling, extra=asking.thinking_switch(options.thinking))


def combined(answers: Mapping[str, Answer]) -> Scores:
    """The scores that a pair's answers (label -> Answer with Ratings) make."""
    consistency = [answer.value for label, answer in answers.items() if label.startswith(SC)]
    perceptual = [answer.value for label, answer in answers.items() if label.startswith(PQ)]
    overall = [math.sqrt(sc.lowest() * pq.lowest()) for sc, pq in zip(consistency, perceptual, strict=True)]
    lowest = overall.index(min(overall))
    tokens_in, tokens_out = asking.tokens(answers)
    return {
        "quality": fmean(overall),
        "semantic_consistency": fmean(ratings.lowest() for ratings in consistency),
        "perceptual_quality": fmean(ratings.lowest() for ratings in perceptual),
        "quality_spread": stdev(overall) if len(overall) > 1 else None,
        "quality_reason": f"{SC}: {consistency[lowest].reasoning} {PQ}: {perceptual[lowest].reasoning}",
        "scorer_tokens_in": tokens_in,
        "scorer_tokens_out": tokens_out,
        "scorer_thinking": asking.thinking(answers),
    }
