"""ugaf.imaging.marks: frames and crops, against pixels counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugaf.imaging import boxes, marks


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)


@st.composite
def boxed(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    width, height = draw(st.integers(24, 90)), draw(st.integers(24, 90))
    x1, y1 = draw(st.integers(0, width - 8)), draw(st.integers(0, height - 8))
    x2, y2 = draw(st.integers(x1 + 8, width)), draw(st.integers(y1 + 8, height))
    return noise(width, height), (x1, y1, x2, y2)


def test_a_frame_lies_around_its_box_and_nothing_else_changes() -> None:
    photo = noise(400, 300)
    drawn = marks.draw_box(photo, (100, 50, 200, 150), (1, 2, 250))
    changed = (drawn != photo).any(axis=2)
    expected = np.zeros((300, 400), bool)
    expected[48:152, 98:202] = True
    expected[50:150, 100:200] = False
    assert (changed == expected).all()
    assert (drawn[expected] == (1, 2, 250)).all()


@given(boxed())
def test_the_frame_is_closed_and_thin_wherever_the_box_is(given: tuple) -> None:
    photo, box = given
    before = photo.copy()
    drawn = marks.draw_box(photo, box, marks.RED)
    assert (photo == before).all()
    assert drawn.shape == photo.shape
    red = (drawn == marks.RED).all(axis=2)
    x1, y1, x2, y2 = boxes.of_mask(red)
    line = 2
    assert red[y1 : y1 + line, x1:x2].all()
    assert red[y2 - line : y2, x1:x2].all()
    assert red[y1:y2, x1 : x1 + line].all()
    assert red[y1:y2, x2 - line : x2].all()
    assert red.sum() == (x2 - x1) * (y2 - y1) - (x2 - x1 - 2 * line) * (y2 - y1 - 2 * line)
    assert x1 <= box[0] <= x1 + line
    assert y2 - line <= box[3] <= y2


def test_the_line_is_wider_on_a_larger_picture() -> None:
    drawn = marks.draw_box(np.zeros((2000, 1000, 3), np.uint8), (400, 400, 600, 600))
    assert (drawn[500, :, 0] == 255).sum() == 20


def test_a_box_that_leaves_the_picture_is_clipped_and_one_outside_is_an_error() -> None:
    photo = noise(60, 40)
    assert (marks.draw_box(photo, (-10, -10, 30, 30)) == marks.draw_box(photo, (0, 0, 30, 30))).all()
    for function in (lambda box: marks.draw_box(photo, box), lambda box: marks.crop_with_margin(photo, box, 0.1)):
        with pytest.raises(ValueError, match=r"\[60, 0, 80, 10\] has no pixel in the 60 x 40"):
            function((60, 0, 80, 10))


@given(boxed(), st.floats(0, 2))
def test_a_crop_holds_the_box_where_it_says(given: tuple, margin: float) -> None:
    photo, box = given
    crop, inside = marks.crop_with_margin(photo, box, margin)
    assert (boxes.crop(crop, inside) == boxes.crop(photo, box)).all()
    assert not np.shares_memory(crop, photo)
    assert crop.shape[:2] <= photo.shape[:2]


def test_the_margin_is_a_share_of_the_longer_side() -> None:
    crop, inside = marks.crop_with_margin(noise(400, 300), (100, 100, 200, 140), 0.25)
    assert crop.shape == (90, 150, 3)
    assert inside == (25, 25, 125, 65)
    crop, inside = marks.crop_with_margin(noise(400, 300), (0, 0, 100, 40), 0.25)
    assert crop.shape == (65, 125, 3)
    assert inside == (0, 0, 100, 40)


def test_a_box_follows_its_image_to_another_size() -> None:
    assert marks.scaled((10, 20, 30, 41), (100, 200), (50, 100)) == (5, 10, 15, 21)
    assert marks.scaled((0, 0, 100, 200), (100, 200), (33, 67)) == (0, 0, 33, 67)
