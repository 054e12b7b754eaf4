"""The chat client against servers that misbehave: each way to fail by itself, all mixed, and those that end a run."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from chat_server import (
    ALWAYS,
    ANSWER_FAULTS,
    FINAL_FAULTS,
    RETRIED_FAULTS,
    ChatServer,
    Fault,
    link_to,
    mixed_faults,
    true_answer,
)
from places import SUPPORT
from pydantic import BaseModel, Field

from ugaf.base.errors import StopRun
from ugaf.models.chat import Answer, ChatRequest, Message, Picture, Sampling
from ugaf.models.chat.blame import Blame
from ugaf.models.chat.client import Client, client_of
from ugaf.models.chat.reply import AnswerError
from ugaf.models.chat.schemas import json_schema, line
from ugaf.models.chat.transport import Pace, _retry_after
from ugaf.models.servers import ModelServer, ServerLink
from ugaf.stage import Failure

FAST = Pace(first_s=0.01, most_s=0.05, probe_first_s=0.02, probe_most_s=0.05)
KEY = "sk-very-secret-0123456789"


class Scored(BaseModel):
    reason: line(100)
    score: int = Field(ge=1, le=5)


def question(text: str, *pictures: Picture, **more: Any) -> ChatRequest:
    return ChatRequest((Message("user", (*pictures, text)),), Scored, **more)


def truth(text: str) -> Any:
    return true_answer(text, json_schema(Scored))


def only(kind: str, times: int) -> Any:
    """That fault for the questions with "bad" in their text."""
    return lambda text: Fault(kind, times) if "bad" in text else None


def said(outcome: Answer | Failure) -> Any:
    return outcome.value.model_dump() if isinstance(outcome, Answer) else outcome.type


# One fault at a time


@pytest.mark.parametrize("kind", RETRIED_FAULTS)
def test_a_fault_of_the_server_that_passes_is_not_seen_in_the_answer(kind: str) -> None:
    with ChatServer(faults=only(kind, 1)) as server:
        link = server.link(timeout_s=1 if kind == "hang" else 30, in_flight=2)
        outcomes = Client(link, FAST).ask(question(text) for text in ("good", "bad"))
        seeds = {asked.seed for asked in server.asked if asked.text == "bad"}
    assert [said(outcome) for outcome in outcomes] == [truth("good"), truth("bad")]
    assert [outcome.tries for outcome in outcomes if isinstance(outcome, Answer)] == [1, 2]
    assert len(seeds) == 1  # the same question is sent again


PERSISTENT = {
    "429": ("ServerBusy", "HTTP 429: 'slow down'"),
    "500 html": ("ServerError", "HTTP 500: '<html><body><h1>Something broke"),
    "503": ("ServerError", "HTTP 503"),
    "200 html": ("ServerError", "not a JSON object: '<html>"),
    "200 half": ("ServerError", "not JSON"),
    "hang": ("TimedOut", "timeout_s (1 s)"),
    "cut before": ("Disconnected", "cut"),
    "cut within": ("Disconnected", "cut"),
}


@pytest.mark.parametrize("kind", RETRIED_FAULTS)
def test_a_fault_of_the_server_that_stays_fails_its_row_after_all_tries(kind: str) -> None:
    with ChatServer(faults=only(kind, ALWAYS)) as server:
        link = server.link(timeout_s=1 if kind == "hang" else 30, tries=3, in_flight=2)
        good, bad = Client(link, FAST).ask(question(text) for text in ("good", "bad"))
        sent = sum(asked.text == "bad" for asked in server.asked)
    assert said(good) == truth("good")
    assert isinstance(bad, Failure)
    kind_said, words = PERSISTENT[kind]
    assert bad.type == kind_said
    assert words in bad.message
    assert "after 3 tries" in bad.message
    assert server.url in bad.message
    assert sent == 3


SPOILED = {
    "half json": ("MalformedAnswer", "no JSON object"),
    "wrong schema": ("MalformedAnswer", "score: Field required"),
    "refusal": ("RefusedAnswer", "I would rather not."),
    "filtered": ("RefusedAnswer", "content filter"),
    "no choices": ("EmptyAnswer", "no choices"),
    "nothing": ("EmptyAnswer", "answered nothing"),
    "too long": ("TruncatedAnswer", "max_tokens (1024); raise it"),
    "only thinking": ("EmptyAnswer", "I wonder whether"),
}


@pytest.mark.parametrize("kind", ANSWER_FAULTS)
def test_an_answer_that_cannot_be_used_is_asked_for_again_with_another_seed(kind: str) -> None:
    with ChatServer(faults=only(kind, 2)) as server:
        [outcome] = Client(server.link(answer_tries=3), FAST).ask([question("bad", sampling=Sampling(seed=5))])
        seeds = [asked.seed for asked in server.asked]
    assert isinstance(outcome, Answer)
    assert said(outcome) == truth("bad")
    assert outcome.tries == 3
    # Tokens of the answers that were thrown away were used too.
    assert (outcome.tokens_in, outcome.tokens_out) == (3 * 7, 3 * 3)
    assert seeds[0] == 5
    assert len(set(seeds)) == 3


@pytest.mark.parametrize("kind", ANSWER_FAULTS)
def test_an_answer_that_stays_unusable_fails_its_row_and_shows_its_beginning(kind: str) -> None:
    with ChatServer(faults=only(kind, ALWAYS)) as server:
        link = server.link(answer_tries=2, in_flight=1)
        good, bad = Client(link, FAST).ask(question(text) for text in ("good", "bad"))
        # The good one, two tries, and the good one again: does the server still answer?
        assert server.count == 4
    assert said(good) == truth("good")
    assert isinstance(bad, Failure)
    kind_said, words = SPOILED[kind]
    assert bad.type == kind_said
    assert words in bad.message
    assert "after 2 tries" in bad.message


@pytest.mark.parametrize("kind", FINAL_FAULTS)
def test_a_refused_request_fails_its_row_at_once_with_the_servers_words(kind: str) -> None:
    with ChatServer(faults=only(kind, ALWAYS)) as server:
        chat = Client(server.link(), FAST)
        assert said(chat.ask([question("good")])[0]) == truth("good")
        [bad] = chat.ask([question("bad")])
        assert server.count == 3  # the good one is asked once more: is it the server?
    assert isinstance(bad, Failure)
    assert bad.type == "RequestRefused"
    assert f"HTTP {kind}: 'this request is bad in way {kind}'" in bad.message


def test_an_answer_that_the_check_refuses_is_asked_for_again() -> None:
    seen: list[int] = []

    def second_only(value: Scored) -> None:
        seen.append(value.score)
        if len(seen) < 2:
            raise ValueError("not this one")

    with ChatServer() as server:
        [outcome] = Client(server.link(), FAST).ask([question("q", check=second_only)])
        [refused] = Client(server.link(answer_tries=2), FAST).ask([question("q", check=lambda _: int("x"))])
    assert isinstance(outcome, Answer)
    assert outcome.tries == 2
    assert isinstance(refused, Failure)
    assert refused.type == "MalformedAnswer"
    assert "invalid literal" in refused.message


def test_an_error_in_a_check_is_its_rows_own() -> None:
    def broken(_: Any) -> None:
        raise KeyError("bug")

    with ChatServer() as server:
        bad, good = Client(server.link(), FAST).ask([question("a", check=broken), question("b")])
    assert isinstance(bad, Failure)
    assert bad.type == "KeyError"
    assert said(good) == truth("b")


def test_a_server_that_asks_for_time_gets_it() -> None:
    with ChatServer(faults=only("429", 1), retry_after="0.4") as server:
        start = time.monotonic()
        assert said(Client(server.link(), FAST).ask([question("bad")])[0]) == truth("bad")
    assert time.monotonic() - start >= 0.4


def test_retry_after_is_seconds_or_a_date() -> None:
    from email.utils import formatdate

    assert _retry_after({"retry-after": "7"}) == 7.0
    assert _retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)}) == pytest.approx(60, abs=2)
    assert _retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0.0
    assert _retry_after({"retry-after": "soon"}) is None
    assert _retry_after({}) is None


def test_waits_grow_and_are_spread() -> None:
    pace = Pace(first_s=1, most_s=8)
    waits = [[pace.backoff(tries, None) for _ in range(200)] for tries in range(1, 7)]
    for tries, drawn in enumerate(waits):
        full = min(8, 2**tries)
        assert full / 2 <= min(drawn) < max(drawn) <= full
    assert pace.backoff(1, 20.0) >= 20.0


@pytest.mark.parametrize("kind", ["400", "401", "404", "500 html", "200 half", "wrong schema", "half json", "nothing"])
def test_a_server_that_changes_its_mind_fails_no_row(kind: str) -> None:
    """After 30 good answers it fails every request alike; a single bad request among good ones is its row's."""
    with ChatServer() as server:
        link = server.link(in_flight=4, tries=2, answer_tries=2, patience_s=0.5)
        chat = Client(link, FAST)
        assert all(isinstance(one, Answer) for one in chat.ask(question(f"{i}") for i in range(30)))
        server.faults = lambda _: Fault(kind, ALWAYS)
        with pytest.raises(StopRun, match=r"answered 3\d requests, and now fails them all|refuses the key"):
            chat.ask(question(f"later {i}") for i in range(8))
        server.faults = lambda _: None
        assert isinstance(chat.ask([question("again")])[0], Answer)
        server.faults = lambda text: Fault(kind, ALWAYS) if text == "later 3" else None
        outcomes = chat.ask(question(f"later {i}") for i in range(8))
    assert [isinstance(one, Failure) for one in outcomes] == [i == 3 for i in range(8)]


def test_a_server_that_fails_for_a_while_is_waited_for() -> None:
    with ChatServer() as server:
        chat = Client(server.link(in_flight=4, tries=2, patience_s=30), FAST)
        chat.ask([question("before")])
        server.faults = lambda _: Fault("500 html", ALWAYS)
        threading.Timer(0.7, lambda: setattr(server, "faults", lambda _: None)).start()
        outcomes = chat.ask(question(f"{i}") for i in range(6))
    assert all(isinstance(one, Answer) for one in outcomes)


@pytest.mark.parametrize("kind", ["400", "500 html", "wrong schema", "nothing", "200 half"])
def test_failures_of_a_server_that_never_answered_are_nobodys_yet(kind: str) -> None:
    with ChatServer(faults=lambda _: Fault(kind, ALWAYS)) as server:
        link = server.link(in_flight=4, tries=1, answer_tries=1)
        few = Client(link, FAST).ask(question(f"{i}") for i in range(19))
        assert not any(one.foreseen for one in few if isinstance(one, Failure))
        with pytest.raises(StopRun, match="answered none"):
            Client(link, FAST).ask(question(f"{i}") for i in range(100))


# All of them at once


@pytest.fixture
def faulty_server() -> Iterator[str]:
    """URL of a server in a process of its own, 30 % of whose questions meet a fault."""
    script = SUPPORT / "chat_server.py"
    process = subprocess.Popen([sys.executable, str(script), "--faulty", "0.3"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait(20)


def test_where_nothing_but_refusals_comes_the_run_stops() -> None:
    with ChatServer(faults=lambda _: Fault("400", ALWAYS)) as server:
        few, many = Client(server.link(in_flight=4), FAST), Client(server.link(in_flight=4), FAST)
        assert [said(outcome) for outcome in few.ask(question(f"{i}") for i in range(19))] == ["RequestRefused"] * 19
        with pytest.raises(StopRun, match=r"refused the first 20 requests and answered none, .*HTTP 400"):
            many.ask(question(f"{i}") for i in range(100))


def test_an_account_without_money_stops_the_run() -> None:
    with ChatServer(faults=only("402", ALWAYS)) as server:
        chat = Client(server.link(), FAST)
        assert said(chat.ask([question("good")])[0]) == truth("good")
        with pytest.raises(StopRun, match="HTTP 402"):
            chat.ask([question("bad")])


def test_a_thousand_requests_a_third_of_them_faulty_all_end_true_or_say_why(faulty_server: str) -> None:
    faults = mixed_faults(0.3)
    texts = [f"row {i}" for i in range(1000)]
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    process, sizes = psutil.Process(), []

    def requests(part: list[str]) -> Iterator[ChatRequest]:
        for text in part:
            sizes.append(process.memory_info().rss)
            yield question(text, Picture(noise.copy(), 64))

    settings = ModelServer(model="test-model", endpoints=[faulty_server], timeout_s=4, tries=3, answer_tries=2)
    chat = Client(ServerLink("judge", settings, (faulty_server,)), FAST)
    good = [f"warm {i}" for i in range(64) if faults(f"warm {i}") is None]
    assert len(chat.ask(requests(good))) == len(good)
    gc.collect()
    sizes.clear()
    outcomes = chat.ask(requests(texts))
    failed = 0
    for text, outcome in zip(texts, outcomes, strict=True):
        fault = faults(text)
        if fault is None or (fault.times == 1 and fault.kind != "400"):
            assert said(outcome) == truth(text), (text, fault, outcome)
        else:
            failed += 1
            assert isinstance(outcome, Failure), (text, fault)
            expected = ({**PERSISTENT, **SPOILED} | {"400": ("RequestRefused", "HTTP 400")})[fault.kind]
            assert outcome.type == expected[0], (text, fault, outcome)
    assert 50 < failed < 150
    # 1,000 pictures are 480 MB as pixels.
    assert max(sizes) - sizes[0] < 60e6


# Faults that are nobody's own


def test_a_refused_key_stops_the_run_and_names_the_variable_not_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with ChatServer(key="another") as server:
        with pytest.raises(StopRun, match="JUDGE_KEY") as caught:
            Client(server.link(api_key_env="JUDGE_KEY"), FAST).ask([question("q")])
        assert KEY not in str(caught.value)
        with pytest.raises(StopRun, match="api_key_env"):
            Client(server.link(), FAST).ask([question("q")])


def test_a_key_that_is_not_set_stops_the_run_and_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with ChatServer(key=KEY) as server:
        with pytest.raises(StopRun, match="JUDGE_KEY"):
            client_of(server.link(api_key_env="JUDGE_KEY"))
        assert server.looks == 0


def test_a_key_is_read_anew_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "old")
    with ChatServer(key=KEY) as server:
        chat = Client(server.link(api_key_env="JUDGE_KEY"), FAST)
        with pytest.raises(StopRun):
            chat.ask([question("q")])
        monkeypatch.setenv("JUDGE_KEY", KEY)
        assert said(chat.ask([question("q")])[0]) == truth("q")


def test_a_key_meant_for_somebody_else_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer() as server:
        Client(server.link(), FAST).ask([question("q")])
        assert KEY not in str(server.asked[0].headers)


def test_a_key_is_in_no_error_no_log_no_pickle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    # The server repeats the key that it was sent, as some do.
    with ChatServer(key=KEY) as server:
        chat = client_of(server.link(api_key_env="JUDGE_KEY"))
        assert said(chat.ask([question("q")])[0]) == truth("q")
        texts = [repr(chat), str(vars(chat)["_link"]), repr(pickle.dumps(chat))]
        server.key = "changed"
        with pytest.raises(StopRun) as caught:
            chat.ask([question("q")])
        assert "Incorrect API key provided: Bearer ***" in str(caught.value)
        texts += [str(caught.value), repr(caught.value)]
    texts += [record.getMessage() for record in caplog.records]
    assert caplog.records
    assert not [text for text in texts if KEY in text]


def test_a_model_that_is_not_there_stops_the_run_with_the_nearest_name() -> None:
    with ChatServer(models=["Qwen/Qwen3-VL-32B", "other"]) as server:
        with pytest.raises(StopRun, match=r"did you mean 'Qwen/Qwen3-VL-32B'\?.*served_name"):
            Client(server.link(model="Qwen/Qwen3-VL-32B-Instruct"), FAST).ask([question("q")])
        assert server.count == 0


def test_a_server_without_a_list_of_models_is_taken_as_it_is() -> None:
    with ChatServer(models=None) as server:
        assert said(Client(server.link(), FAST).ask([question("q")])[0]) == truth("q")


def test_a_wrong_address_stops_the_run_before_rows_fail() -> None:
    with ChatServer() as server:
        link = server.link(endpoints=[server.url.removesuffix("/v1")])
        link = type(link)(link.name, link.settings, tuple(link.settings.endpoints))
        with pytest.raises(StopRun, match="/v1"):
            Client(link, FAST).ask([question("q")])


def test_a_server_that_stays_away_stops_all_callers_and_names_the_endpoints() -> None:
    with ChatServer() as server:
        link = server.link(patience_s=0.4, in_flight=2)
        chat = Client(link, FAST)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            chat.ask(question(str(i)) for i in range(5))
        except StopRun as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 3
    assert all(server.url in str(error) and "ConnectError" in str(error) for error in errors)


def test_requests_wait_for_a_server_that_comes_back_and_lose_no_try() -> None:
    with ChatServer(latency=0.02) as server:
        chat = Client(server.link(tries=2, in_flight=4), FAST)
        assert said(chat.ask([question("first")])[0]) == truth("first")
        server.stop()
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.extend(chat.ask(question(str(i)) for i in range(20))))
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive()
        assert not waiting
        server.start()
        thread.join(20)
        assert [said(outcome) for outcome in waiting] == [truth(str(i)) for i in range(20)]
        assert {outcome.tries for outcome in waiting} == {1}


def test_a_gateway_with_nothing_behind_it_is_waited_for() -> None:
    with ChatServer(faults=only("503", 1)) as server:
        server.health = 503
        chat = Client(server.link(tries=1, in_flight=4), FAST)
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.extend(chat.ask([question("good"), question("bad")])))
        thread.start()
        time.sleep(0.3)
        assert server.count == 0
        server.health = 200
        thread.join(20)
    # `tries` is 1: the 503 of a server that says it is well has used it up.
    assert [said(outcome) for outcome in waiting] == [truth("good"), "ServerError"]


def test_a_dying_endpoints_requests_go_to_the_other_and_it_gets_some_when_it_is_back() -> None:
    with ChatServer(latency=0.02) as one, ChatServer(latency=0.02) as two:
        chat = Client(link_to([one, two], in_flight=8), FAST)
        outcomes: list[Any] = []

        def requests() -> Iterator[ChatRequest]:
            for i in range(300):
                if i == 100:
                    one.stop()
                if i == 200:
                    one.start()
                    counts.append(one.count)
                yield question(str(i))

        counts: list[int] = []
        outcomes = chat.ask(requests())
        assert [said(outcome) for outcome in outcomes] == [truth(str(i)) for i in range(300)]
        assert counts[0] < 100
        assert one.count > counts[0]


def test_new_addresses_are_asked_for_when_a_server_is_away() -> None:
    with ChatServer() as old, ChatServer() as new:
        asked: list[int] = []

        def refresh() -> tuple[str, ...]:
            asked.append(1)
            return (new.url,) if len(asked) > 1 else (old.url,)

        chat = Client(link_to([old], refresh=refresh), FAST)
        assert said(chat.ask([question("a")])[0]) == truth("a")
        assert not asked
        old.stop()
        assert said(chat.ask([question("b")])[0]) == truth("b")
        assert new.count == 1


def test_a_server_that_was_given_up_stops_every_call_at_once() -> None:
    def refresh() -> tuple[str, ...]:
        raise StopRun("vllm died: CUDA out of memory")

    with ChatServer() as server:
        chat = Client(link_to([server], refresh=refresh), FAST)
        server.stop()
        start = time.monotonic()
        with pytest.raises(StopRun, match="CUDA out of memory"):
            chat.ask(question(str(i)) for i in range(500))
        assert time.monotonic() - start < 20


def test_a_stop_cancels_what_is_in_flight_and_a_later_call_begins_anew() -> None:
    with ChatServer(latency=0.01) as server:
        server.faults = lambda text: Fault("hang", ALWAYS) if "hang" in text else None
        chat = Client(server.link(in_flight=4, timeout_s=60), FAST)
        assert said(chat.ask([question("a")])[0]) == truth("a")
        caught: list[StopRun] = []

        def ask() -> None:
            try:
                chat.ask([question("hang 1"), question("hang 2")])
            except StopRun as error:
                caught.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while server.in_hand < 2:
            time.sleep(0.01)
        server.models = ["another"]
        server.faults = lambda text: Fault("401", ALWAYS) if "bad" in text else None
        with pytest.raises(StopRun, match="another"):
            chat.ask([question("bad")])
        thread.join(20)
        assert "another" in str(caught[0])
        server.models = ["test-model"]
        assert said(chat.ask([question("b")])[0]) == truth("b")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_its_own_client() -> None:
    with ChatServer() as server:
        link = server.link()
        assert said(client_of(link).ask([question("parent")])[0]) == truth("parent")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, str(said(client_of(link).ask([question("child")])[0]) == truth("child")).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        assert os.read(reader, 10) == b"True"


def test_a_witness_is_asked_as_it_was_answered_and_in_other_ways_after_that() -> None:
    """A model that says nothing of use to the seed of the first try is no server that has changed its mind."""
    asked: list[tuple[str, int]] = []

    async def ask(ready: str, attempt: int) -> None:
        asked.append((ready, attempt))
        if attempt < 2:
            raise AnswerError("NotEnglish", "what it says is of no use")

    failure = Failure("NotEnglish", "again")
    for well_at, asks in ((2, [2]), (1, [1, 2])):
        asked.clear()
        blame: Blame[str] = Blame("eyes", Pace(0.01, 0.01), patience_s=5, tries=3, ask=ask)
        blame.answered("good", time.monotonic() - 1, well_at)
        assert asyncio.run(blame.of(failure)) == failure
        assert [attempt for _, attempt in asked] == asks
    blame = Blame("eyes", Pace(0.01, 0.01), patience_s=5, tries=2, ask=ask)
    blame.answered("good", time.monotonic() - 1, 0)
    with pytest.raises(StopRun, match="fails them all"):
        asyncio.run(blame.of(failure))
