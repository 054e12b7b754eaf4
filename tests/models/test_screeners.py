"""The screener "llm": what it asks, what becomes of its answers, and that rules come before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chat_fakes import FakeChat, pictures_of, quotations, texts_of, unmarked
from ugaf.stages.annotation.screen import Screen

from ugaf.base.errors import ConfigError, StopRun
from ugaf.imaging import images
from ugaf.models.chat import ChatRequest
from ugaf.models.chat.schemas import json_schema
from ugaf.models.screeners import llm as screeners
from ugaf.models.screeners.llm import FOLDER, Judgement
from ugaf.models.servers import ModelServer, ServerLink
from ugaf.stage import Failure, Row, engines, prompts

VERDICTS = ("ok", "unreasonable", "human_centric", "unsafe", "ambiguous", "not_visible")
CUP, TINY = (40, 60, 120, 160), (0, 0, 8, 8)
LINK = ServerLink("judge", ModelServer(model="m", endpoints=["http://127.0.0.1:1/v1"]), ("http://127.0.0.1:1/v1",))


def photo_row(caption: str | None = "a cup on a table") -> Row:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    objects = [{"box": list(CUP), "label": "cup", "score": 0.9, "mask": None}]
    values = {"image": images.encode(pixels), "width": 400, "height": 300, "objects": objects, "caption": caption}
    return Row("f0", values)


def edit(number: int, instruction: str, task: str = "recolor", box: tuple | None = CUP, **values: Any) -> Row:
    columns = {
        "task": task, "instruction": instruction, "boxes": [list(box)] if box else [], "params": None, "donor": None,
        "target": "the cup", **values,
    }  # fmt: skip
    return Row(f"{number:032x}", columns, values.get("photo", PHOTO))


PHOTO = photo_row()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Screen, FakeChat]]:
    """The stage with a model that answers by the given function."""

    def make(answers: Callable[[ChatRequest], Any], thought: str = "", **options: Any) -> tuple[Screen, FakeChat]:
        chat = FakeChat(answers, model="qwen", thinking=thought)
        monkeypatch.setattr(screeners, "open_chat", lambda link: chat)  # noqa: ARG005
        spec = {"engine": "llm", "server": "judge", **options}
        stage = Screen("annotation.screen", Screen.Settings(screener=spec, faces=False))
        stage.servers = {"judge": LINK}
        stage.setup()
        return stage, chat

    return make


def asked(request: ChatRequest) -> str:
    """The instruction of a request."""
    return quotations(texts_of(request), "instruction")[0]


def test_each_verdict_is_one_of_the_instruction_that_it_is_about(opened: Any) -> None:
    verdicts = {f"Do {name}.": name for name in VERDICTS}
    stage, chat = opened(lambda request: {"reason": f"because {asked(request)}", "verdict": verdicts[asked(request)]})
    outcomes = stage([edit(number, text) for number, text in enumerate(verdicts)])
    assert [outcome["screen"] for outcome in outcomes] == list(VERDICTS)
    assert [outcome["screen_detail"] for outcome in outcomes] == [f"because {text}" for text in verdicts]
    assert {outcome["screener"] for outcome in outcomes} == {"llm:qwen"}
    assert len(chat.requests) == len(VERDICTS)


def test_what_a_rule_turns_down_is_not_asked(opened: Any) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"}, thought="Hm.")
    small, good = stage([edit(0, "Paint it red.", box=TINY), edit(1, "Paint it blue.")])
    assert (small["screen"], small["screener"], small["screener_tokens_in"]) == ("too_small", "rules", None)
    assert small["screener_thinking"] is None
    assert [asked(request) for request in chat.requests] == ["Paint it blue."]
    assert (good["screener"], good["screener_thinking"], good["screener_tokens_out"]) == ("llm:qwen", "Hm.", 4)
    assert good["screener_tokens_in"] == len(texts_of(chat.requests[0]).split())


@pytest.mark.parametrize(
    "answer",
    [
        {"reason": "fine", "verdict": "fine"},
        {"verdict": "ok"},
        {"reason": "", "verdict": "ok"},
        {"reason": "fine", "verdict": "ok", "score": 5},
        "I would say it is ok.",
        Failure("ServerError", "500: out of memory"),
    ],
)
def test_an_answer_that_is_none_fails_its_row_and_no_other(opened: Any, answer: Any) -> None:
    stage, _ = opened(lambda request: answer if asked(request) == "Bad one." else {"reason": "fine", "verdict": "ok"})
    first, bad, last = stage([edit(0, "Good one."), edit(1, "Bad one."), edit(2, "Good too.")])
    assert first["screen"] == last["screen"] == "ok"
    assert isinstance(bad, Failure)
    assert "screening" in bad.message


def test_a_row_that_cannot_be_read_or_shown_costs_no_other(opened: Any) -> None:
    broken = photo_row()
    broken.values["image"] = b"no image"
    stage, _ = opened(lambda _: {"reason": "fine", "verdict": "ok"}, image=True)
    unshown = Row("1" * 32, edit(0, "Paint it red.").values, broken)
    unread = edit(1, "Paint it red.", params="{")
    outcomes = stage([unshown, edit(2, "Paint it red."), unread])
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [True, False, True]
    assert outcomes[1]["screen"] == "ok"


def test_a_server_that_is_gone_stops_the_run(opened: Any) -> None:
    stage, _ = opened(lambda _: StopRun("the server is gone"))
    with pytest.raises(StopRun, match="gone"):
        stage([edit(0, "Paint it red.")])


def test_all_edits_of_a_batch_are_one_stream_that_is_taken_one_by_one(opened: Any) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"})
    taken: list[int] = []
    rules = stage.rules.broken
    stage.rules.broken = lambda edit: taken.append(len(chat.requests)) or rules(edit)
    calls = []
    ask = chat.ask
    chat.ask = lambda requests: calls.append(1) or ask(requests)
    stage([edit(number, "Paint it red.") for number in range(5)])
    assert calls == [1]
    assert taken == [0, 1, 2, 3, 4]


def test_what_is_known_is_told(opened: Any) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"})
    stage([edit(0, "Paint  the\ncup red."), edit(1, "Blur all but the cup.", task="background", box=None)])
    text, other = (unmarked(texts_of(request)) for request in chat.requests)
    assert asked(chat.requests[0]) == "Paint the cup red."
    # 80 x 100 of 400 x 300 pixels
    for told in ("400 x 300 pixels", "a cup on a table", "recolor", "the cup", "cup (the detector's word)",
                 "x 40 to 120, y 60 to 160", "in the upper left", "6.7% of"):  # fmt: skip
        assert told in text
    assert "Box 1" not in other
    assert "not confined" in other
    assert not pictures_of(chat.requests[0])
    assert {message.role for message in chat.requests[0].messages} == {"system", "user"}


def test_an_edit_whose_source_is_made_is_said_to_be_one(opened: Any) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"})
    stage([edit(0, "Add the cup.", task="add", params=json.dumps({"object": 0})), edit(1, "Add a cup.", task="add")])
    assert ["after the edit; before it" in texts_of(request) for request in chat.requests] == [True, False]


def test_a_caption_is_shortened_and_may_be_missing(opened: Any) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"})
    stage([Row("0" * 32, edit(0, "Paint it red.").values, photo_row(caption)) for caption in (None, "word " * 1000)])
    without, long = (texts_of(request) for request in chat.requests)
    assert "Caption" not in without
    assert 500 < len(long) - len(without) < 800


def test_the_photograph_is_shown_with_its_box(opened: Any) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"}, image=True, image_side=200)
    stage([edit(0, "Paint it red.")])
    (picture,) = pictures_of(chat.requests[0])
    assert picture.pixels.shape == (150, 200, 3)
    assert tuple(picture.pixels[50, 19]) == (255, 0, 0)  # just left of the box, which begins at x = 20
    assert "cannot see" not in texts_of(chat.requests[0])


def test_sampling_is_by_the_settings_and_seeds_by_the_row(opened: Any) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"})
    rows = [edit(0, "Paint it red."), edit(1, "Paint it red.")]
    stage(rows)
    stage(rows[::-1])
    first, second, again_second, again_first = (request.sampling for request in chat.requests)
    assert (first.temperature, first.top_p, first.top_k, first.max_tokens) == (0.6, 0.95, 20, 4096)
    assert first.seed != second.seed
    assert (again_first, again_second) == (first, second)


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"thinking": None}, {}),
        ({"thinking_tokens": 9}, {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 9}),
    ],
)
def test_thinking_is_switched_as_qwen3_does(opened: Any, options: dict[str, Any], extra: dict[str, Any]) -> None:
    stage, chat = opened(lambda _: {"reason": "fine", "verdict": "ok"}, **options)
    stage([edit(0, "Paint it red.")])
    assert chat.requests[0].extra == extra


def test_the_reason_comes_before_the_verdict() -> None:
    schema = json_schema(Judgement)
    assert list(schema["properties"]) == ["reason", "verdict"]
    assert tuple(schema["properties"]["verdict"]["enum"]) == VERDICTS


def test_every_verdict_is_explained_to_the_model() -> None:
    system = prompts.shipped(FOLDER)["system"]
    assert all(f"- {verdict}:" in system for verdict in VERDICTS)


def test_needs_and_identity() -> None:
    models = {"judge": ModelServer(model="Qwen/Qwen3-32B", serve="vllm")}

    def settings(**options: Any) -> Screen.Settings:
        return Screen.Settings(screener={"engine": "llm", "server": "judge", **options})

    needs = Screen.needs(settings())
    assert (needs.own_pool, needs.servers, needs.packages) == (True, ("judge",), {"openai": "chat"})
    assert needs.fragments > 1
    assert (needs.reads, needs.optional_reads) == (("target",), ("caption",))
    assert not Screen.needs(Screen.Settings()).own_pool
    plain = engines.identity(settings(), models)
    assert engines.identity(settings(prompts={"system": "Say ok."}), models) != plain
    assert engines.identity(settings(image=True), models) != plain
    other = {"judge": ModelServer(model="Qwen/Qwen3-8B", serve="vllm")}
    assert engines.identity(settings(), other) != plain
    moved = {"judge": ModelServer(model="Qwen/Qwen3-32B", endpoints=["http://elsewhere:8000/v1"])}
    assert engines.identity(settings(), moved) == plain


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"engine": "llm"}, "server"),
        ({"engine": "lm", "server": "judge"}, "did you mean 'llm'"),
        ({"engine": "rules", "server": "judge"}, "server"),
        ({"engine": "llm", "server": "judge", "thinks": True}, "thinking"),
        ({"engine": "llm", "server": "judge", "prompts": {"sistem": "?"}}, "system"),
        ({"engine": "llm", "server": "judge", "prompts": {"words": "{instruction} {colour}"}}, "colour"),
    ],
)
def test_wrong_settings_are_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        Screen.Settings(screener=spec)
