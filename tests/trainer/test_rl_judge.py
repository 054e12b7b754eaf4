"""The judge over a real socket: what it is shown, how its ratings are read, and what becomes of unusable answers."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from chat_server import ALWAYS, ChatServer, Fault, picture_urls

from ugaf.base.errors import StopRun
from ugaf.imaging import images
from ugaf.stage import Failure
from ugaf.trainer.rl.judge import Judge
from ugaf.trainer.rl.rewards import HIDDEN, Case, rewards
from ugaf.trainer.rl.settings import RewardSettings

pytestmark = pytest.mark.torch

pytest.importorskip("openai")
PART = {"painted grey in both and is not to be judged": "region", "stay exactly as it was": "background"}


def part_of(text: str) -> str:
    return next((part for words, part in reversed(PART.items()) if words in text), "whole")


def says(ratings: Mapping[str, int]) -> Any:
    return lambda text, _: {"reasoning": "seen", "rating": ratings[part_of(text)]}


def settings(server: ChatServer, **changes: Any) -> RewardSettings:
    fast = {"tries": 2, "answer_tries": 2, "timeout_s": 20.0, "patience_s": 1.0}
    entry = {"model": "test-model", "endpoints": [server.url], **fast}
    return RewardSettings.model_validate({"scorer": "judge", "server": entry, **changes})


def case(instruction: str = "Make it white.", outputs: int = 2) -> Case:
    source = np.full((40, 60, 3), (200, 40, 40), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[8:24, 16:48] = True
    made = []
    for number in range(outputs):
        output = source.copy()
        output[mask] = (40, 200, 60 + 60 * number)
        made.append(output)
    return Case("one", instruction, source, made[0], mask, made, list(range(outputs)))


def without_logprobs(server: ChatServer) -> ChatServer:
    """A server that does not know them."""
    payload = server._payload
    server._payload = lambda body, answer: payload({**body, "logprobs": False}, answer)  # type: ignore[method-assign]
    return server


def test_ratings_become_scores_of_0_to_1() -> None:
    with without_logprobs(ChatServer(answer=says({"region": 5, "background": 2, "whole": 3}))) as server:
        judge = Judge(settings(server))
        assert judge.score(case(), ("region", "background")) == [{"region": 1.0, "background": 0.25}] * 2
        assert judge.score(case(), ("whole",)) == [{"whole": 0.5}] * 2


def test_log_probabilities_make_a_rating_an_expectation() -> None:
    with ChatServer(answer=says({"region": 4, "background": 5})) as server:
        found = Judge(settings(server)).score(case(outputs=1), ("region", "background"))
    # The server gives every token the alternative "1", at e^-1 of its probability.
    share = 1 / (1 + math.exp(-1))
    assert isinstance(found[0], dict)
    assert found[0]["region"] == pytest.approx((4 * share + 1 - share - 1) / 4)
    assert found[0]["background"] == pytest.approx((5 * share + 1 - share - 1) / 4)


def test_each_part_is_shown_with_the_rest_painted_over() -> None:
    one = case(outputs=1)
    with ChatServer(answer=says({"region": 3, "background": 3, "whole": 3})) as server:
        Judge(settings(server)).score(one, ("region", "background", "whole"))
    assert len(server.asked) == 3
    for asked in server.asked:
        shown = [images.decode(base64.b64decode(url.split(",", 1)[1])) for url in picture_urls(asked.body)]
        part = part_of(asked.text)
        keeps = {"region": one.roi_mask, "background": one.background_mask, "whole": np.ones_like(one.roi_mask)}[part]
        for picture, true in zip(shown, (one.source, one.outputs[0]), strict=True):
            wanted = np.where(keeps[..., None], true, HIDDEN).astype(int)
            # JPEG blurs colours across the border of the box.
            inner = np.zeros_like(keeps)
            inner[12:20, 20:44] = True
            outer = np.ones_like(keeps)
            outer[4:28, 12:52] = False
            assert np.abs(picture - wanted)[inner | outer].max() <= 12, part
        assert ("Make it white." in asked.text) == (part != "background")


def test_passes_are_asked_with_seeds_of_their_own_and_averaged() -> None:
    count = iter(range(100))

    def answer(*_: Any) -> dict[str, Any]:
        return {"reasoning": "seen", "rating": 2 + 2 * (next(count) % 2)}

    with without_logprobs(ChatServer(answer=answer)) as server:
        found = Judge(settings(server, passes=4)).score(case(outputs=1), ("whole",))
    assert found == [{"whole": 0.5}]
    seeds = [asked.seed for asked in server.asked]
    assert len(set(seeds)) == 4


def test_an_answer_that_cannot_be_read_is_no_score() -> None:
    def broken(text: str) -> Fault | None:
        return Fault("wrong schema", ALWAYS) if part_of(text) == "background" else None

    with without_logprobs(ChatServer(answer=says({"region": 5, "background": 5}), faults=broken)) as server:
        found = rewards(case(), Judge(settings(server)), "decoupled")
    assert np.isnan(found.reward).all()
    assert [member for member, _ in found.failures] == [0, 1]
    assert all("background" in failure.message for _, failure in found.failures)


def test_a_rating_out_of_range_is_no_score() -> None:
    with without_logprobs(ChatServer(answer=lambda *_: {"reasoning": "great", "rating": 9})) as server:
        found = Judge(settings(server)).score(case(outputs=1), ("whole",))
    assert isinstance(found[0], Failure)


def test_a_server_that_is_gone_stops_the_run() -> None:
    server = ChatServer(answer=says({"whole": 3}))
    server.start()
    judge = Judge(settings(server))
    server.stop()
    with pytest.raises(StopRun):
        judge.score(case(outputs=1), ("whole",))
