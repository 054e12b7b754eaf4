"""refinement.score with EditScore: the formula by value, passes and seeds, and answers that are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chat_fakes import FakeChat, Reply, pictures_of, texts_of, tokens_of
from hypothesis import given
from hypothesis import strategies as st
from judges import GREY, WindowChat, number_of, pair_row
from ugaf.stages.refinement.score import Score

from ugaf.base.errors import ConfigError, StopRun
from ugaf.base.failure import through
from ugaf.imaging import images
from ugaf.models.chat import Answer, ChatRequest
from ugaf.models.chat.schemas import json_schema
from ugaf.models.judging.asking import ask_all
from ugaf.models.judging.pairs import Pair, seed_of
from ugaf.models.scorers import editscore
from ugaf.models.scorers.editscore import PQ, SC, Ratings, combined
from ugaf.models.servers import ModelServer, ServerLink
from ugaf.stage import Failure, Outcome, engines, prompts

LINK = ServerLink("judge", ModelServer(model="tiny", endpoints=["http://127.0.0.1:9/v1"]), ("http://127.0.0.1:9/v1",))
Asked = Callable[[ChatRequest], Reply]


@pytest.fixture
def stage_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Score]:
    def build(chat: Any, side: int = 1024, **settings: Any) -> Score:
        monkeypatch.setattr(editscore, "open_chat", lambda _: chat)
        spec = {"engine": "editscore", "server": "judge", **settings}
        stage = Score("refinement.score", Score.Settings(scorer=spec, side=side))
        stage.servers = {"judge": LINK}
        stage.setup()
        return stage

    return build


def is_perceptual(request: ChatRequest) -> bool:
    return len(pictures_of(request)) == 1


def said(*score: int, reasoning: str = "it is so") -> dict[str, Any]:
    return {"reasoning": reasoning, "score": list(score)}


def columns(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, dict), outcome
    assert set(outcome) == set(Score.schema.names)
    return outcome


def test_one_pass_by_hand(stage_of: Callable[..., Score]) -> None:
    chat = FakeChat(lambda request: said(24, 16) if is_perceptual(request) else said(10, 23), thinking="so")
    values = columns(stage_of(chat, passes=1)([pair_row(5)])[0])
    assert values["scorer"] == "editscore:fake-model"
    assert values["semantic_consistency"] == pytest.approx(4.0)
    assert values["perceptual_quality"] == pytest.approx(6.4)
    assert values["quality"] == pytest.approx(math.sqrt(4.0 * 6.4))
    assert values["quality_spread"] is None
    assert values["artifacts"] is values["seams"] is values["sharpness_loss"] is None
    assert values["scorer_tokens_in"] == sum(tokens_of(request) for request in chat.requests) > 300
    assert values["scorer_tokens_out"] == 2 * 7
    assert values["scorer_thinking"] == f"{SC}, pass 1: so\n\n{PQ}, pass 1: so"


pairs_of_ratings = st.tuples(*[st.integers(0, 25)] * 2)


@given(st.lists(st.tuples(pairs_of_ratings, pairs_of_ratings), min_size=1, max_size=6))
def test_quality_is_the_mean_over_passes_of_the_geometric_mean(passes: list[tuple[Any, Any]]) -> None:
    answers = {}
    for number, (sc, pq) in enumerate(passes, 1):
        for name, score in ((SC, sc), (PQ, pq)):
            value = Ratings(reasoning=f"{name} {number}", score=list(score))
            answers[f"{name}, pass {number}"] = Answer("", value, "", (), 3, 2, 1)
    scores = combined(answers)
    low = np.array([[min(sc), min(pq)] for sc, pq in passes]) * 0.4
    overall = np.sqrt(low.prod(axis=1))
    assert scores["quality"] == pytest.approx(overall.mean())
    assert scores["semantic_consistency"] == pytest.approx(low[:, 0].mean())
    assert scores["perceptual_quality"] == pytest.approx(low[:, 1].mean())
    assert 0 <= float(scores["quality"] or 0) <= 10
    if len(passes) > 1:
        assert scores["quality_spread"] == pytest.approx(overall.std(ddof=1), abs=1e-9)
    worst = int(overall.argmin()) + 1
    assert scores["quality_reason"] == f"{SC}: {SC} {worst} {PQ}: {PQ} {worst}"
    assert (scores["scorer_tokens_in"], scores["scorer_tokens_out"]) == (6 * len(passes), 4 * len(passes))


def test_each_pass_asks_both_questions_with_seeds_of_its_own(stage_of: Callable[..., Score]) -> None:
    chat = FakeChat(lambda _: said(20, 20))
    columns(stage_of(chat, passes=3)([pair_row(5)])[0])
    assert [is_perceptual(request) for request in chat.requests] == [False, True] * 3
    assert len({request.sampling.seed for request in chat.requests}) == 6
    for request in chat.requests:
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.7, 0.9, 20, 512)
        assert request.schema is Ratings
        assert ("edit 5" in texts_of(request)) is not is_perceptual(request)
    before, after = (picture.pixels for picture in pictures_of(chat.requests[0]))
    assert (before == GREY).all()
    assert (after[30, 40] == (5, 200, 40)).all()
    assert (pictures_of(chat.requests[1])[0].pixels == after).all()


def test_passes_that_differ_give_a_spread(stage_of: Callable[..., Score]) -> None:
    low = {seed_of(str(seed_of(f"{5:032x}")), f"{name}, pass 2") for name in (SC, PQ)}
    chat = FakeChat(lambda request: said(5, 5) if request.sampling.seed in low else said(25, 25))
    values = columns(stage_of(chat, passes=2)([pair_row(5)])[0])
    assert values["quality"] == pytest.approx(6)
    assert values["quality_spread"] == pytest.approx(np.std([10, 2], ddof=1))


def test_the_edited_image_is_brought_to_the_source_s_size(stage_of: Callable[..., Score]) -> None:
    row = pair_row(5)
    row.values["edited_image"] = images.encode(np.full((96, 144, 3), (5, 200, 40), np.uint8))
    chat = FakeChat(lambda _: said(20, 20))
    columns(stage_of(chat, passes=1)([row])[0])
    assert {picture.pixels.shape for request in chat.requests for picture in pictures_of(request)} == {(64, 96, 3)}


def test_rows_are_answered_in_order_and_a_failed_call_fails_its_row(stage_of: Callable[..., Score]) -> None:
    def answers(request: ChatRequest) -> Reply:
        number = number_of(request)
        if number == 3 and is_perceptual(request):
            return Failure("TimedOut", "no answer within 300 s")
        return said(number, 25)

    outcomes = stage_of(FakeChat(answers), passes=2)([pair_row(number) for number in range(1, 8)])
    told = [outcome for number, outcome in enumerate(outcomes, 1) if number != 3]
    assert [columns(o)["quality"] for o in told] == pytest.approx([n * 0.4 for n in (1, 2, 4, 5, 6, 7)])
    message = "no answer within 300 s"
    assert outcomes[2] == Failure("TimedOut", f"{PQ}, pass 1: {message}; {PQ}, pass 2: {message}")


@pytest.mark.parametrize(
    "answer",
    [said(26, 3), said(-1, 3), said(3), said(1, 2, 3), said(3, 4, reasoning=""), {"score": [3, 4]}, "no JSON at all"],
)
def test_what_is_no_answer_is_never_a_score(stage_of: Callable[..., Score], answer: Reply) -> None:
    chat = FakeChat(lambda request: answer if number_of(request) == 1 else said(25, 25))
    bad, good = stage_of(chat, passes=1)([pair_row(1), pair_row(2)])
    assert isinstance(bad, Failure)
    assert bad.type == "MalformedAnswer"
    assert columns(good)["quality"] == 10


def test_rows_that_cannot_be_asked_about_fail_alone(stage_of: Callable[..., Score]) -> None:
    rows = [pair_row(1, instruction=None), pair_row(2), pair_row(3, edited_image=b"?")]
    chat = FakeChat(lambda _: said(25, 25))
    first, second, third = stage_of(chat, passes=2)(rows)
    assert isinstance(first, Failure)
    assert "no instruction" in first.message
    assert columns(second)["quality"] == 10
    assert isinstance(third, Failure)
    assert len(chat.requests) == 4


def test_a_server_that_is_gone_stops_the_run(stage_of: Callable[..., Score]) -> None:
    with pytest.raises(StopRun):
        stage_of(FakeChat(lambda _: StopRun("gone")))([pair_row(1)])


def test_no_more_pictures_are_alive_than_are_in_flight(stage_of: Callable[..., Score]) -> None:
    chat = WindowChat(lambda _: said(20, 20), window=8)
    rows = [pair_row(number) for number in range(1, 31)]
    assert all(isinstance(outcome, dict) for outcome in stage_of(chat, passes=2)(rows))
    # A pair's four requests share its two pictures: three pairs in the window, one being made.
    assert 4 <= chat.most <= 8
    assert all(not row._memo for row in rows)


def test_every_shipped_prompt_is_filled_with_what_is_given() -> None:
    shipped = prompts.shipped("refinement/score")
    assert {name: prompts.fields(text) for name, text in shipped.items()} == {
        "consistency": {"instruction"},
        "perceptual": set(),
    }


def test_prompts_model_and_passes_are_in_the_fingerprint_and_the_server_s_name_is_not() -> None:
    def identity(model: str = "tiny", name: str = "judge", **settings: Any) -> dict[str, Any]:
        server = ModelServer(model=model, endpoints=["http://127.0.0.1:9/v1"])
        spec = {"engine": "editscore", "server": name, **settings}
        return engines.identity(Score.Settings(scorer=spec), {name: server})

    assert identity() == identity(name="other")
    told = [identity(), identity(model="big"), identity(passes=2), identity(prompts={"perceptual": "Is it good?"})]
    assert all(a != b for n, a in enumerate(told) for b in told[:n])
    with pytest.raises(ConfigError, match="cannot be filled in"):
        identity(prompts={"perceptual": "{instruction}"})


def test_the_answer_s_schema_has_the_reasoning_first_and_two_ratings() -> None:
    schema = json_schema(Ratings)
    assert list(schema["properties"]) == ["reasoning", "score"]
    score = schema["properties"]["score"]
    assert (score["minItems"], score["maxItems"]) == (2, 2)
    assert (score["items"]["minimum"], score["items"]["maximum"]) == (0, 25)


def test_what_stops_the_run_stops_it_while_questions_are_made_too() -> None:
    def stops(_: Any) -> Any:
        raise StopRun("gone")

    with pytest.raises(StopRun):
        ask_all(FakeChat(lambda _: said(1, 1)), [1], stops)
    with pytest.raises(StopRun):
        through(stops, [pair_row(1)], list)


def test_a_scorer_that_loses_a_pair_is_found_out() -> None:
    def forgetful(pairs: Any) -> list[Any]:
        return [{"quality": 1.0} for _ in pairs][1:]

    with pytest.raises(RuntimeError, match="gave 1 answers for 2"):
        through(lambda row: row, [pair_row(1), pair_row(2)], forgetful)


def test_a_user_s_scorer_gets_pairs_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine:
        name, version = "mine", 1
        Settings = Score.Settings.__base__

        def __init__(self, _settings: Any) -> None:
            pass

        def score(self, pairs: Any) -> Any:
            for pair in pairs:
                assert isinstance(pair, Pair)
                yield {"quality": float(pair.edited[30, 40, 0])}

    monkeypatch.setitem(engines.ENGINES["scorer"], "mine", f"{__name__}:Mine")
    monkeypatch.setattr(f"{__name__}.Mine", Mine, raising=False)
    stage = Score("refinement.score", Score.Settings(scorer={"engine": "mine"}))
    stage.setup()
    outcomes = stage([pair_row(3), pair_row(4, edited_image=b"?"), pair_row(5)])
    assert [columns(outcomes[n])["quality"] for n in (0, 2)] == [3, 5]
    assert columns(outcomes[0])["scorer"] == "mine"
    assert isinstance(outcomes[1], Failure)
