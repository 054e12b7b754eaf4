"""Engine "vlm": a pair is verified by a vision-language model, as FineEdit does, in two requests or more for each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, ClassVar

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ugaf import stage
from ugaf.base.failure import Failure, RowError
from ugaf.base.needs import Needs
from ugaf.imaging import boxes, marks
from ugaf.imaging.boxes import Box
from ugaf.measures.verification import Verdict, worst
from ugaf.models.chat import Answer, ChatRequest, Message, Picture, Sampling, chat_needs, open_chat
from ugaf.models.chat.ratings import expected_rating
from ugaf.models.chat.schemas import line
from ugaf.models.judging import asking
from ugaf.models.judging.asking import Question
from ugaf.models.judging.pairs import seed_of
from ugaf.models.servers import Servers
from ugaf.models.verifiers.interface import Case, Ratings, Verification
from ugaf.stage import prompts
from ugaf.stage.engines import ServerName

if TYPE_CHECKING:
    Reason = str
else:
    Reason = line(240)

FOLDER = "refinement/verify"
Prompts = Annotated[dict[str, str], prompts.PromptsOf(FOLDER)]

GLOBAL, LOCAL = "global pass", "local pass"

SCORES = ("prompt_compliance", "visual_naturalness", "physical_detail_integrity")
"""The named scores of each pass: PC, VN and PDI of FineEdit-1k. The first one caps the others."""

LOW, HIGH = 1, 5
TOP_LOGPROBS = 10
"""Alternatives asked for at each token: the five ratings and their spellings with a space. vLLM gives up to 20."""

MOST_ENLARGED = 4.0
LEAST_MARGIN = 32
"""Pixels shown around a target at least: of a smaller surround a model cannot tell what the thing is."""

Rating = Annotated[int, Field(ge=LOW, le=HIGH)]


class Judgement(BaseModel):
    """What the model answers in each pass: before each score its reason, so that the score follows from it."""

    model_config = ConfigDict(extra="forbid")

    compliance_reason: Reason
    prompt_compliance: Rating
    naturalness_reason: Reason
    visual_naturalness: Rating
    integrity_reason: Reason
    physical_detail_integrity: Rating

    def reasons(self) -> tuple[str, str, str]:
        return self.compliance_reason, self.naturalness_reason, self.integrity_reason


class VLMVerifier:
    """Engine "vlm": a served vision-language model judges each pair twice (FineEdit, section 4.1: Qwen3-VL-32B).

    Global pass: both images and the instruction. Local pass: both crops around a target box with a margin, the box
    framed; one request for each box, of which the worst counts, or one for all of them together where there are more
    than `max_crops`. Without a target box there is no local pass, and its score is None.

    Each pass gives three scores 1..5 (`SCORES`). Second and third are capped at the first: an edit that was not made is
    no better for looking clean (ImgEdit-Bench; enforced here, not left to the prompt). A score is the expectation over
    the rating's tokens where log-probabilities are had, else the integer. A pass's score is the mean of its three.
    """

    name: str = "vlm"
    version: ClassVar[int] = 1

    class Settings(stage.Settings):
        """`server` names an entry of the pipeline's `models:`; it must take two images a request."""

        server: ServerName = Field(description="which entry of `models:` judges the pairs")
        temperature: float | None = Field(0.2, ge=0, description="of sampling; null leaves it to the server")
        top_p: float | None = Field(None, gt=0, le=1, description="of sampling; null leaves it to the server")
        top_k: int | None = Field(None, ge=1, description="of sampling, for servers that know it; null leaves it out")
        max_tokens: int = Field(1024, ge=64, description="longest answer, thinking included")
        thinking: bool | None = Field(None, description="ask a hybrid model to think, or not to; null leaves it out")
        expectation: bool = Field(
            True, description="ask for log-probabilities and take the expectation over the rating tokens"
        )
        image_side: int = Field(1024, ge=64, le=1024, description="longer side in pixels of the whole images sent")
        crop_side: int = Field(768, ge=64, le=2048, description="longer side in pixels of the crops sent")
        margin: float = Field(
            0.25, ge=0, description="what a crop shows around its box on each side, as a share of the box's longer side"
        )
        max_crops: int = Field(4, ge=1, description="target boxes judged one by one; more are judged in one crop")
        prompts: Prompts = Field({}, description="texts (or a folder of files) that replace shipped prompts")

    @classmethod
    def needs(cls, settings: VLMVerifier.Settings) -> Needs:  # noqa: ARG003
        return replace(chat_needs(), reads=("instruction",))

    def __init__(self, settings: VLMVerifier.Settings, servers: Servers) -> None:
        self.settings = settings
        self.chat = open_chat(servers[settings.server])
        self.name = f"vlm:{self.chat.model}"
        self.texts = prompts.texts(FOLDER, settings.prompts)

    def verify(self, cases: Iterable[Case]) -> list[Verification | Failure]:
        results = asking.ask_all(self.chat, cases, self._questions)
        return [result if isinstance(result, Failure) else verified(result) for result in results]

    def _questions(self, case: Case) -> Iterator[Question]:
        pair = case.pair
        if not pair.instruction.strip():
            raise RowError("no instruction: a model can only verify an edit against what was asked for")
        whole = [Picture(image, self.settings.image_side) for image in (pair.source, pair.edited)]
        values = {"instruction": prompts.quoted(pair.instruction, "instruction")}
        yield Question(GLOBAL, self._request(whole, prompts.fill(self.texts["global"], values), pair.seed))
        for label, box, crops in self._crops(case):
            values["region"] = f" ({label})" if len(pair.boxes) > 1 else ""
            text = prompts.fill(self.texts["local"], values)
            seed = seed_of(f"{pair.seed}", f"{box}")
            yield Question(f"{LOCAL}, {label}" if label else LOCAL, self._request(crops, text, seed))

    def _crops(self, case: Case) -> Iterator[tuple[str, Box, list[Picture]]]:
        if not case.pair.boxes:
            return
        detail = case.detail()
        count = len(detail.boxes)
        regions = {f"region {n} of {count}": box for n, box in enumerate(detail.boxes, 1)}
        if count == 1:
            regions = {"": detail.boxes[0]}
        elif count > self.settings.max_crops:
            regions = {f"{count} regions in one frame": boxes.union(detail.boxes)}
        for label, box in regions.items():
            yield label, box, [self._crop(image, box) for image in (detail.source, detail.edited)]

    def _crop(self, image: np.ndarray, box: Box) -> Picture:
        pixels = close_up(image, box, self.settings.margin, self.settings.crop_side)
        return Picture(pixels, side=None)

    def _request(self, pictures: Sequence[Picture], text: str, seed: int) -> ChatRequest:
        before, after = pictures
        options = self.settings
        sampling = Sampling(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_tokens=options.max_tokens,
            seed=seed,
            top_logprobs=TOP_LOGPROBS if options.expectation else 0,
        )
        parts = ("Picture 1, before the edit:", before, "Picture 2, after the edit:", after, text)
        return ChatRequest(
            (Message("user", parts),), Judgement, sampling, extra=asking.thinking_switch(options.thinking)
        )


def close_up(image: np.ndarray, box: Box, margin: float, side: int) -> np.ndarray:
    """The crop around a box, the box framed: RGB uint8, its longer side `side` (at most enlarged by MOST_ENLARGED).

    margin: shown around the box on each side, as a share of its longer side; at least LEAST_MARGIN pixels.
    Raises RowError for a box that has no pixel in the image.
    """
    longer = max(box[2] - box[0], box[3] - box[1])
    try:
        crop, inner = marks.crop_with_margin(image, box, max(margin, LEAST_MARGIN / max(longer, 1)))
    except ValueError as error:
        raise RowError(f"target {error}") from error
    height, width = crop.shape[:2]
    factor = min(side / max(width, height), MOST_ENLARGED)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return marks.draw_box(resized, marks.scaled(inner, (width, height), size))


def verified(answers: Mapping[str, Answer]) -> Verification:
    """The verification that a pair's answers (label -> Answer with a Judgement) make."""
    scores = {label: capped(answer) for label, answer in answers.items()}
    local = [label for label in answers if label != GLOBAL]
    verdicts = {label: _verdict(label, answers[label], scores[label]) for label in answers}
    finer = {"expected" in named[name] for named in scores.values() for name in SCORES}
    ratings: Ratings = "mixed" if len(finer) == 2 else "expected" if True in finer else "integer"
    tokens_in, tokens_out = asking.tokens(answers)
    return Verification(
        verdicts[GLOBAL],
        worst([verdicts[label] for label in local]) if local else Verdict(None, "no target box"),
        json.dumps({"global": scores[GLOBAL], "local": [scores[label] for label in local]}),
        ratings,
        tokens_in,
        tokens_out,
        asking.thinking(answers),
    )


def capped(answer: Answer) -> dict[str, dict[str, float]]:
    """For each of SCORES: rating (the integer said), expected (where log-probabilities are had), score (what counts).

    score is the expectation, else the rating, and for the second and third no more than the first's.
    """
    named: dict[str, dict[str, float]] = {}
    for name in SCORES:
        named[name] = {"rating": getattr(answer.value, name)}
        expected = expected_rating(answer, name, LOW, HIGH)
        if expected is not None:
            named[name]["expected"] = round(expected, 6)
        score = named[name].get("expected", named[name]["rating"])
        named[name]["score"] = min(score, named[SCORES[0]].get("score", HIGH))
    return named


def _verdict(label: str, answer: Answer, scores: Mapping[str, Mapping[str, float]]) -> Verdict:
    """The mean of a pass's scores (as ImgEdit-Bench scores an item), with every score's reason."""
    reasons = zip(SCORES, answer.value.reasons(), strict=True)
    said = "; ".join(f"{name.replace('_', ' ')} {scores[name]['score']:.3g}: {reason}" for name, reason in reasons)
    _, _, region = label.partition(", ")
    return Verdict(fmean(scores[name]["score"] for name in SCORES), f"{region}: {said}" if region else said)
