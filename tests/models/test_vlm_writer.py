"""The vision-language writer: what is asked, what is shown, what counts as an answer, and what becomes of failures."""

from __future__ import annotations

import collections
import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from chat_fakes import FakeChat, pictures_of, texts_of, unmarked
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ugaf.stages.annotation.instruct import Instruct

from ugaf.base.errors import ConfigError, StopRun
from ugaf.imaging import boxes, images, marks
from ugaf.models.chat import Answer, ChatRequest
from ugaf.models.servers import ModelServer
from ugaf.models.writers import vlm as vlm_writer
from ugaf.models.writers import vlm_answers
from ugaf.stage import Failure, Row, engines, prompts
from ugaf.wording import layout
from ugaf.wording.composing import Composer

WIDTH, HEIGHT = 600, 400
OBJECTS = [
    {"box": [40, 210, 200, 390], "label": "Dog", "score": 0.95, "mask": None},
    {"box": [330, 220, 430, 330], "label": "mug", "score": 0.8, "mask": None},
    {"box": [470, 30, 590, 190], "label": "street sign", "score": 0.75, "mask": None},
]
NUMBER = itertools.count()


def photograph(seed: int = 0) -> bytes:
    return images.encode(np.random.default_rng(seed).integers(0, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8))


PHOTO = photograph()


def row_of(number: int = 1, **values: Any) -> Row:
    given = {"image": PHOTO, "width": WIDTH, "height": HEIGHT, "objects": OBJECTS, "caption": "a dog at a crossing"}
    return Row(f"{number:032x}", given | values)


def edits_asked(request: ChatRequest) -> int:
    return int(re.search(r"Write (\d+) instruction", texts_of(request)).group(1))  # type: ignore[union-attr]


def task_of(request: ChatRequest) -> str:
    """The task whose prompt this is, by its first line."""
    firsts = {text.splitlines()[0]: name for name, text in prompts.shipped("annotation/instruct").items()}
    question = str(request.messages[1].parts[-1])
    return firsts[question.splitlines()[0]]


def good(request: ChatRequest) -> dict[str, Any]:
    """An answer that is right in form, with instructions that nobody gave before."""
    chinese = "instruction_cn" in texts_of(request)
    edits = []
    for _ in range(edits_asked(request)):
        number = next(NUMBER)
        edit = {"target": "the dog", "instruction": f"Give the dog look number {number}, 'OPEN'."}
        if chinese:
            edit["instruction_cn"] = f"把狗换成第{number}种样子"
        if task_of(request) == "text":
            edit |= {"old_text": "", "new_text": "OPEN"}
        edits.append(edit)
    return {"seen": "a dog", "why": "it can be done", "feasible": True, "edits": edits}


def steady(request: ChatRequest) -> dict[str, Any]:
    """As `good`, but the same answer to the same request."""
    answer = good(request)
    for number, edit in enumerate(answer["edits"]):
        edit["instruction"] = f"Give the dog look {request.sampling.seed} {number}, 'OPEN'."
    return answer


DECLINED = {"seen": "a dog", "why": "it makes no sense", "feasible": False, "edits": []}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Instruct, FakeChat]]:
    def stage_of(answers: Any = good, seed: int = 0, thinking: str = "", **given: Any) -> tuple[Instruct, FakeChat]:
        chat = Counting(answers, model="internvl", thinking=thinking)
        monkeypatch.setattr(vlm_writer, "open_chat", lambda link: chat if link == "the link" else None)
        writer = {"engine": "vlm", "server": "eyes", **given.pop("writer", {})}
        stage = Instruct("annotation.instruct", Instruct.Settings(writer=writer, **given), seed)
        stage.servers = {"eyes": "the link"}
        stage.setup()
        return stage, chat

    return stage_of


class Counting(FakeChat):
    """Counts its calls, and refuses to be asked with a list: pictures are to be made as there is room for them."""

    asks = 0

    def ask(self, requests: Iterable[ChatRequest]) -> list[Answer | Failure]:
        assert not isinstance(requests, list | tuple)
        self.asks += 1
        return super().ask(requests)


# Prompts


def test_each_task_has_a_prompt_and_each_prompt_a_task() -> None:
    assert set(prompts.shipped("annotation/instruct")) == {*layout.offered(), "system", "chinese"}


@pytest.mark.parametrize("task", layout.offered())
def test_a_request_tells_what_is_known_and_shows_what_is_meant(make: Callable, task: str) -> None:
    stage, chat = make(tasks={task: 1}, edits_per_image=2, registers={"concise": 1})
    children = stage([row_of()])[0]
    request = chat.requests[0]
    text = texts_of(request)
    assert task_of(request) == task
    assert "600 x 400 pixels" in text
    assert "a dog at a crossing" in text
    assert "{" not in text
    count = 1 if task == "remove" else 2
    assert f"Write {count} instruction(s)" in text
    assert ", ".join(["concise"] * count) in text
    marked = 2 if task == "hybrid" else 1
    assert len(pictures_of(request)) == 1 + marked
    told = [tuple(map(int, found)) for found in re.findall(r"x (\d+) to (\d+), y (\d+) to (\d+)", text)]
    assert len(told) == marked
    for child in children[:count]:
        assert child["task"] == task
        expected = [] if task == "background" else [[x1, y1, x2, y2] for x1, x2, y1, y2 in told]
        assert child["boxes"] == expected
        assert child["writer"] == "vlm:internvl"
        assert child["register"] == "concise"
        assert child["params"] is child["donor"] is child["instruction_cn"] is None
    if task not in ("add", "hybrid"):
        box = next(found for found in OBJECTS if f"{found['label'].lower()} (the detector's word)" in unmarked(text))[
            "box"
        ]
        assert told == [(box[0], box[2], box[1], box[3])]
    if task == "add":
        x1, x2, y1, y2 = told[0]
        region = (x1, y1, x2, y2)
        assert sum(boxes.intersection(region, found["box"]) for found in OBJECTS) <= 0.1 * boxes.area(region)


def test_the_picture_carries_the_frame_and_the_crop_does_not(make: Callable) -> None:
    stage, chat = make(tasks={"remove": 1}, edits_per_image=1, writer={"image_side": 300, "crop_side": 64})
    dark = images.encode(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    stage([row_of(image=dark, objects=OBJECTS[:1])])
    whole, crop = (picture.pixels for picture in pictures_of(chat.requests[0]))
    assert whole.shape == (200, 300, 3)
    red = boxes.of_mask((whole == marks.RED).all(axis=2))
    # The dog's box at half size, with a line of two pixels around it, inside the picture.
    assert red == (18, 103, 102, 197)
    assert not crop.any()
    assert max(crop.shape) == 64


def test_two_marked_objects_have_frames_of_two_colours(make: Callable) -> None:
    stage, chat = make(tasks={"hybrid": 1}, edits_per_image=1)
    dark = images.encode(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (child,) = stage([row_of(image=dark)])[0]
    whole = pictures_of(chat.requests[0])[0].pixels
    for box, colour in zip(child["boxes"], (marks.RED, marks.BLUE), strict=True):
        x1, y1, x2, y2 = boxes.of_mask((whole == colour).all(axis=2))
        assert (x1 + 3, y1 + 3, x2 - 3, y2 - 3) == tuple(box)


def test_an_object_without_a_label_is_not_given_one(make: Callable) -> None:
    stage, chat = make(tasks={"recolor": 1}, edits_per_image=1)
    stage([row_of(objects=[{**OBJECTS[0], "label": None}])])
    assert "no word for" in texts_of(chat.requests[0])
    assert "None" not in texts_of(chat.requests[0])


def test_a_caption_with_braces_is_only_text(make: Callable) -> None:
    stage, chat = make(edits_per_image=1)
    stage([row_of(caption="a {dog}\nin {0} braces")])
    assert "a {dog} in {0} braces" in texts_of(chat.requests[0])
    stage([row_of(caption=None)])
    assert "Caption" not in texts_of(chat.requests[1])


def test_prompts_of_the_pipeline_take_the_place_of_ours_and_change_the_fingerprint(make: Callable) -> None:
    own = {"remove": "Away with it, {count} time(s). {metadata}"}
    stage, chat = make(lambda _: DECLINED, writer={"prompts": own}, tasks={"remove": 1}, edits_per_image=1)
    assert stage([row_of()]) == [[]]
    assert str(chat.requests[0].messages[1].parts[-1]).startswith("Away with it, 1 time(s). Photograph: 600 x 400")
    models = {"eyes": ModelServer(model="m", endpoints=["http://127.0.0.1:9/v1"])}
    plain = vlm_writer.VLMWriter.Settings(server="eyes")
    ours = dict.fromkeys(["remove"], prompts.texts("annotation/instruct", {})["remove"])
    same = vlm_writer.VLMWriter.Settings(server="eyes", prompts=ours)
    changed = engines.identity(stage.writer.settings, models)["prompts"]
    assert changed != engines.identity(plain, models)["prompts"] == engines.identity(same, models)["prompts"]
    with pytest.raises(ConfigError, match="did you mean 'remove'"):
        vlm_writer.VLMWriter.Settings(server="eyes", prompts={"removal": "x"})


def test_chinese_is_asked_for_and_written(make: Callable) -> None:
    stage, chat = make(writer={"chinese": True}, edits_per_image=2)
    children = stage([row_of()])[0]
    assert all(re.search("[\u4e00-\u9fff]", child["instruction_cn"]) for child in children)
    assert "simplified Chinese" in texts_of(chat.requests[0])
    plain, chat = make(edits_per_image=2)
    plain([row_of()])
    assert "Chinese" not in texts_of(chat.requests[0])


def test_thinking_is_asked_for_as_set_and_kept_on_the_first_edit_of_a_request(make: Callable) -> None:
    stage, chat = make(writer={"thinking": True}, thinking="hm", edits_per_image=4, tasks={"recolor": 1})
    children = stage([row_of()])[0]
    assert [child["writer_thinking"] for child in children] == ["hm", None, "hm", None]
    assert chat.requests[0].extra == {"chat_template_kwargs": {"enable_thinking": True}}
    stage, chat = make(edits_per_image=1)
    stage([row_of()])
    assert chat.requests[0].extra == {}


# What is chosen


def test_the_shares_of_the_weights_hold_over_edits() -> None:
    weights = {"remove": 3.0, "recolor": 2.0, "motion": 1.0, "style": 2.0, "add": 2.0}
    places = layout.Layout("a", (WIDTH, HEIGHT), OBJECTS)
    counts: collections.Counter[str] = collections.Counter()
    for seed in range(600):
        chosen = layout.choose(places, weights, 2, 2, np.random.default_rng(seed))
        assert sum(number for _, number in chosen) == 2
        for plan, number in chosen:
            counts[plan.task] += number
    total = sum(counts.values())
    for task, weight in weights.items():
        assert counts[task] / total == pytest.approx(weight / 10, abs=0.03), (task, counts)


def test_an_image_gets_different_tasks_until_all_were_asked() -> None:
    places = layout.Layout("a", (WIDTH, HEIGHT), OBJECTS)
    for seed in range(50):
        chosen = layout.choose(places, layout.offered(), 9, 1, np.random.default_rng(seed))
        tasks = [plan.task for plan, _ in chosen]
        assert len(tasks) == 9 == len(set(tasks))
        more = layout.choose(places, {"remove": 1.0, "style": 1.0}, 40, 2, np.random.default_rng(seed))
        asked = [(plan.task, plan.marked) for plan, _ in more]
        assert len(asked) == 6 == len(set(asked))
        assert sum(number for _, number in more) == 9


def test_what_cannot_be_a_target_is_none() -> None:
    objects = [
        {"box": [0, 0, 600, 400], "label": "room", "score": 0.9},
        {"box": [10, 10, 30, 300], "label": "pole", "score": 0.9},
        {"box": [100, 100, 200, 200], "label": None, "score": 0.2},
        {"box": [300, 100, 400, 200], "label": None, "score": 0.5},
    ]
    places = layout.Layout("a", (WIDTH, HEIGHT), objects)
    assert [target.position for target in places.targets] == [3]
    assert places.slots["hybrid"] == []
    assert places.slots["add"] == []  # the room covers all
    assert layout.choose(places, {"hybrid": 1.0, "add": 1.0}, 4, 2, np.random.default_rng(0)) == []


def test_motion_goes_to_what_moves_and_text_to_what_carries_it() -> None:
    places = layout.Layout("a", (WIDTH, HEIGHT), OBJECTS)
    for task, position in (("motion", 0), ("text", 2)):
        weights = {slot: places.weight(task, slot, []) for slot in places.slots[task]}
        assert weights[position] > 3 * min(weights.values())
    assert places.weight("style", 0, [0]) == pytest.approx(0.2 * places.weight("style", 0, []))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_free_regions_are_inside_apart_and_free(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(60, 700)), data.draw(st.integers(60, 700))
    taken = []
    for _ in range(data.draw(st.integers(0, 6))):
        x1, y1 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
        taken.append((x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))))
    found = layout.free_regions(taken, (width, height))
    covered = boxes.to_mask(taken, height, width)
    for region in found:
        assert boxes.clip(region, width, height) == region
        assert min(region[2] - region[0], region[3] - region[1]) >= 24
        assert boxes.crop(covered, region).mean() <= layout.MAX_COVERED + 0.03  # a pixel of rounding
    for one, other in itertools.combinations(found, 2):
        assert boxes.iou(one, other) <= layout.MAX_SHARED + 0.03
    if not taken and min(width, height) >= 200:
        assert found


# Answers


def answer(task: str = "recolor", count: int = 2, chinese: bool = False, **edits: Any) -> Any:
    one = {"target": "the dog", "instruction": "Turn the dog white.", **edits}
    value = {"seen": "a dog", "why": "fine", "feasible": True, "edits": [one]}
    return vlm_answers.schema(task, count, chinese).model_validate_json(json.dumps(value))


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"instruction": "Turn the dog in the red box white."}, "red box"),
        ({"instruction": "Make the dog inside the rectangle white"}, "inside the rectangle"),
        ({"instruction": "make the marked object white"}, "marked object"),
        ({"instruction": "Recolour the bounding-box", "target": "the thing in the bounding box"}, "bounding box"),
        ({"instruction": "Turn the dog at [40, 210] white"}, r"\[40,"),
        ({"instruction": "Make the dog in the close view white"}, "close view"),
        ({"instruction": "把狗变成白色"}, "not in English"),
        ({"instruction": "12345"}, "not in English"),
        ({"instruction": "Turn it white", "instruction_cn": "Turn it white"}, "without Chinese"),
        ({"instruction": "Turn it white", "instruction_cn": "把红框里的狗变成白色"}, "红框"),
    ],
)
def test_an_answer_that_speaks_to_nobody_is_asked_again(edits: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vlm_answers.check(answer(chinese="instruction_cn" in edits, **edits), ["dog"])


@pytest.mark.parametrize(
    "instruction",
    [
        "Turn the dog white.",
        "Put a small wooden birdhouse on the first fence post from the left.",
        "make the frame of the bicycle mint green",
        "Replace the photograph on the wall with a round mirror.",
        "Let the dog sit in the square in front of the church.",
    ],
)
def test_plain_instructions_pass(instruction: str) -> None:
    vlm_answers.check(answer(instruction=instruction), ["dog"])


def test_a_box_in_the_photograph_may_be_called_a_box() -> None:
    vlm_answers.check(answer(instruction="Turn the red box green"), ["dog", "cardboard box"])


def test_an_edit_that_is_feasible_has_instructions_and_no_two_the_same() -> None:
    empty = {"seen": "a dog", "why": "fine", "feasible": True, "edits": []}
    schema = vlm_answers.schema("recolor", 2, False)
    with pytest.raises(ValueError, match="no instruction"):
        vlm_answers.check(schema.model_validate(empty), [])
    vlm_answers.check(schema.model_validate(empty | {"feasible": False}), [])
    twice = [{"target": "it", "instruction": text} for text in ("Turn it white.", "turn it  WHITE")]
    with pytest.raises(ValueError, match="two instructions are the same"):
        vlm_answers.check(schema.model_validate(empty | {"edits": twice}), [])
    with pytest.raises(ValidationError):
        schema.model_validate(empty | {"edits": [*twice, *twice]})


@pytest.mark.parametrize(
    ("old", "new", "instruction", "message"),
    [
        ("", "", "Write 'OPEN' on the sign", "names no words"),
        ("STOP", "Stop", "Replace 'STOP' by 'Stop'", "by itself"),
        ("STOP", "GO", "Write 'GO' on the sign", "'STOP'"),
        ("", "GO", "Write 'GONE' on the sign", None),
        ("", "营业中", "Write '营业中' on the sign", None),
        ("BOX 12 px", "", "Erase 'BOX 12 px' from the sign", None),
        ("", "BAKERY", "Write 'CAFE' on the sign", "'BAKERY'"),
    ],
)
def test_words_of_a_text_edit_are_said(old: str, new: str, instruction: str, message: str | None) -> None:
    given = answer("text", old_text=old, new_text=new, instruction=instruction)
    if message is None:
        vlm_answers.check(given, ["sign"])
    else:
        with pytest.raises(ValueError, match=message):
            vlm_answers.check(given, ["sign"])


# A batch


def test_a_batch_is_one_question_to_the_server(make: Callable) -> None:
    stage, chat = make(edits_per_image=6)
    outcomes = stage([row_of(number) for number in range(9)])
    assert chat.asks == 1
    assert [len(children) for children in outcomes] == [6] * 9
    assert len(chat.requests) >= 27
    for children in outcomes:
        assert {tuple(sorted(child)) for child in children} == {tuple(sorted(Instruct.schema.names))}


def test_a_photograph_is_opened_only_when_its_turn_has_come(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda data, side=None: opened.append(1) or decode(data, side))
    seen = []

    def answers(request: ChatRequest) -> dict[str, Any]:
        seen.append(len(opened))
        return good(request)

    stage, _ = make(answers, edits_per_image=2, tasks={"style": 1})
    stage([row_of(number) for number in range(4)])
    assert seen == [1, 2, 3, 4]


def test_neighbours_and_masks_are_not_looked_at(make: Callable) -> None:
    class Closed(list):
        def __iter__(self) -> Any:
            raise AssertionError("peers were read")

        __len__ = __getitem__ = __iter__

    row = row_of(objects=[{**found, "mask": b"no image"} for found in OBJECTS])
    row.peers = Closed()
    stage, _ = make()
    assert len(stage([row])[0]) == 4


def test_the_same_row_is_asked_the_same_whatever_its_batch(make: Callable) -> None:
    def asked(chat: FakeChat) -> list[tuple[str, int]]:
        return [(texts_of(request), request.sampling.seed) for request in chat.requests]

    stage, together = make(steady)
    outcomes = stage([row_of(number) for number in range(5)])
    alone, chat = make(steady)
    assert alone([row_of(3)]) == [outcomes[3]]
    own = asked(chat)
    assert own == [found for found in asked(together) if found in own]
    assert alone.process(row_of(3)) == outcomes[3]
    other, chat = make(steady, seed=1)
    assert other([row_of(3)]) != [outcomes[3]]
    seeds = [request.sampling.seed for request in together.requests]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("chosen", [1, 3, 7])
def test_tokens_of_an_image_add_up(make: Callable, chosen: int) -> None:
    def answers(request: ChatRequest) -> Answer:
        declined = len(spent) % 3 == 1
        value = DECLINED if declined else good(request)
        spent.append((101 + 7 * len(spent), 53 + 2 * len(spent)))
        parsed = request.schema.model_validate(value)  # type: ignore[union-attr]
        return Answer("", parsed, "", (), *spent[-1], 1)

    spent: list[tuple[int, int]] = []
    stage, _ = make(answers, edits_per_image=chosen, writer={"instructions_per_request": 3})
    children = stage([row_of()])[0]
    assert sum(child["writer_tokens_in"] for child in children) == sum(tokens for tokens, _ in spent)
    assert sum(child["writer_tokens_out"] for child in children) == sum(tokens for _, tokens in spent)
    assert {child["writer_declined"] for child in children} == {len(spent) // 3 + (len(spent) % 3 == 2)}


def test_the_engines_are_drawn_by_weight(make: Callable) -> None:
    stage, _ = make(engines={"qwen": 3, "kontext": 1, "off": 0}, edits_per_image=4)
    drawn = collections.Counter(c["engine"] for n in range(50) for c in stage([row_of(n)])[0])
    assert drawn["qwen"] / sum(drawn.values()) == pytest.approx(0.75, abs=0.1)
    assert Instruct.offers(stage.settings) == {"engine": ["qwen", "kontext"]}


# What goes wrong


def test_a_failed_request_costs_no_other(make: Callable) -> None:
    def answers(request: ChatRequest) -> Any:
        return Failure("MalformedAnswer", "half a brace") if task_of(request) == "style" else good(request)

    stage, _ = make(answers, tasks={"style": 1, "recolor": 1}, edits_per_image=4)
    children = stage([row_of()])[0]
    assert [child["task"] for child in children] == ["recolor", "recolor"]
    for child in children:
        assert (child["writer_failed"], child["writer_declined"]) == (1, 0)
        assert re.fullmatch(
            r"style of (dog|mug|street sign) failed: MalformedAnswer: half a brace", child["writer_notes"]
        )


def test_a_photograph_whose_requests_all_failed_is_failed(make: Callable) -> None:
    stage, _ = make(
        lambda request: Failure("Timeout", f"no answer on {task_of(request)}"), tasks={"style": 1, "add": 1}
    )
    (outcome,) = stage([row_of()])
    assert isinstance(outcome, Failure)
    assert outcome.type == "Timeout"
    assert "2 requests failed" in outcome.message
    assert "no answer on style" in outcome.message
    assert "no answer on add" in outcome.message


def test_declined_edits_are_none_and_a_failure_beside_them_stays_one(make: Callable) -> None:
    stage, _ = make(lambda _: DECLINED)
    assert stage([row_of()]) == [[]]

    def answers(request: ChatRequest) -> Any:
        return DECLINED if task_of(request) == "style" else Failure("Timeout", "late")

    stage, _ = make(answers, tasks={"style": 1, "recolor": 1})
    assert stage([row_of()]) == [Failure("Timeout", "late")]

    def some(request: ChatRequest) -> Any:
        return DECLINED if task_of(request) == "style" else good(request)

    stage, _ = make(some, tasks={"style": 1, "recolor": 1})
    children = stage([row_of()])[0]
    assert {child["task"] for child in children} == {"recolor"}
    assert {child["writer_declined"] for child in children} == {1}
    assert "declined: it makes no sense" in children[0]["writer_notes"]


def test_a_bad_row_is_its_own_failure(make: Callable) -> None:
    stage, chat = make(edits_per_image=2)
    outside = [{**OBJECTS[0], "box": [500, 300, 700, 390]}]
    rows = [row_of(0), row_of(1, image=PHOTO[:90]), row_of(2), row_of(3, objects=outside), row_of(4, objects=None)]
    first, broken, third, wrong, bare = stage(rows)
    assert len(first) == len(third) == 2
    assert isinstance(broken, Failure)
    assert broken.type == "ImageError"
    assert isinstance(wrong, Failure)
    assert "outside the 600 x 400" in wrong.message
    assert {child["task"] for child in bare} == {"add"}
    assert chat.asks == 1


def test_a_photograph_that_offers_nothing_is_not_asked_about(make: Callable) -> None:
    stage, chat = make(tasks={"recolor": 1})
    assert stage([row_of(objects=[])]) == [[]]
    assert chat.asks == 0


def test_a_server_that_is_gone_stops_the_run(make: Callable) -> None:
    stage, _ = make(lambda _: StopRun("the server is gone"))
    with pytest.raises(StopRun, match="gone"):
        stage([row_of()])


def test_the_same_instruction_twice_is_one_edit_and_its_tokens_are_not_lost(make: Callable) -> None:
    def answers(request: ChatRequest) -> Any:
        value = {**good(request), "edits": [{"target": "the dog", "instruction": "Do it."}]}
        return Answer("", request.schema.model_validate(value), "", (), 10, 6, 1)  # type: ignore[union-attr]

    stage, _ = make(
        answers, tasks={"style": 1, "material": 1}, edits_per_image=2, writer={"instructions_per_request": 1}
    )
    (child,) = stage([row_of(objects=OBJECTS[:1])])[0]
    assert (child["writer_tokens_in"], child["writer_tokens_out"]) == (20, 12)


# Settings


def test_the_tasks_are_those_of_the_writer(make: Callable) -> None:
    stage, _ = make()
    assert stage.settings.tasks == layout.offered()
    with pytest.raises(ValidationError, match="unknown name 'tone'"):
        make(tasks={"tone": 1})
    with pytest.raises(ValidationError, match="did you mean 'motion'"):
        make(tasks={"motions": 1})
    with pytest.raises(ValidationError, match="unknown name 'motion'"):
        Instruct.Settings(tasks={"motion": 1})


def test_it_needs_a_server_and_reads_captions() -> None:
    with pytest.raises((ConfigError, ValidationError), match="server: required"):
        Instruct.Settings(writer={"engine": "vlm"})
    needs = Instruct.needs(Instruct.Settings(writer={"engine": "vlm", "server": "eyes"}))
    assert needs.servers == ("eyes",)
    assert needs.optional_reads == ("caption",)
    assert needs.own_pool
    assert needs.packages == {"openai": "chat"}
    assert Instruct.needs(Instruct.Settings()).servers == ()


def test_it_is_a_composer(make: Callable) -> None:
    assert isinstance(make()[0].writer, Composer)
    assert not isinstance(engines.build("writer", {"engine": "templates"}), Composer)
