"""Placement: what the model gets, and that nothing but the edit changes when its answer comes back."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box
from ugaf.models.editors.interface import EditError, EditRequest
from ugaf.models.editors.placement import (
    PlacementSettings,
    Prepared,
    WorkingSize,
    finish,
    prepare,
    with_place,
    working_size,
)

SMALL = WorkingSize(area=96 * 96, multiple=16)
"""Tests need no megapixel."""


def request_of(
    photo: np.ndarray, *targets: Box, task: str = "recolor", instruction: str = "Make it red."
) -> EditRequest:
    return EditRequest(photo, task, instruction, targets)


def smooth(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A photograph without detail finer than resampling keeps."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


@st.composite
def photo_and_box(draw: st.DrawFn) -> tuple[np.ndarray, Box]:
    width, height = draw(st.integers(1, 333)), draw(st.integers(1, 333))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8), (x1, y1, x2, y2)


# --- working sizes ---


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(64 * 64, 2048 * 2048), st.sampled_from([8, 16, 32]))
def test_a_working_size_is_near_the_exact_one_and_in_multiples(width: int, height: int, area: int, step: int) -> None:
    w, h = working_size(width, height, WorkingSize(area, step))
    assert w % step == h % step == 0
    assert min(w, h) >= step
    exact = math.sqrt(area * width / height), math.sqrt(area * height / width)
    assert abs(w - exact[0]) <= step
    assert abs(h - exact[1]) <= step


@given(st.integers(100, 8000), st.integers(100, 8000))
def test_the_aspect_ratio_of_photographs_is_kept(width: int, height: int) -> None:
    ratio = width / height
    if not 1 / 4 <= ratio <= 4:
        return
    w, h = working_size(width, height, WorkingSize())
    assert abs(math.log(w / h / ratio)) < 0.02  # a sixteenth of the shorter side of 512 would be 0.03
    assert 0.93 < w * h / 2**20 < 1.07


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1000, 1000), (1024, 1024)),
        ((4000, 3000), (1168, 880)),
        ((1500, 1000), (1248, 832)),
        ((720, 1280), (768, 1360)),
    ],
)
def test_common_shapes_have_these_working_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert working_size(*size, WorkingSize()) == expected


# --- which way ---


def way_of(request: EditRequest, can_inpaint: bool = False, **options: Any) -> str:
    return prepare(request, PlacementSettings(**options), SMALL, can_inpaint).way


def test_auto_crops_small_targets_and_tells_large_ones_in_words() -> None:
    photo = smooth(1000, 800)
    small, large = (100, 100, 300, 300), (100, 100, 700, 500)  # 5 % and 30 % of the photograph
    assert way_of(request_of(photo, small)) == "crop"
    assert way_of(request_of(photo, large)) == "words"
    assert way_of(request_of(photo, small), crop_below=0.04) == "words"
    assert way_of(request_of(photo, large), crop_below=0.31, margin=0.1) == "crop"
    assert way_of(request_of(photo, small, (700, 600, 900, 700))) == "words"  # what is around both is large


def test_auto_inpaints_where_the_engine_can() -> None:
    assert way_of(request_of(smooth(100, 80), (10, 10, 30, 30)), can_inpaint=True) == "inpaint"


@pytest.mark.parametrize("way", ["auto", "words", "crop", "inpaint", "whole"])
def test_an_edit_without_a_place_is_edited_whole(way: str) -> None:
    photo = smooth(100, 80)
    for request in (request_of(photo), request_of(photo, (1, 2, 30, 40), task="background")):
        prepared = prepare(request, PlacementSettings(way=way), SMALL, can_inpaint=True)
        assert (prepared.way, prepared.mask, prepared.prompt) == ("whole", None, "Make it red.")


def test_a_crop_of_nearly_everything_is_no_crop() -> None:
    photo = smooth(300, 200)
    assert way_of(request_of(photo, (5, 5, 290, 190)), way="crop") == "words"
    assert way_of(request_of(photo, (100, 100, 110, 110)), way="crop", least_side=100) == "crop"


def test_inpainting_is_refused_where_the_engine_has_none() -> None:
    with pytest.raises(ValueError, match=r"placement\.way"):
        prepare(request_of(smooth(10, 10), (1, 1, 5, 5)), PlacementSettings(way="inpaint"), SMALL)


def test_a_model_that_takes_boxes_is_told_them_and_nothing_about_their_place() -> None:
    placed = PlacementSettings()
    large = prepare(request_of(smooth(200, 100), (20, 10, 140, 90)), placed, WorkingSize(128 * 64, 16), False, True)
    assert (large.way, large.prompt, large.size) == ("boxes", "Make it red.", (128, 64))
    assert large.boxes == ((12, 6, 90, 58),)
    small = prepare(
        request_of(smooth(1000, 800), (500, 400, 540, 430)), placed, WorkingSize(256 * 256, 16), False, True
    )
    assert small.way == "crop"
    shown, ((x1, y1, x2, y2),) = small.region, small.boxes
    scale = small.size[0] / (shown[2] - shown[0]), small.size[1] / (shown[3] - shown[1])
    exact = [(500 - shown[0]) * scale[0], (400 - shown[1]) * scale[1], (540 - shown[0]) * scale[0]]
    assert np.abs(np.subtract([x1, y1, x2], exact)).max() < 1
    assert 0 < y1 < y2 < small.size[1]
    words = prepare(
        request_of(smooth(200, 100), (0, 0, 90, 90)), PlacementSettings(way="words"), WorkingSize(), False, True
    )
    assert words.way == "words"
    with pytest.raises(ValueError, match="takes them"):
        prepare(request_of(smooth(200, 100), (0, 0, 90, 90)), PlacementSettings(way="boxes"), WorkingSize())


def test_a_box_outside_of_the_photograph_is_an_error_that_names_it() -> None:
    with pytest.raises(EditError, match=r"\(100 x 80\).*\(100, 10, 120, 30\)") as caught:
        prepare(request_of(smooth(100, 80), (100, 10, 120, 30)), PlacementSettings(), SMALL)
    assert caught.value.kind == "BadBox"
    half_outside = prepare(request_of(smooth(100, 80), (90, 70, 120, 99)), PlacementSettings(way="crop"), SMALL)
    assert half_outside.region[2:] == (100, 80)


# --- what the model gets ---


@settings(max_examples=60, deadline=None)
@given(photo_and_box(), st.sampled_from(["words", "crop", "inpaint", "whole"]), st.floats(0, 2))
def test_the_model_gets_one_size_that_it_can_work_at(given: Any, way: str, margin: float) -> None:
    photo, box = given
    placement = PlacementSettings(way=way, margin=margin, least_margin=3, least_side=20)
    prepared = prepare(request_of(photo, box), placement, SMALL, can_inpaint=True)
    width, height = prepared.size
    assert prepared.image.dtype == np.uint8
    assert prepared.image.shape == (height, width, 3)
    assert width % 16 == height % 16 == 0
    region = prepared.region
    assert working_size(region[2] - region[0], region[3] - region[1], SMALL) == (width, height)
    assert boxes.intersection(region, box) == boxes.area(box)
    assert boxes.clip(region, photo.shape[1], photo.shape[0]) == region
    assert (prepared.mask is not None) == (prepared.way == "inpaint")
    if prepared.mask is not None:
        assert prepared.mask.shape == (height, width)
        assert set(np.unique(prepared.mask)) <= {0, 255}
        assert (prepared.mask == 255).any()


def test_a_crop_shows_the_target_with_its_margin_in_a_common_shape() -> None:
    photo = smooth(2000, 1500)
    prepared = prepare(request_of(photo, (800, 600, 1000, 700)), PlacementSettings(way="crop", margin=0.5), SMALL)
    x1, y1, x2, y2 = prepared.region
    assert (x2 - x1, y2 - y1) == (400, 300)  # 100 px on each side is 400 x 300, which is 4:3 already
    assert (x1, y1) == (700, 500)
    at_border = prepare(request_of(photo, (0, 0, 200, 100)), PlacementSettings(way="crop", margin=0.5), SMALL)
    assert at_border.region == (0, 0, 400, 300)  # moved inwards, not cut off
    long = prepare(request_of(photo, (100, 700, 1100, 720)), PlacementSettings(way="crop", margin=0.1), SMALL)
    assert (long.region[2] - long.region[0]) / (long.region[3] - long.region[1]) == pytest.approx(2)


@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("box", [(101, 99, 303, 207), (3, 1, 5, 3), (600, 10, 640, 480)])
def test_the_mask_covers_every_pixel_of_the_target_and_little_else(box: Box, margin: float) -> None:
    photo = smooth(640, 480)
    prepared = prepare(request_of(photo, box), PlacementSettings(way="inpaint", mask_margin=margin), SMALL, True)
    assert prepared.mask is not None
    width, height = prepared.size
    across, down = 640 / width, 480 / height
    limit = boxes.grow(box, margin, 640, 480)
    for y, x in np.argwhere(prepared.mask == 255):
        shows = (x * across, y * down, (x + 1) * across, (y + 1) * down)
        assert boxes.intersection(shows, limit) > 0
    for y, x in np.argwhere(prepared.mask == 0):
        shows = (x * across, y * down, (x + 1) * across, (y + 1) * down)
        assert boxes.intersection(shows, limit) < 1e-6


# --- words ---


@pytest.mark.parametrize(
    ("instruction", "targets", "expected"),
    [
        ("Make it red.", [(0, 0, 20, 20)], "Make it red. The place to edit is in the upper left corner of the image."),
        ("Make it red", [(0, 40, 20, 60)], "Make it red. The place to edit is on the left of the image."),
        ("Is this red? ", [(40, 40, 60, 60)], "Is this red? The place to edit is in the middle of the image."),
        (
            "Swap them.",
            [(0, 40, 20, 60), (80, 40, 99, 60)],
            "Swap them. The places to edit are on the left and on the right of the image.",
        ),
        ("Make the car on the left red.", [(0, 40, 20, 60)], None),
        ("Make the car in the top LEFT red.", [(0, 0, 20, 20)], None),
        ("Make the hat at the top of him red.", [(0, 0, 20, 20)], "top of him red. The place to edit is in the upper"),
        ("Make the car left of the bus red.", [(80, 40, 99, 60)], "The place to edit is on the right of the image."),
        ("Make it red.", [(20, 20, 90, 90)], None),  # nearly everywhere
        ("Make it red.", [(30, 0, 47, 90)], None),  # between left and middle: nothing is certain
    ],
)
def test_the_place_is_said_once_and_only_if_it_is_certain(
    instruction: str, targets: list[Box], expected: str | None
) -> None:
    said = with_place(instruction, targets, 100, 100)
    assert said == instruction if expected is None else expected in said


# --- what comes back ---


@settings(max_examples=60, deadline=None)
@given(photo_and_box(), st.sampled_from(["crop", "inpaint"]), st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_outside_of_the_mask_every_pixel_is_the_photographs(given: Any, way: str, feather: float, seed: int) -> None:
    photo, box = given
    placement = PlacementSettings(way=way, least_margin=2, least_side=8, margin=0.2, feather=feather)
    prepared = prepare(request_of(photo, box), placement, SMALL, can_inpaint=True)
    before = photo.copy()
    noise = np.random.default_rng(seed).integers(0, 256, (*prepared.size[::-1], 3), np.uint8)
    edit = finish(prepared, noise)
    assert edit.way == prepared.way
    assert edit.source is None
    assert edit.edited is not None
    assert edit.edited.shape == photo.shape
    np.testing.assert_array_equal(photo, before)
    if prepared.way == "words":
        assert edit.mask is None
        return
    assert edit.mask is not None
    np.testing.assert_array_equal(edit.edited[~edit.mask], photo[~edit.mask])
    limit = prepared.region if way == "crop" else boxes.grow(box, placement.mask_margin, photo.shape[1], photo.shape[0])
    assert not (edit.mask & ~boxes.to_mask([limit], *photo.shape[:2])).any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(64, 400),
    st.integers(64, 400),
    st.sampled_from(["words", "crop", "inpaint", "whole"]),
    st.integers(0, 9),
)
def test_an_editor_that_changes_nothing_gives_the_photograph_back(width: int, height: int, way: str, seed: int) -> None:
    photo = smooth(width, height, seed)
    box = (width // 3, height // 3, width // 3 + 30, height // 3 + 20)
    placement = PlacementSettings(way=way, least_margin=8, least_side=32)
    prepared = prepare(request_of(photo, box), placement, SMALL, can_inpaint=True)
    edit = finish(prepared, prepared.image)
    assert edit.edited is not None
    difference = np.abs(edit.edited.astype(int) - photo)
    assert difference.mean() < 1
    assert difference.max() < 24  # of 255, at the few pixels where reduction rounds a fold of the surface


def test_inside_of_the_target_the_answer_counts_fully_and_its_border_is_soft() -> None:
    photo = np.zeros((400, 600, 3), np.uint8)
    box = (200, 150, 300, 220)
    prepared = prepare(request_of(photo, box), PlacementSettings(way="crop", feather=0.1, least_side=64), SMALL)
    edit = finish(prepared, answered(prepared, 200))
    assert edit.edited is not None
    assert (boxes.crop(edit.edited, box) == 200).all()
    x1, _, x2, _ = prepared.region
    line = edit.edited[180, x1:x2, 0].astype(int)
    rise = line[: 200 - x1]
    assert (np.diff(rise) >= 0).all()
    assert 0 < rise[0] < 40
    assert len(set(rise[rise < 200])) >= 10


def answered(prepared: Prepared, value: int) -> np.ndarray:
    """An answer of one colour, but for a pixel: of one colour entirely it would be none."""
    picture = np.full_like(prepared.image, value)
    picture[-1, -1] = value - 1
    return picture


@pytest.mark.parametrize("box", [(0, 0, 80, 60), (30, 20, 80, 60)])
def test_where_the_photograph_ends_there_is_no_soft_edge(box: Box) -> None:
    photo = np.zeros((400, 600, 3), np.uint8)
    photo[0, 0] = 9
    prepared = prepare(request_of(photo, box), PlacementSettings(way="crop", least_side=64), SMALL)
    assert prepared.region[:2] == (0, 0)
    edit = finish(prepared, answered(prepared, 200))
    assert edit.edited is not None
    assert (edit.edited[:60, :80] == 200).all()


@pytest.mark.parametrize("way", ["crop", "inpaint"])
def test_every_target_of_several_counts_fully(way: str) -> None:
    photo = np.zeros((400, 600, 3), np.uint8)
    photo[0, 0] = 9
    targets = [(100, 100, 140, 130), (250, 180, 300, 240)]
    placement = PlacementSettings(way=way, feather=0.2, least_side=64, margin=0.2)
    prepared = prepare(request_of(photo, *targets, task="hybrid"), placement, SMALL, can_inpaint=True)
    edit = finish(prepared, answered(prepared, 200))
    assert edit.edited is not None
    for target in targets:
        assert (boxes.crop(edit.edited, target) == 200).all()
    between = (180, 140, 220, 170)
    assert (boxes.crop(edit.edited, between) == (200 if way == "crop" else 0)).all()


def textured(width: int, height: int) -> np.ndarray:
    noise = np.random.default_rng(3).integers(0, 256, (height // 3, width // 3, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_an_answer_that_moved_is_put_back_before_it_is_mixed_in() -> None:
    photo = textured(600, 450)
    working = WorkingSize(area=512 * 512)
    prepared = prepare(request_of(photo, (260, 180, 330, 240)), PlacementSettings(way="crop"), working)
    moved = np.roll(prepared.image, (6, 8), axis=(0, 1))
    edit = finish(prepared, moved)
    plain = finish(prepared, prepared.image)
    assert edit.edited is not None
    assert plain.edited is not None
    inner = (270, 190, 320, 230)

    def error(picture: np.ndarray) -> float:
        return float(np.abs(boxes.crop(picture, inner).astype(float) - boxes.crop(photo, inner)).mean())

    unmoved = cv2.resize(moved, (prepared.region[2] - prepared.region[0], prepared.region[3] - prepared.region[1]))
    assert error(edit.edited) < error(plain.edited) + 3
    x, y = prepared.region[:2]
    shown = boxes.crop(unmoved, (inner[0] - x, inner[1] - y, inner[2] - x, inner[3] - y)).astype(float)
    assert np.abs(shown - boxes.crop(photo, inner)).mean() > 5 * error(edit.edited)


@pytest.mark.parametrize("way", ["whole", "crop", "inpaint"])
@pytest.mark.parametrize("size", [(31, 47), (512, 512), (1000, 300)])
def test_an_answer_of_any_size_comes_back_at_the_photographs(way: str, size: tuple[int, int]) -> None:
    photo = textured(331, 257)
    box = (40, 50, 90, 99)
    prepared = prepare(request_of(photo, box), PlacementSettings(way=way, least_side=99), SMALL, can_inpaint=True)
    edit = finish(prepared, cv2.resize(prepared.image, size, interpolation=cv2.INTER_AREA))
    assert edit.edited is not None
    assert edit.edited.shape == photo.shape


def test_an_answer_that_was_cropped_to_a_square_is_put_where_it_belongs() -> None:
    photo = textured(600, 400)
    prepared = prepare(request_of(photo), PlacementSettings(), WorkingSize(area=600 * 400))
    width, height = prepared.size
    left = (width - height) // 2
    edit = finish(prepared, prepared.image[:, left : left + height])
    assert edit.edited is not None
    middle = np.s_[:, 120:480]
    assert np.abs(edit.edited[middle].astype(float) - photo[middle]).mean() < 12
    stretched = cv2.resize(prepared.image[:, left : left + height], (600, 400)).astype(float)
    assert np.abs(stretched[middle] - photo[middle]).mean() > 30


def test_a_picture_of_one_colour_is_no_answer() -> None:
    prepared = prepare(request_of(smooth(50, 40)), PlacementSettings(), SMALL)
    with pytest.raises(EditError, match=r"one colour \(7, 7, 7\)") as caught:
        finish(prepared, np.full_like(prepared.image, 7))
    assert caught.value.kind == "BlankAnswer"


def test_a_request_without_words_is_an_error() -> None:
    with pytest.raises(EditError, match="no instruction"):
        prepare(request_of(smooth(50, 40), instruction=" "), PlacementSettings(), SMALL)


@pytest.mark.parametrize(
    "bad", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_an_answer_that_is_no_picture_is_an_error(bad: np.ndarray) -> None:
    prepared: Prepared = prepare(request_of(smooth(50, 40)), PlacementSettings(), SMALL)
    with pytest.raises(EditError, match="RGB uint8"):
        finish(prepared, bad)
