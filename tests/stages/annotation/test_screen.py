"""annotation.screen: each reason by value, and faces on real photographs."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from ugaf.stages.annotation.screen import Screen

from ugaf.imaging import images
from ugaf.models.screeners.faces import FaceFinder, Faces
from ugaf.stage import Failure, Row

RED = (200, 30, 38)


@pytest.fixture(scope="module")
def screen() -> Screen:
    stage = Screen("annotation.screen")
    stage.setup()
    return stage


def photo_row(photo: np.ndarray, *objects: dict[str, Any], id: str = "p") -> Row:
    height, width = photo.shape[:2]
    return Row(id, {"image": images.encode(photo), "width": width, "height": height, "objects": list(objects)})


def thing(*box: int, mask: np.ndarray | None = None) -> dict[str, Any]:
    return {"box": list(box), "label": None, "score": 0.8, "mask": None if mask is None else images.encode_mask(mask)}


def edit(photo: Row, task: str, params: dict[str, Any], instruction: str = "Do it.", donor: str | None = None) -> Row:
    values = {"task": task, "instruction": instruction, "boxes": [], "params": json.dumps(params), "donor": donor}
    return Row("e", values, photo)


def told(photo: Row, task: str | None, *boxes: tuple[int, ...], instruction: str | None = "Do it.") -> Row:
    """An edit as a model writes it: no parameters."""
    boxes_column = [list(box) for box in boxes]
    values = {"task": task, "instruction": instruction, "boxes": boxes_column, "params": None, "donor": None}
    return Row("e", values, photo)


@pytest.fixture
def plain() -> Row:
    """Grey gradient with a red square, a second grey one, a large box and a tiny one."""
    photo = np.tile(np.linspace(60, 200, 400).astype(np.uint8)[None, :, None], (300, 1, 3)).copy()
    photo[100:180, 100:180] = RED
    objects = [thing(100, 100, 180, 180), thing(250, 50, 300, 100), thing(0, 0, 390, 290), thing(5, 5, 17, 17)]
    return photo_row(photo, *objects)


def reason(screen: Screen, row: Row) -> str:
    (outcome,) = screen([row])
    assert set(outcome) == set(Screen.schema.names)
    assert (outcome["screen"] == "ok") == (outcome["screen_detail"] is None)
    assert outcome["screener"] == "rules"
    assert {outcome[f"screener_{name}"] for name in ("tokens_in", "tokens_out", "thinking")} == {None}
    return outcome["screen"]


TEXT = {"operation": "replace", "old": "OPEN", "text": "SALE", "box": [200, 200, 300, 240], "ink": "white",
        "font": "simplex"}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "params", "expected"),
    [
        ("recolor", {"object": 0, "colour": "blue", "rgb": [35, 90, 200], "from": "red"}, "ok"),
        ("recolor", {"object": 0, "colour": "red", "rgb": [210, 35, 40], "from": "red"}, "no_op"),
        ("remove", {"object": 0}, "ok"),
        ("remove", {"object": 2}, "whole_image"),
        ("style", {"object": 2, "style": "cartoon"}, "whole_image"),
        ("remove", {"object": 3}, "too_small"),
        ("remove", {"object": 4}, "malformed"),
        ("remove", {"thing": 0}, "malformed"),
        ("blend", {"object": 0}, "malformed"),
        ("style", {"object": 0, "style": "cubism"}, "malformed"),
        ("text", TEXT, "ok"),
        ("text", {**TEXT, "old": "SALE"}, "no_op"),
        ("text", {**TEXT, "text": "PORN"}, "unsafe_text"),
        ("text", {**TEXT, "box": [0, 0, 400, 300]}, "whole_image"),
        ("restore", {"degradation": "noise", "strength": 0.5}, "ok"),
        ("restore", {"degradation": "noise", "strength": 0.01}, "no_op"),
        ("restore", {"degradation": "noise", "strength": 1.5}, "malformed"),
        ("background", {"object": 2, "background": "blurred"}, "ok"),
        ("hybrid", {"operations": [{"task": "remove", "object": 0},
                                   {"task": "style", "object": 1, "style": "cartoon"}]}, "ok"),
        ("hybrid", {"operations": [{"task": "remove", "object": 1},
                                   {"task": "style", "object": 1, "style": "cartoon"}]}, "no_op"),
        ("hybrid", {"operations": [{"task": "remove", "object": 0}]}, "malformed"),
    ],
)  # fmt: skip
def test_reasons(screen: Screen, plain: Row, task: str, params: dict[str, Any], expected: str) -> None:
    assert reason(screen, edit(plain, task, params)) == expected


def test_a_tone_that_is_there_changes_nothing(screen: Screen, photos: dict[str, np.ndarray]) -> None:
    grey = np.repeat(photos["chelsea"].mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert reason(screen, edit(photo_row(grey), "tone", {"tone": "black and white"})) == "no_op"
    assert reason(screen, edit(photo_row(grey, thing(0, 0, 200, 200)), "background",
                               {"object": 0, "background": "greyscale"})) == "no_op"  # fmt: skip
    assert reason(screen, edit(photo_row(photos["chelsea"]), "tone", {"tone": "black and white"})) == "ok"
    bright = np.full((100, 100, 3), 240, np.uint8)
    assert reason(screen, edit(photo_row(bright), "tone", {"tone": "brighter"})) == "no_op"


@pytest.mark.parametrize("instruction", ["", "  ", "Remove {object}."])
def test_an_instruction_with_nothing_in_it_is_malformed(screen: Screen, plain: Row, instruction: str) -> None:
    assert reason(screen, edit(plain, "remove", {"object": 0}, instruction)) == "malformed"


def test_only_whole_words_are_unsafe(screen: Screen, plain: Row) -> None:
    assert reason(screen, edit(plain, "remove", {"object": 0}, "Remove the Sussex gored skirt.")) == "ok"
    assert reason(screen, edit(plain, "remove", {"object": 0}, "Undress the person.")) == "unsafe_text"


def test_params_that_are_no_json_fail_the_row(screen: Screen, plain: Row) -> None:
    row = edit(plain, "remove", {})
    row.values["params"] = "{"
    broken, other = screen([row, edit(plain, "remove", {"object": 0})])
    assert isinstance(broken, Failure)
    assert "not JSON" in broken.message
    assert other["screen"] == "ok"


@pytest.mark.parametrize(
    ("name", "count"), [("astronaut", 1), ("chelsea", 0), ("coffee", 0), ("rocket", 0), ("motorcycle", 0)]
)
def test_faces_are_found_on_people_only(photos: dict[str, np.ndarray], name: str, count: int) -> None:
    faces = FaceFinder().find(photos[name])
    assert len(faces) == count
    if faces:
        x1, y1, x2, y2 = faces[0]
        assert x1 < 224 < x2  # the nose of the astronaut
        assert y1 < 120 < y2


FACE, PERSON, SHUTTLE = (160, 40, 290, 180), (20, 10, 380, 480), (370, 60, 450, 260)


@pytest.mark.parametrize(
    ("task", "params", "box", "expected"),
    [
        ("material", {"material": "wood"}, FACE, "face"),
        ("style", {"style": "cartoon"}, PERSON, "face"),
        ("recolor", {"colour": "blue", "rgb": [35, 90, 200], "from": ""}, FACE, "face"),
        ("replace", {"donor_object": 0}, FACE, "face"),
        ("remove", {}, FACE, "face"),
        ("remove", {}, PERSON, "ok"),
        ("material", {"material": "wood"}, SHUTTLE, "ok"),
        ("background", {"background": "sunset sky"}, SHUTTLE, "face"),
        ("background", {"background": "blurred"}, SHUTTLE, "ok"),
        ("background", {"background": "sunset sky"}, PERSON, "ok"),
    ],
)
def test_faces_are_left_alone(
    screen: Screen, photos: dict[str, np.ndarray], task: str, params: dict[str, Any], box: tuple, expected: str
) -> None:
    row = photo_row(photos["astronaut"], thing(*box), id="astronaut")
    assert reason(screen, edit(row, task, {"object": 0, **params})) == expected


def test_a_mask_without_the_face_may_be_changed(screen: Screen, photos: dict[str, np.ndarray]) -> None:
    suit = np.zeros((470, 360), bool)
    suit[190:] = True
    params = {"object": 0, "colour": "blue", "rgb": [35, 90, 200], "from": "orange"}
    assert (
        reason(screen, edit(photo_row(photos["astronaut"], thing(*PERSON, mask=suit), id="a"), "recolor", params))
        == "ok"
    )
    assert reason(screen, edit(photo_row(photos["astronaut"], thing(*PERSON), id="a"), "recolor", params)) == "face"


def test_text_is_not_set_over_a_face(screen: Screen, photos: dict[str, np.ndarray]) -> None:
    row = photo_row(photos["astronaut"], id="astronaut")
    assert reason(screen, edit(row, "text", {**TEXT, "box": [170, 90, 290, 130]})) == "face"
    assert reason(screen, edit(row, "text", {**TEXT, "box": [10, 440, 200, 500]})) == "ok"


def test_a_donor_with_a_face_is_not_put_into_another_picture(screen: Screen, plain: Row, photos: dict) -> None:
    donor = photo_row(photos["astronaut"], thing(*FACE), thing(*SHUTTLE), id="astronaut")
    row = edit(plain, "replace", {"object": 0, "donor_object": 0}, donor="astronaut")
    row.refs = {"donor": donor}
    assert reason(screen, row) == "face"
    other = edit(plain, "replace", {"object": 0, "donor_object": 1}, donor="astronaut")
    other.refs = {"donor": donor}
    assert reason(screen, other) == "ok"


def test_replaced_by_an_object_of_the_same_photograph(screen: Screen, plain: Row) -> None:
    assert reason(screen, edit(plain, "replace", {"object": 0, "donor_object": 1}, donor="p")) == "no_op"


def test_faces_are_looked_for_once_a_photograph(photos: dict[str, np.ndarray]) -> None:
    stage = Screen("annotation.screen")
    stage.setup()
    calls: list[str] = []
    find = FaceFinder().find
    stage.rules._faces = Faces(lambda photo: calls.append("") or find(photo))
    row = photo_row(photos["astronaut"], thing(*FACE), id="astronaut")
    stage([edit(row, task, {"object": 0}) for task in ("remove", "remove")])
    stage([edit(row, "tone", {"tone": "sepia"}), told(row, "remove", FACE)])
    assert len(calls) == 1


def test_one_cascade_is_never_in_two_threads() -> None:
    inside, most = [0], [0]

    def find(_: np.ndarray) -> list:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1
        return [(0, 0, 10, 10)]

    faces, photo = Faces(find), np.zeros((100, 50, 3), np.uint8)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: faces.of(str(number % 5), photo, (100, 200)), range(20)))
    assert most == [1]
    assert found == [[(0, 0, 20, 20)]] * 20


def test_limits_are_settings(plain: Row) -> None:
    stage = Screen(
        "annotation.screen", Screen.Settings(max_box_share=1.0, min_box_share=0, min_box_side=1, faces=False)
    )
    stage.setup()
    assert reason(stage, edit(plain, "remove", {"object": 2})) == "ok"
    assert reason(stage, edit(plain, "remove", {"object": 3})) == "ok"


@pytest.mark.parametrize(
    ("task", "boxes", "expected"),
    [
        ("replace", [(100, 100, 180, 180)], "ok"),
        ("motion", [(100, 100, 180, 180)], "ok"),
        ("background", [], "ok"),
        ("hybrid", [(100, 100, 180, 180), (250, 50, 300, 100)], "ok"),
        ("hybrid", [(100, 100, 180, 180), (5, 5, 17, 17)], "too_small"),
        ("replace", [(0, 0, 390, 290)], "whole_image"),
        ("add", [(100, 100, 180, 110)], "too_small"),
        ("add", [(300, 100, 401, 180)], "malformed"),
        ("add", [(100, 100, 100, 180)], "malformed"),
        ("conjure", [(100, 100, 180, 180)], "malformed"),
        (None, [(100, 100, 180, 180)], "malformed"),
    ],
)
def test_edits_without_parameters_are_screened_by_their_boxes(
    screen: Screen, plain: Row, task: str | None, boxes: list, expected: str
) -> None:
    assert reason(screen, told(plain, task, *boxes)) == expected


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [("", "malformed"), (None, "malformed"), ("Write 'PORN' on the sign.", "unsafe_text"), ("Paint it red.", "ok")],
)
def test_words_count_without_parameters_too(screen: Screen, plain: Row, instruction: str | None, expected: str) -> None:
    assert reason(screen, told(plain, "recolor", (100, 100, 180, 180), instruction=instruction)) == expected


@pytest.mark.parametrize(
    ("task", "box", "expected"),
    [
        ("replace", FACE, "face"),
        ("replace", PERSON, "face"),
        ("style", PERSON, "face"),
        ("recolor", FACE, "face"),
        ("recolor", PERSON, "ok"),
        ("remove", PERSON, "ok"),
        ("motion", FACE, "face"),
        ("motion", PERSON, "ok"),
        ("text", FACE, "face"),
        ("add", FACE, "face"),
        ("add", SHUTTLE, "ok"),
    ],
)
def test_faces_are_left_alone_without_parameters_too(
    screen: Screen, photos: dict[str, np.ndarray], task: str, box: tuple, expected: str
) -> None:
    row = photo_row(photos["astronaut"], id="astronaut")
    assert reason(screen, told(row, task, box)) == expected
