"""Boxes: by value against pixel counting, and by property."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box

SIDE = 24


@st.composite
def _boxes(draw: st.DrawFn, low: int = 0, high: int = SIDE) -> Box:
    x1, x2 = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    y1, y2 = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    return x1, y1, x2, y2


def _pixels(box: Box) -> np.ndarray:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    return (xs >= box[0]) & (xs < box[2]) & (ys >= box[1]) & (ys < box[3])


@given(_boxes(), _boxes())
def test_area_intersection_and_iou_count_pixels(a: Box, b: Box) -> None:
    pixels_a, pixels_b = _pixels(a), _pixels(b)
    either, both = (pixels_a | pixels_b).sum(), (pixels_a & pixels_b).sum()
    assert boxes.area(a) == pixels_a.sum()
    assert boxes.intersection(a, b) == both
    assert boxes.iou(a, b) == (both / either if either else 0.0)


@given(_boxes(), _boxes())
def test_iou_is_symmetric_and_one_only_for_the_same_box(a: Box, b: Box) -> None:
    assert boxes.iou(a, b) == boxes.iou(b, a)
    assert 0 <= boxes.iou(a, b) <= 1
    if boxes.area(a) and boxes.area(b):
        assert (boxes.iou(a, b) == 1) == (a == b)


def test_iou_of_a_half_overlap_is_a_third() -> None:
    assert boxes.iou((0, 0, 4, 4), (2, 0, 6, 4)) == 8 / 24


def test_an_inverted_box_has_no_area() -> None:
    assert boxes.area((5, 5, 2, 9)) == 0
    assert boxes.iou((5, 5, 2, 9), (0, 0, 9, 9)) == 0


@given(_boxes(-SIDE, 2 * SIDE), st.integers(1, SIDE), st.integers(1, SIDE))
def test_clip_lies_in_the_image_and_keeps_what_was_there(box: Box, width: int, height: int) -> None:
    x1, y1, x2, y2 = boxes.clip(box, width, height)
    assert x1 <= x2 <= width
    assert y1 <= y2 <= height
    assert min(x1, y1) >= 0
    assert boxes.area((x1, y1, x2, y2)) == boxes.intersection(box, (0, 0, width, height))


def test_clip_rounds_outwards() -> None:
    assert boxes.clip((1.2, 2.9, 4.1, 5.0), 10, 10) == (1, 2, 5, 5)


@given(_boxes(), st.floats(0, 2))
def test_grow_contains_the_box(box: Box, margin: float) -> None:
    grown = boxes.grow(box, margin, SIDE, SIDE)
    assert boxes.intersection(grown, box) == boxes.area(box)
    assert boxes.intersection(grown, (0, 0, SIDE, SIDE)) == boxes.area(grown)


def test_grow_adds_a_share_of_the_longer_side() -> None:
    assert boxes.grow((40, 40, 60, 50), 0.1, 100, 100) == (38, 38, 62, 52)


@given(st.lists(_boxes(), min_size=1, max_size=5))
def test_union_is_the_smallest_box_around_all(many: list[Box]) -> None:
    whole = boxes.union(many)
    for box in many:
        assert boxes.intersection(whole, box) == boxes.area(box)
    for side in range(4):
        assert whole[side] in [box[side] for box in many]


@given(_boxes())
def test_of_mask_undoes_to_mask(box: Box) -> None:
    mask = boxes.to_mask([box], SIDE, SIDE)
    assert np.array_equal(mask, _pixels(box))
    assert boxes.of_mask(mask) == (box if boxes.area(box) else None)


@given(st.lists(_boxes(), max_size=4))
def test_to_mask_is_the_union_of_the_boxes(many: list[Box]) -> None:
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    for box in many:
        expected |= _pixels(box)
    assert np.array_equal(boxes.to_mask(many, SIDE, SIDE), expected)


@given(_boxes())
def test_crop_has_the_size_of_the_box(box: Box) -> None:
    image = np.arange(SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
    part = boxes.crop(image, box)
    assert part.shape == (box[3] - box[1], box[2] - box[0], 3)
    if part.size:
        assert part[0, 0, 0] == image[box[1], box[0], 0]
        assert np.shares_memory(part, image)
