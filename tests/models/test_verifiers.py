"""refinement.verify with a model: what is asked, how answers become scores, and what becomes of failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from chat_fakes import FakeChat, Reply, pictures_of, texts_of, tokens_of, unmarked
from hypothesis import given
from hypothesis import strategies as st
from judges import GREY, WindowChat, number_of, pair_row, with_logprobs
from ugaf.stages.refinement.verify import Verify

from ugaf.base.errors import ConfigError, StopRun
from ugaf.imaging import images
from ugaf.models.chat import Answer, ChatRequest
from ugaf.models.chat.schemas import json_schema
from ugaf.models.servers import ModelServer, ServerLink
from ugaf.models.verifiers import vlm as verifiers
from ugaf.models.verifiers.vlm import SCORES, Judgement, capped, close_up
from ugaf.stage import Failure, Outcome, Row, RowError, engines, prompts

LINK = ServerLink("judge", ModelServer(model="tiny", endpoints=["http://127.0.0.1:9/v1"]), ("http://127.0.0.1:9/v1",))


def judgement(a: int = 5, b: int = 5, c: int = 5) -> Judgement:
    return Judgement(
        compliance_reason="the hat is red",
        prompt_compliance=a,
        naturalness_reason="an edge shows",
        visual_naturalness=b,
        integrity_reason="the shadow is right",
        physical_detail_integrity=c,
    )


def is_local(request: ChatRequest) -> bool:
    return "red frame" in texts_of(request)


@pytest.fixture
def stage_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verify]:
    def build(chat: Any, **settings: Any) -> Verify:
        monkeypatch.setattr(verifiers, "open_chat", lambda _: chat)
        spec = {"engine": "vlm", "server": "judge", **settings}
        stage = Verify("refinement.verify", Verify.Settings(verifier=spec))
        stage.servers = {"judge": LINK}
        stage.setup()
        return stage

    return build


def columns(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, dict), outcome
    assert set(outcome) == set(Verify.schema.names)
    return outcome


def test_each_pass_is_the_mean_of_its_three_scores(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda request: judgement(4, 3, 2) if is_local(request) else judgement(5, 4, 4), thinking="hm")
    values = columns(stage_of(chat)([pair_row(7)])[0])
    assert values["verifier"] == "vlm:fake-model"
    assert values["global_score"] == pytest.approx(13 / 3)
    assert values["local_score"] == pytest.approx(3)
    assert "prompt compliance 4: the hat is red" in values["local_reason"]
    assert "visual naturalness 3: an edge shows" in values["local_reason"]
    assert values["verifier_ratings"] == "integer"
    assert values["verifier_thinking"] == "global pass: hm\n\nlocal pass: hm"
    rules = Verify("refinement.verify")
    rules.setup()
    measured = columns(rules([pair_row(7)])[0])
    assert measured["background_psnr"] == 100
    for name in ("background_psnr", "background_ssim"):
        assert values[name] == measured[name]
    named = json.loads(values["verifier_scores"])
    assert named["global"]["prompt_compliance"] == {"rating": 5, "score": 5}
    assert [score["score"] for score in named["local"][0].values()] == [4, 3, 2]


@given(st.tuples(*[st.integers(1, 5)] * 3))
def test_no_score_counts_more_than_prompt_compliance(ratings: tuple[int, int, int]) -> None:
    answer = Answer("", judgement(*ratings), "", (), 0, 0, 1)
    scores = [capped(answer)[name]["score"] for name in SCORES]
    assert scores == [ratings[0], min(ratings[1], ratings[0]), min(ratings[2], ratings[0])]
    assert [capped(answer)[name]["rating"] for name in SCORES] == list(ratings)


def shares() -> st.SearchStrategy[dict[int, float]]:
    weights = st.lists(st.floats(0.01, 1), min_size=5, max_size=5)
    return weights.map(lambda w: {rating: 0.9 * share / sum(w) for rating, share in enumerate(w, 1)})


@given(st.tuples(*[st.integers(1, 5)] * 3), st.tuples(*[shares()] * 3))
def test_with_log_probabilities_a_score_is_the_expectation(
    ratings: tuple[int, int, int], distributions: tuple[dict[int, float], ...]
) -> None:
    answer = with_logprobs(judgement(*ratings), dict(zip(SCORES, distributions, strict=True)))
    expected = [sum(r * p for r, p in d.items()) / sum(d.values()) for d in distributions]
    named = capped(answer)
    assert [named[name]["expected"] for name in SCORES] == pytest.approx(expected, abs=1e-6)
    counted = [expected[0], min(expected[:2]), min(expected[0], expected[2])]
    assert [named[name]["score"] for name in SCORES] == pytest.approx(counted, abs=1e-6)


def test_rows_say_which_kind_of_score_they_have(stage_of: Callable[..., Verify]) -> None:
    likely = {name: {3: 0.5, 4: 0.5} for name in SCORES}

    def answers(request: ChatRequest) -> Reply:
        plain = judgement(3, 3, 3)
        return with_logprobs(plain, likely) if number_of(request) == 1 or is_local(request) else plain

    rows = stage_of(FakeChat(answers))([pair_row(1), pair_row(2)])
    assert [columns(row)["verifier_ratings"] for row in rows] == ["expected", "mixed"]
    assert [columns(row)["global_score"] for row in rows] == pytest.approx([3.5, 3])
    assert [columns(row)["local_score"] for row in rows] == pytest.approx([3.5, 3.5])


def test_what_is_asked(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda _: judgement())
    columns(stage_of(chat, temperature=0.3, thinking=False, max_tokens=256)([pair_row(9)])[0])
    whole, local = chat.requests
    assert not is_local(whole)
    assert is_local(local)
    before, after = (picture.pixels for picture in pictures_of(whole))
    assert before.shape == after.shape == (64, 96, 3)
    assert (before == GREY).all()
    assert (after[30, 40] == (9, 200, 40)).all()
    for request in chat.requests:
        assert "edit 9" in texts_of(request)
        assert "{" not in texts_of(request)
        assert request.schema is Judgement
        assert request.sampling.temperature == 0.3
        assert request.sampling.max_tokens == 256
        assert request.sampling.top_logprobs >= 5
        assert request.extra == {"chat_template_kwargs": {"enable_thinking": False}}
    assert whole.sampling.seed != local.sampling.seed
    plain = FakeChat(lambda _: judgement())
    columns(stage_of(plain, expectation=False)([pair_row(9)])[0])
    assert {request.sampling.top_logprobs for request in plain.requests} == {0}
    assert all(not request.extra for request in plain.requests)


def test_both_crops_show_the_framed_box_and_some_surroundings(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda _: judgement())
    columns(stage_of(chat)([pair_row(9, boxes=[(10, 12, 30, 32)])])[0])
    before, after = (picture.pixels.astype(int) for picture in pictures_of(chat.requests[1]))
    # 32 px of surroundings where there are any: x 0..62, y 0..64 of the photograph, enlarged four times.
    assert before.shape == after.shape == (256, 248, 3)
    red = [(image == (255, 0, 0)).all(axis=2) for image in (before, after)]
    assert (red[0] == red[1]).all()
    ys, xs = np.nonzero(red[0])
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == (38, 122, 46, 130)
    assert np.abs(after[60:116, 52:108] - (9, 200, 40)).max() <= 2
    assert (before[~red[0]] == GREY).all()


def test_a_small_target_is_cut_from_the_larger_image(stage_of: Callable[..., Verify]) -> None:
    source = np.tile(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8), (20, 24, 1))
    edited = source.copy()
    edited[400:500, 600:700] = (9, 200, 40)
    mask = (edited != source).any(axis=2)
    row = pair_row(9, boxes=[(600, 400, 700, 500)], image=images.encode(source), edited_image=images.encode(edited))
    row.values["change_mask"] = images.encode_mask(mask)
    chat = FakeChat(lambda _: judgement())
    columns(stage_of(chat, crop_side=164)([row])[0])
    before, _ = pictures_of(chat.requests[1])
    assert before.pixels.shape == (164, 164, 3)
    unframed = ~(before.pixels == (255, 0, 0)).all(axis=2)
    assert (before.pixels[unframed] == source[368:532, 568:732][unframed]).all()
    assert pictures_of(chat.requests[0])[0].pixels.shape == (683, 1024, 3)


def test_of_several_boxes_the_worst_counts(stage_of: Callable[..., Verify]) -> None:
    def answers(request: ChatRequest) -> Reply:
        return judgement(2, 2, 2) if "region 2 of 2" in texts_of(request) else judgement(5, 5, 5)

    chat = FakeChat(answers)
    values = columns(stage_of(chat)([pair_row(3, boxes=[(4, 4, 24, 24), (60, 30, 90, 60)])])[0])
    assert len(chat.requests) == 3
    assert values["global_score"] == 5
    assert values["local_score"] == 2
    assert values["local_reason"].startswith("region 2 of 2: prompt compliance 2")
    assert [s["prompt_compliance"]["score"] for s in json.loads(values["verifier_scores"])["local"]] == [5, 2]


def test_more_boxes_than_max_crops_are_judged_in_one_frame(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda _: judgement(4, 4, 4))
    boxes = [(8 * n, 4, 8 * n + 6, 20) for n in range(1, 4)]
    values = columns(stage_of(chat, max_crops=2)([pair_row(3, boxes=boxes)])[0])
    assert len(chat.requests) == 2
    assert "3 regions in one frame" in texts_of(chat.requests[1])
    assert values["local_score"] == 4
    assert np.abs(pictures_of(chat.requests[1])[1].pixels.astype(int) - (3, 200, 40)).max(axis=2).min() <= 2


def test_without_a_target_there_is_no_local_pass(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda _: judgement(4, 4, 4))
    values = columns(stage_of(chat)([pair_row(3, boxes=[])])[0])
    assert len(chat.requests) == 1
    assert values["global_score"] == 4
    assert values["local_score"] is None
    assert values["local_reason"] == "no target box"
    assert json.loads(values["verifier_scores"])["local"] == []
    assert values["background_psnr"] is None


def test_tokens_of_all_passes_are_summed(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda _: judgement())
    values = columns(stage_of(chat)([pair_row(3, boxes=[(4, 4, 24, 24), (60, 30, 90, 60)])])[0])
    assert values["verifier_tokens_in"] == sum(tokens_of(request) for request in chat.requests) > 600
    assert values["verifier_tokens_out"] == 3 * len(judgement().model_dump_json().split())


def test_all_rows_are_asked_at_once_and_answered_in_order(stage_of: Callable[..., Verify]) -> None:
    class Counting(FakeChat):
        calls = 0

        def ask(self, requests: Any) -> list[Answer | Failure]:
            self.calls += 1
            return super().ask(requests)

    chat = Counting(lambda request: judgement(1 + number_of(request) % 5, 5, 5))
    rows = [pair_row(number, boxes=[(20, 12, 60, 44)] * (number % 3)) for number in range(1, 21)]
    outcomes = [columns(outcome) for outcome in stage_of(chat)(rows)]
    assert chat.calls == 1
    assert [o["verifier_scores"] is not None for o in outcomes] == [True] * 20
    assert [o["global_score"] for o in outcomes] == [1 + n % 5 for n in range(1, 21)]
    assert [o["local_score"] for o in outcomes] == [1 + n % 5 if n % 3 else None for n in range(1, 21)]


def test_a_failed_pass_fails_its_row_and_no_other(stage_of: Callable[..., Verify]) -> None:
    def answers(request: ChatRequest) -> Reply:
        number = number_of(request)
        if number == 2 and is_local(request):
            return Failure("MalformedAnswer", "half a JSON")
        if number == 3:
            return Failure("Refused", "I cannot help with that")
        return judgement(3, 3, 3)

    first, second, third, fourth = stage_of(FakeChat(answers))([pair_row(number) for number in (1, 2, 3, 4)])
    assert columns(first)["global_score"] == columns(fourth)["local_score"] == 3
    assert second == Failure("MalformedAnswer", "local pass: half a JSON")
    assert third == Failure("Refused", "global pass: I cannot help with that; local pass: I cannot help with that")


@pytest.mark.parametrize("bad", [0, 6, 3.5, "3", None])
def test_a_rating_out_of_range_is_no_rating(stage_of: Callable[..., Verify], bad: Any) -> None:
    said = {**judgement().model_dump(), "visual_naturalness": bad}
    outcome = stage_of(FakeChat(lambda _: said))([pair_row(1)])[0]
    assert isinstance(outcome, Failure)
    assert "visual_naturalness" in outcome.message


def test_rows_that_cannot_be_asked_about_fail_alone(stage_of: Callable[..., Verify]) -> None:
    rows = [
        pair_row(1),
        pair_row(2, instruction=" "),
        pair_row(3, edited_image=b"no picture"),
        pair_row(4, change_mask=images.encode_mask(np.zeros((3, 3), bool))),
        pair_row(5, boxes=[(20, 12, 60, 44), (200, 200, 220, 220)]),
        pair_row(6),
    ]
    chat = FakeChat(lambda _: judgement())
    outcomes = stage_of(chat)(rows)
    assert columns(outcomes[0])["global_score"] == columns(outcomes[5])["global_score"] == 5
    told = ["no instruction", "not an image", "run refinement.change_mask again", "has no pixel"]
    for outcome, words in zip(outcomes[1:5], told, strict=True):
        assert isinstance(outcome, Failure)
        assert words in outcome.message
    assert len(chat.requests) == 4


def test_a_server_that_is_gone_stops_the_run(stage_of: Callable[..., Verify]) -> None:
    with pytest.raises(StopRun, match="gone"):
        stage_of(FakeChat(lambda _: StopRun("the server is gone")))([pair_row(1)])


def test_no_more_pictures_are_alive_than_are_in_flight(stage_of: Callable[..., Verify]) -> None:
    chat = WindowChat(lambda _: judgement(), window=6)
    rows = [pair_row(number) for number in range(1, 41)]
    assert all(isinstance(outcome, dict) for outcome in stage_of(chat)(rows))
    # Two a request, and those of the pair whose requests are being made.
    assert 6 * 2 <= chat.most <= 6 * 2 + 4
    assert all(not row._memo for row in rows)


def test_a_row_s_seeds_are_its_own_whatever_batch_it_is_in(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda _: judgement())
    stage = stage_of(chat)
    stage([pair_row(1), pair_row(2)])
    together = [request.sampling.seed for request in chat.requests[2:]]
    chat.requests.clear()
    stage([pair_row(2)])
    assert [request.sampling.seed for request in chat.requests] == together
    chat.requests.clear()
    stage([pair_row(1)])
    assert not {request.sampling.seed for request in chat.requests} & set(together)


def test_fragments_may_be_verified_in_threads(stage_of: Callable[..., Verify]) -> None:
    together = threading.Barrier(4, timeout=30)

    def answers(request: ChatRequest) -> Reply:
        if number_of(request) % 10 == 1 and not is_local(request):
            together.wait()
        return judgement(1 + number_of(request) % 5, 5, 5)

    stage = stage_of(FakeChat(answers))
    batches = [[pair_row(10 * thread + number) for number in (1, 2, 3)] for thread in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(stage, batches))
    for thread, outcomes in enumerate(results):
        assert [columns(o)["global_score"] for o in outcomes] == [1 + (10 * thread + n) % 5 for n in (1, 2, 3)]


def test_edits_of_one_photograph_share_it_with_other_stages_only_when_fused(
    stage_of: Callable[..., Verify], photos: dict[str, np.ndarray]
) -> None:
    parent = Row("f" * 32, {"image": images.encode(photos["chelsea"])})
    child = Row("e" * 32, {**pair_row(1).values, "edited_image": None, "change_area": 0.0}, parent)
    child.values.pop("image")
    child.values["change_mask"] = images.encode_mask(np.zeros(photos["chelsea"].shape[:2], bool))
    columns(stage_of(FakeChat(lambda _: judgement()))([child])[0])
    assert not parent._memo
    rules = Verify("refinement.verify")
    rules.setup()
    assert columns(rules([child])[0])["verifier"] == "rules"
    assert parent._memo


# Settings, prompts, schema --------------------------------------------------------------------------------------------


def test_every_shipped_prompt_is_filled_with_what_is_given() -> None:
    shipped = prompts.shipped("refinement/verify")
    assert {name: prompts.fields(text) for name, text in shipped.items()} == {
        "global": {"instruction"},
        "local": {"instruction", "region"},
    }
    text = prompts.fill(shipped["global"], {"instruction": 'write "{hello}" on the sign'})
    assert 'write "{hello}" on the sign' in text


def test_a_pipeline_s_own_prompt_is_asked_and_known_to_the_fingerprint(stage_of: Callable[..., Verify]) -> None:
    chat = FakeChat(lambda _: judgement())
    mine = {"global": "Was this done: {instruction}?"}
    columns(stage_of(chat, prompts=mine)([pair_row(4)])[0])
    assert "Was this done: edit 4?" in unmarked(texts_of(chat.requests[0]))
    models = {"judge": LINK.settings}
    told = [
        engines.identity(Verify.Settings(verifier={"engine": "vlm", "server": "judge", "prompts": p}), models)
        for p in ({}, mine)
    ]
    assert told[0] != told[1]
    with pytest.raises(ConfigError, match="did you mean 'global'"):
        Verify.Settings(verifier={"engine": "vlm", "server": "judge", "prompts": {"globl": "?"}})


def test_what_the_engine_needs_is_known_before_it_is_built() -> None:
    needs = Verify.needs(Verify.Settings(verifier={"engine": "vlm", "server": "judge"}))
    assert needs.servers == ("judge",)
    assert needs.own_pool
    assert needs.fragments > 1
    assert needs.packages == {"openai": "chat"}
    assert needs.reads == ("instruction",)
    assert Verify.needs(Verify.Settings()).own_pool is False
    with pytest.raises((ConfigError, ValueError), match="server"):
        Verify.Settings(verifier={"engine": "vlm"})


def test_reasons_come_before_their_scores_and_every_text_is_bounded() -> None:
    schema = json_schema(Judgement)
    kinds = [field["type"] for field in schema["properties"].values()]
    assert kinds == ["string", "integer"] * 3
    for field in schema["properties"].values():
        if field["type"] == "string":
            assert field["pattern"].startswith("^")
        else:
            assert (field["minimum"], field["maximum"]) == (1, 5)


@given(
    st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(1, 90), st.integers(1, 60)),
    st.floats(0, 2),
    st.integers(64, 900),
)
def test_a_close_up_is_of_the_asked_size_and_no_more_than_four_times_enlarged(
    box: tuple[int, int, int, int], margin: float, side: int
) -> None:
    image = np.full((80, 120, 3), GREY, np.uint8)
    x, y, width, height = box
    crop = close_up(image, (x, y, min(120, x + width), min(80, y + height)), margin, side)
    assert max(crop.shape[:2]) <= side
    assert max(crop.shape[:2]) == side or max(crop.shape[:2]) <= 4 * 120
    assert (crop == (255, 0, 0)).all(axis=2).any()


def test_a_box_outside_the_image_is_an_error_of_the_row() -> None:
    with pytest.raises(RowError, match="has no pixel"):
        close_up(np.zeros((50, 50, 3), np.uint8), (50, 50, 50, 50), 0.25, 100)


def test_the_shipped_prompts_are_in_the_folder_of_the_stage() -> None:
    from ugaf import stages

    folder = Path(next(iter(stages.__path__))) / "refinement" / "prompts" / "verify"
    assert {path.stem for path in folder.iterdir()} == {"global", "local"}


def test_mean_is_over_the_capped_scores() -> None:
    low = Answer("", judgement(2, 5, 4), "", (), 1, 1, 1)
    values = verifiers.verified({verifiers.GLOBAL: low})
    assert values.whole.score == pytest.approx(fmean([2, 2, 2]))
