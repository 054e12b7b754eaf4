"""Our Chat and engines against a real vLLM: whatever a random model answers, each row gets an answer or an error.

The schemas are constrained by the server (xgrammar), so that even noise validates; the answers are checked for their
form, never for their sense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from ugaf.stages.annotation.screen import Screen

from ugaf.imaging import images
from ugaf.models.chat import Answer, Chat, ChatRequest, Message, Picture, Sampling, open_chat
from ugaf.models.chat.ratings import expected_rating
from ugaf.models.judging.asking import thinking_switch
from ugaf.models.scorers import editscore
from ugaf.models.screeners import llm as screeners
from ugaf.models.servers import ServerLink
from ugaf.models.verifiers import vlm as verifiers
from ugaf.models.writers import vlm_answers
from ugaf.stage import Failure, Row
from ugaf.wording import layout

pytestmark = pytest.mark.vllm

VERDICTS = {"ok", "unreasonable", "human_centric", "unsafe", "ambiguous", "not_visible"}
NOT_THINKING = thinking_switch(False)


@pytest.fixture(scope="session")
def chat(servers: dict[str, ServerLink]) -> Chat:
    return open_chat(servers["tiny"])


def question(text: str, schema: type[BaseModel] | None = None, seed: int = 0, **options: Any) -> ChatRequest:
    sampling = Sampling(temperature=1.0, max_tokens=options.pop("max_tokens", 4096), seed=seed, **options)
    return ChatRequest((Message("user", (text,)),), schema, sampling, extra=NOT_THINKING)


SCHEMAS = {
    "screen": screeners.Judgement,
    "verify": verifiers.Judgement,
    "score": editscore.Ratings,
    **{f"instruct {task}": vlm_answers.schema(task, 2, task == "text") for task in ("add", "text")},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_server_takes_every_schema_and_its_answers_fit(chat: Chat, name: str) -> None:
    answers = chat.ask(question("Answer.", SCHEMAS[name], seed) for seed in range(3))
    for answer in answers:
        assert isinstance(answer, Answer), answer
        assert isinstance(answer.value, SCHEMAS[name])
        assert answer.tries == 1
        assert list(json.loads(answer.text)) == list(SCHEMAS[name].model_fields)
        assert answer.tokens_in > 0
        assert answer.tokens_out > 5
        assert answer.thinking == ""


def test_the_same_seed_answers_the_same_and_another_one_does_not(chat: Chat) -> None:
    first, again, other = chat.ask(question("Answer.", screeners.Judgement, seed) for seed in (5, 5, 6))
    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert isinstance(other, Answer)
    assert first.value.reason[:40] == again.value.reason[:40]
    assert first.value.reason[:40] != other.value.reason[:40]


def test_pictures_reach_the_model(chat: Chat) -> None:
    """Another picture, other probabilities; the tokens of a picture are counted."""

    def about(pixels: np.ndarray) -> ChatRequest:
        parts = ("Look.", Picture(pixels, 112))
        return ChatRequest(
            (Message("user", parts),), screeners.Judgement, Sampling(0.0, top_logprobs=1), extra=NOT_THINKING
        )

    black, noise = np.zeros((200, 300, 3), np.uint8), np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    dark, bright, words = chat.ask([about(black), about(noise), question("Look.", screeners.Judgement)])
    assert isinstance(dark, Answer)
    assert isinstance(bright, Answer)
    assert isinstance(words, Answer)
    assert [token.logprob for token in dark.tokens[:4]] != [token.logprob for token in bright.tokens[:4]]
    assert dark.tokens_in >= words.tokens_in + 4


def test_ratings_are_expectations_over_the_tokens_that_the_server_gives(chat: Chat) -> None:
    answers = chat.ask(question("Rate.", verifiers.Judgement, seed, top_logprobs=10) for seed in range(4))
    for answer in answers:
        assert isinstance(answer, Answer), answer
        assert "".join(token.text for token in answer.tokens) == answer.text
        for name in verifiers.SCORES:
            expected = expected_rating(answer, name, 1, 5)
            assert expected is not None
            assert 1 < expected < 5
            assert expected != round(expected)


def test_thinking_is_kept_apart_from_the_answer(chat: Chat) -> None:
    request = question("Think, then answer.", screeners.Judgement, top_logprobs=2)
    extra = {**thinking_switch(True), "thinking_token_budget": 30}
    (answer,) = chat.ask([ChatRequest(request.messages, request.schema, request.sampling, extra=extra)])
    assert isinstance(answer, Answer), answer
    assert len(answer.thinking) > 10
    assert answer.text.startswith("{")
    assert answer.value.verdict in VERDICTS
    assert "".join(token.text for token in answer.tokens) == answer.text


def test_a_request_that_is_too_long_fails_by_itself(chat: Chat) -> None:
    good, long = chat.ask([question("Hi.", screeners.Judgement), question("word " * 20000, screeners.Judgement)])
    assert isinstance(good, Answer), good
    assert isinstance(long, Failure)
    assert "16384" in long.message


def test_an_answer_that_is_cut_off_is_a_failure(chat: Chat) -> None:
    (cut,) = chat.ask([question("Hi.", editscore.Ratings, max_tokens=5)])
    assert isinstance(cut, Failure)
    assert "max_tokens" in cut.message


def edits(photo: np.ndarray, count: int) -> Iterator[Row]:
    height, width = photo.shape[:2]
    box = [width // 4, height // 4, width // 2, height // 2]
    things = [{"box": box, "label": "cup", "score": 0.9, "mask": None}]
    columns = {"image": images.encode(photo, "jpeg"), "width": width, "height": height, "objects": things}
    parent = Row("f" * 32, {**columns, "caption": "A cup of coffee on a table."})
    for number in range(count):
        task = tuple(layout.offered())[number % len(layout.offered())]
        values = {"task": task, "instruction": f"Make the cup {number}.", "target": "the cup", "boxes": [box]}
        yield Row(f"{number:032x}", {**values, "params": None, "donor": None}, parent)


@pytest.mark.parametrize(
    "options", [{"thinking": False}, {"thinking": False, "image": True}, {"thinking_tokens": 40, "image": True}]
)
def test_screening(servers: dict[str, ServerLink], photos: dict[str, np.ndarray], options: dict[str, Any]) -> None:
    stage = Screen("annotation.screen", Screen.Settings(screener={"engine": "llm", "server": "tiny", **options}))
    stage.servers = servers
    stage.setup()
    outcomes = stage(list(edits(photos["coffee"], 6)))
    for outcome in outcomes:
        assert not isinstance(outcome, Failure), outcome
        assert outcome["screen"] in VERDICTS
        assert outcome["screen_detail"]
        assert outcome["screener"] == "llm:tiny"
        assert outcome["screener_tokens_in"] > 300
        assert (outcome["screener_thinking"] is None) == ("thinking_tokens" not in options)
    assert len({outcome["screen_detail"] for outcome in outcomes}) > 1
