"""The chat client against a healthy server: what is sent, how answers are read, how requests flow; and ratings."""

from __future__ import annotations

import base64
import json
import math
import pickle
import re
import threading
from typing import Any, Literal

import numpy as np
import pytest
from chat_fakes import FakeChat, pictures_of, texts_of
from chat_server import ChatServer, link_to, picture_urls, true_answer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ugaf.imaging import images
from ugaf.models.chat import Answer, ChatRequest, Message, Picture, Sampling, Token, open_chat
from ugaf.models.chat.body import body_of, data_url, seed_of
from ugaf.models.chat.client import Client, client_of
from ugaf.models.chat.ratings import expected_rating, number_at
from ugaf.models.chat.reply import first_object, split_thinking
from ugaf.models.chat.schemas import json_schema, line
from ugaf.models.chat.tokens import tokens_of
from ugaf.models.chat.transport import Pace
from ugaf.stage import Failure

FAST = Pace(first_s=0.01, most_s=0.05, probe_first_s=0.02, probe_most_s=0.05)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: line(20)
    kind: Literal["good", "bad"]


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: line(200)
    inner: Inner
    scores: list[int] = Field(min_length=2, max_length=3)
    score: int = Field(ge=1, le=5)


def question(text: str, *pictures: Picture, schema: Any = Verdict, **more: Any) -> ChatRequest:
    return ChatRequest((Message("system", ("You judge.",)), Message("user", (*pictures, text))), schema, **more)


def good(outcome: Answer | Failure) -> Answer:
    assert isinstance(outcome, Answer), str(outcome)
    return outcome


# What is sent


def test_answers_come_in_order_and_are_the_servers_own() -> None:
    texts = [f"question {i}" for i in range(40)]
    with ChatServer() as server:
        answers = [good(a) for a in Client(server.link(in_flight=7), FAST).ask(question(text) for text in texts)]
    assert [a.value.model_dump() for a in answers] == [true_answer(text, json_schema(Verdict)) for text in texts]
    assert {(a.tokens_in, a.tokens_out, a.tries) for a in answers} == {(7, 3, 1)}


def test_a_free_text_has_no_value() -> None:
    with ChatServer() as server:
        [answer] = Client(server.link(), FAST).ask([question("hello", schema=None)])
        assert good(answer).text == true_answer("hello")
        assert good(answer).value is None
        assert "response_format" not in server.asked[0].body


def test_sampling_and_extra_fields_are_sent_and_what_is_not_set_is_not() -> None:
    sampling = Sampling(temperature=0.7, top_k=20, max_tokens=99, seed=2**40, top_logprobs=5)
    with ChatServer() as server:
        asked = question("q", sampling=sampling, extra={"chat_template_kwargs": {"enable_thinking": False}})
        Client(server.link(), FAST).ask([asked, question("r")])
        first, second = sorted((a.body for a in server.asked), key=lambda body: len(body), reverse=True)
    sent = {key: first[key] for key in ("temperature", "top_k", "max_tokens", "seed", "logprobs", "top_logprobs")}
    assert sent == {
        "temperature": 0.7,
        "top_k": 20,
        "max_tokens": 99,
        "seed": 2**40,
        "logprobs": True,
        "top_logprobs": 5,
    }
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert not {"temperature", "top_p", "top_k", "logprobs", "top_logprobs"} & set(second)


def test_pictures_are_reduced_never_enlarged_and_sent_in_their_place() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    with ChatServer() as server:
        message = Message("user", ("before", Picture(pixels, 45, "png"), "between", Picture(pixels, 1000), "after"))
        Client(server.link(), FAST).ask([ChatRequest((message,))])
        body = server.asked[0].body
    kinds = [part["type"] for part in body["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]
    small, large = picture_urls(body)
    assert small.startswith("data:image/png;base64,")
    assert large.startswith("data:image/jpeg;base64,")
    decoded = images.decode(base64.b64decode(small.partition(",")[2]))
    # Half the size: every pixel is the mean of four.
    means = pixels.reshape(30, 2, 45, 2, 3).mean(axis=(1, 3))
    assert np.abs(decoded - means).max() <= 0.5
    assert images.decode(base64.b64decode(large.partition(",")[2])).shape == pixels.shape


def test_a_png_at_its_own_size_arrives_bit_by_bit() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (17, 23, 3), dtype=np.uint8)
    sent = base64.b64decode(data_url(Picture(pixels, None, "png")).partition(",")[2])
    assert np.array_equal(images.decode(sent), pixels)


def test_a_picture_that_cannot_be_encoded_costs_its_own_row_only() -> None:
    bad = Picture(np.zeros((4, 4, 3), np.uint8), format="gif")
    with ChatServer() as server:
        outcomes = Client(server.link(in_flight=1), FAST).ask([question("a"), question("b", bad), question("c")])
    assert [type(outcome) for outcome in outcomes] == [Answer, Failure, Answer]
    assert "gif" in str(outcomes[1])


@pytest.mark.parametrize("structured", ["json_object", "none"])
def test_a_server_without_schemas_is_told_the_schema_in_words(structured: str) -> None:
    fenced = {"reason": 'a "quoted" word\nand a new line', "inner": {"title": "x", "kind": "bad"}}
    fenced |= {"scores": [1, 2], "score": 3}
    said = f"Sure! Here {{you}} are:\n```json\n{json.dumps(fenced, indent=1)}\n```\nAnything else? {{}}"
    with ChatServer(answer=lambda *_: said) as server:
        [answer] = Client(server.link(structured=structured), FAST).ask([question("the question")])
        body = server.asked[0].body
    assert good(answer).value.reason == 'a "quoted" word and a new line'
    assert good(answer).value.score == 3
    assert body.get("response_format") == ({"type": "json_object"} if structured == "json_object" else None)
    words = body["messages"][1]["content"]
    assert words.startswith("the question\n")
    assert "at most 200 characters" in words
    assert '"maximum": 5' in words
    assert "pattern" not in words


# How answers are read


@pytest.mark.parametrize("fields", [{"reasoning": " so "}, {"reasoning_content": "so"}])
def test_thinking_that_the_server_parsed_is_kept_aside(fields: dict[str, str]) -> None:
    with ChatServer(message=fields) as server:
        [answer] = Client(server.link(), FAST).ask([question("q")])
    assert good(answer).thinking == "so"


def test_thinking_in_the_text_is_parsed_off_and_its_tokens_too() -> None:
    with ChatServer(thinking='{"score": 5}? no') as server:
        [answer] = Client(server.link(), FAST).ask([question("q", sampling=Sampling(top_logprobs=2))])
    answer = good(answer)
    assert answer.thinking == '{"score": 5}? no'
    assert answer.value.model_dump() == true_answer("q", json_schema(Verdict))
    assert "".join(token.text for token in answer.tokens) == answer.text
    assert json.loads(answer.text) == answer.value.model_dump()


@pytest.mark.parametrize(
    ("content", "text", "thinking"),
    [
        ("<think>a</think>b", "b", "a"),
        ("<think>\na\n</think>\n\nb\n", "b", "a"),
        ("a\n</think>b", "b", "a"),
        ("<think>never closed", "", "never closed"),
        ('{"reason": "the tag </think> in a text"}', '{"reason": "the tag </think> in a text"}', ""),
        ("plain", "plain", ""),
        ("", "", ""),
    ],
)
def test_where_thinking_ends(content: str, text: str, thinking: str) -> None:
    assert split_thinking(content) == (text, thinking)


@pytest.mark.parametrize("score", ['"4"', "4.0", "true", "0", "6", "null", "NaN", "1e0"])
def test_a_value_that_is_almost_a_score_is_none(score: str) -> None:
    class Scored(BaseModel):
        score: int = Field(ge=1, le=5)

    with ChatServer(answer=lambda *_: f'{{"score": {score}}}') as server:
        [outcome] = Client(server.link(answer_tries=1), FAST).ask([question("q", schema=Scored)])
    assert isinstance(outcome, Failure)
    assert outcome.type == "MalformedAnswer"
    assert score.strip('"') in outcome.message


@given(st.text(max_size=200))
def test_the_first_object_is_found_in_any_text_or_none_is(text: str) -> None:
    found = first_object(text + ' {"a": [1, {"b": 2}]} {"c": 3}')
    # An earlier object can only stand in the text that was put before.
    assert found == {"a": [1, {"b": 2}]} or "{" in text


def test_deep_nesting_is_malformed_and_not_a_crash() -> None:
    assert first_object('{"a":' * 100_000) is None


# Schemas


@given(st.text(min_size=1, max_size=30))
def test_what_the_pattern_accepts_the_line_accepts_unchanged(text: str) -> None:
    adapter = TypeAdapter(line(20))
    pattern = adapter.json_schema()["pattern"]
    if re.fullmatch(pattern[1:-1], text) and text == " ".join(text.split()):
        assert adapter.validate_python(text) == text
        assert json.loads(f'"{text}"') == text


@pytest.mark.parametrize("text", ["把这只猫换成一只狗", "a photo — 🐈 (top-left)", "50% {x} [y] 'z'", "x" * 20])
def test_a_line_may_be_in_any_script(text: str) -> None:
    adapter = TypeAdapter(line(30))
    assert re.fullmatch(adapter.json_schema()["pattern"][1:-1], text)
    assert adapter.validate_python(text) == text


@pytest.mark.parametrize("text", ["", "x" * 21, "a\x07b", " \n ", 5, None])
def test_a_line_refuses_what_is_no_line(text: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(line(20)).validate_python(text)


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "a\x00b", " a", "a\u2028b", "a\x85b", "a\x7fb", "x" * 21])
def test_a_constrained_server_cannot_write_what_json_would_have_to_escape(text: str) -> None:
    assert not re.fullmatch(TypeAdapter(line(20)).json_schema()["pattern"][1:-1], text)


def test_a_schema_for_a_server_has_no_references_and_requires_everything() -> None:
    schema = json_schema(Verdict)
    assert "$ref" not in json.dumps(schema)
    assert schema["required"] == ["reason", "inner", "scores", "score"]
    # A field may be called like a keyword of the schema.
    assert list(schema["properties"]["inner"]["properties"]) == ["title", "kind"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["inner"]["properties"]["kind"]["enum"] == ["good", "bad"]


def test_seeds_differ_by_attempt_and_fit_31_bits() -> None:
    seeds = [seed_of(7, attempt) for attempt in range(50)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == [seed_of(7, attempt) for attempt in range(50)]


# Tokens


def _logprobs(*texts: str) -> list[dict[str, Any]]:
    return [{"token": text, "logprob": -0.25, "top_logprobs": [{"token": text, "logprob": -0.25}]} for text in texts]


@pytest.mark.parametrize(
    ("spelled", "text", "kept"),
    [
        (["{", '"a"', ": ", "4", "}"], '{"a": 4}', ["{", '"a"', ": ", "4", "}"]),
        (["hm", "4", "</think>", "\n\n", "4", "<|im_end|>"], "4", ["4"]),
        (["\n\n{", "x}", "\n"], "{x}", ["{", "x}"]),
        (["a", "\ufffd", "\ufffd", "b", "4"], "a猫b4", ["a", "猫", "b", "4"]),
        (["\ufffd", "\ufffd", "\ufffd"], "🐈", ["🐈"]),
        (["a", "<|im_start|>", "b", "<tool_call>", "4", "<|im_end|>"], "ab4", ["a", "b", "4"]),
        (["a", "", "", "猫", "4"], "a猫4", ["a", "猫", "4"]),
        (["a", "b"], "another text", []),
        ([], "text", []),
    ],
)
def test_tokens_spell_the_text(spelled: list[str], text: str, kept: list[str]) -> None:
    assert [token.text for token in tokens_of(_logprobs(*spelled), text)] == kept


# Ratings


def _rated(tokens: list[tuple[str, dict[str, float]]]) -> Answer:
    spelled = tuple(Token(text, top.get(text, -9.0), tuple(top.items())) for text, top in tokens)
    return Answer("".join(text for text, _ in tokens), None, "", spelled, 0, 0, 1)


@given(st.lists(st.floats(-8, 0), min_size=5, max_size=5), st.integers(1, 5))
def test_a_rating_is_the_expectation_over_its_tokens(logprobs: list[float], written: int) -> None:
    top = {str(rating): logprob for rating, logprob in enumerate(logprobs, start=1)} | {" ": -0.1, "five": -0.2}
    answer = _rated([('{"reason": "a 3", "score": ', {}), (str(written), top), ("}", {})])
    weights = np.exp(logprobs)
    expected = float((weights * np.arange(1, 6)).sum() / weights.sum())
    assert expected_rating(answer, "score", 1, 5) == pytest.approx(expected, abs=1e-9)


def test_ratings_out_of_range_take_no_part() -> None:
    answer = _rated([('{"s":', {}), ("4", {"4": math.log(0.5), "9": math.log(0.4), "0": math.log(0.05)}), ("}", {})])
    assert expected_rating(answer, "s", 1, 5) == 4.0


def test_a_token_may_carry_what_stands_before_the_number() -> None:
    answer = _rated([('{"s"', {}), (": 4", {": 4": math.log(0.6), ": 2": math.log(0.2)}), ("}", {})])
    assert expected_rating(answer, "s", 1, 5) == pytest.approx((4 * 0.6 + 2 * 0.2) / 0.8)


def test_two_spellings_of_a_rating_are_added() -> None:
    answer = _rated([('{"s":', {}), (" 4", {" 4": math.log(0.3), "4": math.log(0.3), " 1": math.log(0.2)}), ("}", {})])
    assert expected_rating(answer, "s", 1, 5) == pytest.approx((4 * 0.6 + 1 * 0.2) / 0.8)


def test_nested_ratings_are_found_by_path() -> None:
    answer = _rated([('{"a": {"s": ', {}), ("2", {"2": 0.0}), ('}, "l": [1, ', {}), ("5", {"5": 0.0}), ("]}", {})])
    assert expected_rating(answer, "a.s", 1, 5) == 2.0
    assert expected_rating(answer, "l.1", 1, 5) == 5.0
    assert expected_rating(answer, "s", 1, 5) is None
    assert expected_rating(answer, "l.2", 1, 5) is None


@pytest.mark.parametrize(
    ("tokens", "high"),
    [
        ([('{"s": 4}', {})], 5),  # the number is inside of a larger token
        ([('{"s": ', {}), ("1", {"1": -0.1}), ("2", {"2": -0.1}), ("}", {})], 25),  # spread over two
        ([('{"s": ', {}), ("7", {"7": -0.1, "1": -2.0}), ("}", {})], 25),  # the 1 may be the start of 10..19
        ([('{"s": ', {}), ("4", {"x": -0.1}), (".5}", {})], 5),  # no integer
        ([('{"s": "4"}', {})], 5),
        ([], 5),
    ],
)
def test_a_rating_that_cannot_be_said_is_none(tokens: list[tuple[str, dict[str, float]]], high: int) -> None:
    assert expected_rating(_rated(tokens), "s", 0, high) is None


def test_whole_numbers_of_two_digits_are_rated() -> None:
    answer = _rated([('{"s": ', {}), ("12", {"12": math.log(0.5), "20": math.log(0.3), "7": math.log(0.2)}), ("}", {})])
    assert expected_rating(answer, "s", 0, 25) == pytest.approx(12 * 0.5 + 20 * 0.3 + 7 * 0.2)


@given(
    st.recursive(
        st.integers(0, 99) | st.text(max_size=5) | st.booleans() | st.floats(0, 9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=3),
        max_leaves=12,
    ),
    st.sampled_from([None, 1]),
)
def test_every_integer_of_a_json_text_is_found_where_it_stands(value: Any, indent: int | None) -> None:
    text = f"text before {json.dumps({'top': value}, indent=indent)} and after"
    for path, leaf in _leaves({"top": value}, ""):
        span = number_at(text, path)
        if isinstance(leaf, int) and not isinstance(leaf, bool):
            assert span is not None
            assert int(text[slice(*span)]) == leaf
        else:
            assert span is None


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return [(path[1:], value)]
    return [leaf for key, inner in items for leaf in _leaves(inner, f"{path}.{key}")]


# How requests flow


def test_no_more_than_in_flight_are_on_their_way_from_all_threads_together() -> None:
    pulled: list[int] = []
    with ChatServer(latency=0.02) as server:
        chat = client_of(server.link(in_flight=8))
        ahead: list[int] = []

        def requests(thread: int) -> Any:
            for i in range(60):
                pulled.append(thread)
                ahead.append(len(pulled) - server.count)
                yield question(f"{thread} {i}")

        outcomes: dict[int, list[Answer | Failure]] = {}
        threads = [
            threading.Thread(target=lambda n=n: outcomes.update({n: chat.ask(requests(n))}))  # type: ignore[misc]
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most == 8
    # A request is only taken when a slot is free for it: those taken and not yet at the server hold a slot.
    assert max(ahead) <= 8
    for n in range(4):
        values = [good(outcome).value.model_dump() for outcome in outcomes[n]]
        assert values == [true_answer(f"{n} {i}", json_schema(Verdict)) for i in range(60)]


def test_one_client_for_each_process_and_server() -> None:
    with ChatServer() as one, ChatServer() as two:
        opened: list[Any] = []
        link = one.link(in_flight=3)
        threads = [threading.Thread(target=lambda: opened.append(open_chat(link))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, opened))) == 1
        assert open_chat(one.link(in_flight=3)) is opened[0]
        assert open_chat(two.link(in_flight=3)) is not opened[0]
        assert pickle.loads(pickle.dumps(opened[0])) is opened[0]


def test_two_endpoints_share_the_work() -> None:
    with ChatServer(latency=0.02) as one, ChatServer(latency=0.02) as two:
        Client(link_to([one, two], in_flight=8), FAST).ask(question(str(i)) for i in range(200))
        assert one.count + two.count == 200
        assert min(one.count, two.count) > 60


def test_an_error_of_the_iterable_is_the_callers_and_frees_all_slots() -> None:
    def requests() -> Any:
        yield question("a")
        yield question("b")
        raise KeyError("mine")

    with ChatServer(latency=0.05) as server:
        chat = Client(server.link(in_flight=2), FAST)
        for _ in range(3):
            with pytest.raises(KeyError, match="mine"):
                chat.ask(requests())
        assert len(chat.ask(question(str(i)) for i in range(6))) == 6


def test_nothing_to_ask_is_no_answer() -> None:
    with ChatServer() as server:
        assert Client(server.link(), FAST).ask([]) == []
        assert server.count == 0


def test_the_served_name_goes_into_requests_and_the_models_name_into_rows() -> None:
    with ChatServer(models=["served"]) as server:
        chat = Client(server.link(model="hub/model", served_name="served"), FAST)
        good(chat.ask([question("q")])[0])
        assert server.asked[0].body["model"] == "served"
        assert chat.model == "hub/model"


def test_body_is_the_same_each_time() -> None:
    request = question("q", Picture(np.full((9, 9, 3), 7, np.uint8)))
    assert body_of(request, "m", "json_schema") == body_of(request, "m", "json_schema")


# The fake that other tests use


def test_the_fake_checks_answers_as_the_client_does() -> None:
    def picky(value: Any) -> None:
        if value.score == 1:
            raise ValueError("one is not enough")

    replies: list[Any] = [true_answer("x", json_schema(Verdict)) | {"score": s} for s in (5, 1, 9)]
    fake = FakeChat(lambda _: replies[len(fake.requests) - 1], logprobs=True)
    picture = Picture(np.zeros((2, 2, 3), np.uint8))
    outcomes = fake.ask(question(f"q{i}", picture, check=picky) for i in range(3))
    assert good(outcomes[0]).value.score == 5
    assert expected_rating(good(outcomes[0]), "score", 1, 5) == 5.0
    assert "one is not enough" in str(outcomes[1])
    assert "less than or equal to 5" in str(outcomes[2])
    assert texts_of(fake.requests[2]) == "You judge.\nq2"
    assert pictures_of(fake.requests[2]) == [picture]
