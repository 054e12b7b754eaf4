"""Names of colours, places and objects by value; the grammar and the frames by property."""

from __future__ import annotations

import importlib
import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugaf.wording import asks, calm, colours, grammar, naming, params, phrases, places, sampling, tones
from ugaf.wording.naming import Facts, Name

RED, BLUE, GREEN, GREY, WHITE = (200, 30, 38), (35, 90, 200), (40, 145, 60), (120, 120, 120), (250, 250, 250)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "grey"), ((255, 0, 0), "red"),
        ((255, 165, 0), "orange"), ((255, 255, 0), "yellow"), ((0, 128, 0), "green"), ((0, 128, 128), "teal"),
        ((0, 0, 255), "blue"), ((0, 0, 128), "blue"), ((128, 0, 128), "purple"), ((255, 192, 203), "pink"),
        ((255, 105, 180), "pink"), ((139, 69, 19), "brown"), ((245, 222, 179), "beige"), ((135, 206, 235), "blue"),
        ((64, 224, 208), "teal"), ((128, 0, 0), "red"), ((255, 215, 0), "yellow"), ((85, 107, 47), "green"),
    ],
)  # fmt: skip
def test_the_css_colours_have_the_names_people_give_them(rgb: tuple[int, int, int], name: str) -> None:
    assert colours.basic_name(rgb) == name


def test_lab_agrees_with_an_independent_implementation() -> None:
    from skimage.color import rgb2lab

    patch = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert np.abs(colours.lab(patch) - rgb2lab(patch)).max() < 0.5


def test_the_palette_is_what_the_namer_calls_it() -> None:
    assert {name: colours.basic_name(rgb) for name, rgb in asks.PALETTE.items()} == {
        name: name for name in asks.PALETTE
    }


def test_neighbours_are_symmetric_and_known() -> None:
    assert set(colours.NEIGHBOURS) == set(colours.NAMES)
    for name, near in colours.NEIGHBOURS.items():
        assert all(name in colours.NEIGHBOURS[other] for other in near)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_table_and_rule_differ_only_between_cells(rgb: tuple[int, int, int]) -> None:
    centre = tuple(v // 8 * 8 + 4 for v in rgb)
    cell = colours.NAMES[int(colours.name_indices(np.array([rgb], np.uint8))[0])]
    assert cell == colours.basic_name(centre)


def patch(*parts: tuple[tuple[int, int, int], int]) -> np.ndarray:
    return np.concatenate([np.tile(np.array(rgb, np.uint8), (n, 1)) for rgb, n in parts])


@pytest.mark.parametrize(
    ("pixels", "phrase"),
    [
        (patch((BLUE, 100)), "blue"),
        (patch(((0, 0, 110), 100)), "dark blue"),
        (patch(((160, 205, 245), 100)), "light blue"),
        (patch(((60, 60, 60), 100)), "dark grey"),
        (patch((RED, 80), (WHITE, 20)), "red"),
        (patch((WHITE, 50), (RED, 45), (BLUE, 5)), "white and red"),
        (patch((RED, 25), (BLUE, 25), (GREEN, 25), (GREY, 25)), ""),
        (patch((RED, 40), ((235, 110, 40), 40), (GREY, 20)), "orange"),
    ],
)
def test_a_region_is_named_by_what_prevails_or_not_at_all(pixels: np.ndarray, phrase: str) -> None:
    assert colours.describe(pixels).phrase == phrase


def test_no_pixels_have_no_colour() -> None:
    assert colours.describe(np.zeros((0, 3), np.uint8)).phrase == ""


@pytest.mark.parametrize(
    ("box", "side", "size"),
    [
        ((0, 0, 10, 10), "upper left corner", "small"),
        ((85, 85, 100, 100), "lower right corner", "small"),
        ((10, 40, 30, 60), "left", ""),
        ((40, 5, 60, 30), "top", ""),
        ((40, 40, 60, 60), "middle", ""),
        ((30, 60, 44, 70), "bottom", "small"),
        ((5, 5, 95, 95), "middle", "large"),
        ((0, 60, 100, 100), "bottom", "large"),
        ((70, 0, 100, 100), "right", "large"),
    ],
)
def test_places(box: tuple[int, int, int, int], side: str, size: str) -> None:
    place = places.Place.of(box, 100, 100)
    assert (place.side, place.size) == (side, size)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_what_a_place_is_called_it_could_be_called(x: float, y: float, w: float, h: float) -> None:
    place = places.Place(x, y, w, h)
    assert place.could_have(place.size)
    if place.side:
        assert place.could_be(place.side)
        assert place.side in places.PHRASES


def scene_of(*objects: tuple[tuple[int, int, int, int], tuple[int, int, int]], label: str = "") -> list[Facts]:
    photo = np.full((200, 300, 3), 225, np.uint8)
    for (x1, y1, x2, y2), rgb in objects:
        photo[y1:y2, x1:x2] = rgb
    names = colours.name_indices(photo)
    found = []
    for position, (box, _) in enumerate(objects):
        mask = np.ones((box[3] - box[1], box[2] - box[0]), bool)
        found.append(naming.facts(position, box, label, mask, photo, (300, 200), names))
    return found


def test_a_colour_of_its_own_is_enough_of_a_name() -> None:
    red, blue = scene_of(((20, 20, 60, 60), RED), ((200, 120, 260, 180), BLUE))
    assert naming.names_for(red, [red, blue])[0] == Name(colour="red")
    assert naming.names_for(blue, [red, blue])[0] == Name(colour="blue")


def test_two_of_a_colour_are_told_apart_by_place() -> None:
    left, right = everything = scene_of(((20, 80, 60, 120), RED), ((240, 80, 280, 120), RED))
    assert naming.names_for(left, everything)[0] == Name(colour="red", side="left")
    assert all(name.side == "right" for name in naming.names_for(right, everything))


def test_a_colour_that_is_elsewhere_too_needs_a_place_though_no_other_object_has_it() -> None:
    photo = np.full((200, 300, 3), 225, np.uint8)
    photo[20:60, 20:60] = RED
    photo[150:200, :] = RED
    facts = naming.facts(0, (20, 20, 60, 60), None, None, photo, (300, 200), colours.name_indices(photo))
    assert all(name.side for name in naming.names_for(facts, [facts]))


def test_neighbours_of_a_kind_are_told_apart_by_order() -> None:
    row = scene_of(*[((100 + 30 * i, 90, 120 + 30 * i, 110), GREY) for i in range(4)])
    assert [name.order for name in naming.names_for(row[0], row)] == ["leftmost"]
    assert [name.order for name in naming.names_for(row[3], row)] == ["rightmost"]
    assert naming.names_for(row[1], row) == []


def test_the_whole_is_named_before_its_part() -> None:
    whole, part = everything = scene_of(((60, 40, 240, 160), BLUE), ((90, 60, 130, 100), BLUE))
    assert naming.names_for(whole, everything)
    assert all(name.side == "left" for name in naming.names_for(part, everything))  # where the whole is not
    centred = scene_of(((60, 40, 240, 160), BLUE), ((130, 80, 170, 120), BLUE))
    assert all(name.size == "small" for name in naming.names_for(centred[1], centred))


def test_a_label_is_used() -> None:
    left, right = everything = scene_of(((20, 80, 60, 120), RED), ((240, 80, 280, 120), BLUE), label="Cup")
    assert naming.names_for(left, everything)[0] == Name(colour="red", label="cup")
    assert naming.names_for(right, everything)[0] == Name(colour="blue", label="cup")


boxes_strategy = st.lists(
    st.tuples(st.integers(0, 240), st.integers(0, 150), st.integers(15, 60), st.integers(15, 50),
              st.sampled_from([RED, BLUE, GREEN, GREY, (90, 20, 20), (20, 20, 90)])),
    min_size=2, max_size=6,
)  # fmt: skip


@given(boxes_strategy)
def test_no_other_object_answers_to_a_name_unless_it_is_a_part_or_the_same(drawn: list) -> None:
    everything = scene_of(*[((x, y, x + w, y + h), rgb) for x, y, w, h, rgb in drawn])
    for target in everything:
        for name in naming.names_for(target, everything):
            if name.order:
                continue
            answering = [o for o in everything if naming.answers_to(o, name)]
            for other in answering:
                assert other is target or naming._same(target, other) or naming._part(other, target)


def all_frames() -> list[str]:
    found: list[str] = [*phrases.KEEP, *phrases.ASK, *phrases.ADD_NOTE, *phrases.REMOVE_NOTE, *phrases.JOIN]
    found += [
        *phrases.JOIN_USER,
        *phrases.BACKGROUND_KEEP,
        *phrases.TONE_KEEP,
        *phrases.RESTORE_NOTE,
        *phrases.TEXT_KEEP,
    ]
    for table in (phrases.LOCAL, phrases.CHATTY, phrases.TONES, phrases.RESTORE, phrases.TEXT, phrases.BACKGROUNDS):
        for frames in table.values():
            found += frames
    found += [part for pair in phrases.STYLES.values() for part in pair] + list(phrases.MATERIALS.values())
    return found


def test_every_frame_reads_as_english_text() -> None:
    known = {"wish", "object", "new", "donor", "colour", "style", "in_style", "material", "text", "old", "ink", "place"}
    for frame in all_frames():
        for reading in grammar.readings(frame):
            assert not re.search(r"[()|]|  |^ | $| [,.?!]", reading), (frame, reading)
            assert set(re.findall(r"{(\w+)}", reading)) <= known | {"first", "second"}, frame
            assert not re.search(r"\b(\w+) \1\b", reading), (frame, reading)


def test_every_choice_has_its_words() -> None:
    assert set(phrases.LOCAL) == set(phrases.CHATTY) == params.LOCAL
    assert tuple(phrases.STYLES) == params.STYLES
    assert tuple(phrases.MATERIALS) == params.MATERIALS
    assert tuple(phrases.BACKGROUNDS) == params.BACKGROUNDS
    assert tuple(phrases.TONES) == params.TONES
    assert tuple(phrases.RESTORE) == params.DEGRADATIONS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a orange object", "an orange object"), ("a oil painting", "an oil painting"), ("a blue one", "a blue one"),
        ("a  unusual object", "an unusual object"), ("a uniform", "a uniform"), ("A empty cup", "An empty cup"),
        ("a used car", "a used car"), ("a hour", "an hour"), ("make it , please ?", "make it, please?"),
        ("a umbrella", "an umbrella"), ("a utensil", "a utensil"),
    ],
)  # fmt: skip
def test_tidy(text: str, expected: str) -> None:
    assert grammar.tidy(text) == expected


def test_american_spelling_leaves_fields_alone() -> None:
    assert (
        grammar.american("Recolour {object} in {colour}: the grey centre")
        == "Recolor {object} in {colour}: the gray center"
    )


@given(st.integers(0, 2**32 - 1))
def test_expand_gives_one_of_the_readings(seed: int) -> None:
    frame = "(a|b (c|d)|) {x}(?|!)"
    assert grammar.tidy(grammar.expand(frame, np.random.default_rng(seed))) in grammar.readings(frame)


weights_strategy = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 10), min_size=1)


@given(weights_strategy, st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3)), st.integers(0, 12),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_allocate_fills_up_and_never_over(weights: dict, capacity: dict, count: int, seed: int) -> None:
    given_ = sampling.allocate(weights, capacity, count, np.random.default_rng(seed))
    room = sum(capacity.get(task, 0) for task, weight in weights.items() if weight > 0)
    assert sum(given_.values()) == min(count, room)
    assert all(0 < n <= capacity[task] and weights[task] > 0 for task, n in given_.items())


def test_allocate_keeps_the_weights_where_tasks_differ_much() -> None:
    weights = {"a": 6.0, "b": 3.0, "c": 2.0, "d": 1.0}
    rng = np.random.default_rng(0)
    total = dict.fromkeys(weights, 0)
    for _ in range(4000):
        for task, n in sampling.allocate(weights, dict.fromkeys(weights, 1), 2, rng).items():
            total[task] += n
    shares = {task: n / 8000 for task, n in total.items()}
    assert shares == pytest.approx({"a": 0.5, "b": 0.25, "c": 1 / 6, "d": 1 / 12}, abs=0.015)


def test_calm_boxes_avoid_objects_and_texture() -> None:
    rng = np.random.default_rng(0)
    photo = np.full((300, 400, 3), 200, np.uint8)
    photo[:, 200:] = rng.integers(0, 256, (300, 200, 3))
    spots = calm.find(photo, (800, 600), [(0, 0, 400, 250)])
    assert spots
    for spot in spots:
        x1, y1, x2, y2 = spot.box
        assert 0 <= x1 < x2 <= 410
        assert 250 <= y1 < y2 <= 600
    assert calm.find(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8), (800, 600), []) == []


def test_tones_that_are_there_already(photos: dict[str, np.ndarray]) -> None:
    grey = cv2.cvtColor(cv2.cvtColor(photos["chelsea"], cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert "black and white" in tones.already(grey)
    assert tones.already(photos["chelsea"]) == {}
    assert "brighter" in tones.already(np.full((50, 50, 3), 240, np.uint8))
    assert {"darker", "night"} <= set(tones.already(np.full((50, 50, 3), 20, np.uint8)))


def test_a_soft_photograph_is_no_target_of_deblurring(photos: dict[str, np.ndarray]) -> None:
    assert tones.unrestorable(photos["astronaut"]) == {}
    assert set(tones.unrestorable(cv2.GaussianBlur(photos["astronaut"], (0, 0), 4))) == {"blur", "low resolution"}


def test_parameters_name_what_the_editor_can_do() -> None:
    templates = importlib.import_module("ugaf.models.editors.templates")

    def options(module: str, table: str) -> set[str]:
        return set(getattr(importlib.import_module(f"ugaf.models.editors.templates.{module}"), table))

    assert set(params.TASKS) == set(templates.TASKS)
    assert set(params.STYLES) == options("style", "STYLES") | {"pixel art"}
    assert set(params.MATERIALS) == options("material", "MATERIALS")
    assert set(params.BACKGROUNDS) == options("background", "BACKGROUNDS")
    assert set(params.TONES) == options("tone", "TONES")
    assert set(params.DEGRADATIONS) == options("restore", "DEGRADATIONS")
    assert set(params.FONTS) == options("text", "FONTS")
