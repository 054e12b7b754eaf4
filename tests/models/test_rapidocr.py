"""The real RapidOCR, with the models that its package carries, on rendered text and real photographs."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import pytest
from ugaf.stages.curation.text import Text

from ugaf.imaging import boxes, images
from ugaf.stage import Failure, Row, engines

pytestmark = pytest.mark.torch

if find_spec("rapidocr_onnxruntime") is None:
    if os.environ.get("UGAF_REQUIRE_MODELS"):
        raise pytest.UsageError("UGAF_REQUIRE_MODELS is set, and not installed is: rapidocr_onnxruntime")
    pytest.skip("rapidocr_onnxruntime is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def stage() -> Text:
    found = Text("curation.text", Text.Settings())
    found.setup()
    return found


def written(
    pixels: np.ndarray, text: str, place: tuple[int, int], scale: float = 1.0, colour: tuple[int, ...] = (255, 255, 255)
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The picture with a line whose baseline begins at `place`, and the box of its ink."""
    drawn = cv2.putText(np.zeros_like(pixels), text, place, cv2.FONT_HERSHEY_DUPLEX, scale, (255,) * 3, 2, cv2.LINE_AA)
    ink = drawn[..., :1] / 255
    box = boxes.of_mask(ink[..., 0] > 0.5)
    assert box is not None
    return np.rint(pixels * (1 - ink) + np.array(colour) * ink).astype(np.uint8), box


def read(stage: Text, pixels: np.ndarray) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    (found,) = stage([Row("a" * 32, {"image": images.encode(pixels), "width": width, "height": height})])
    assert isinstance(found, dict), str(found)
    return found


def test_it_reads_lines_where_they_stand(stage: Text) -> None:
    pixels, first = written(np.full((400, 640, 3), 200, np.uint8), "Bread and cheese", (60, 120), 1.2, (20, 30, 60))
    pixels, second = written(pixels, "Fresh every day", (200, 300), 1.2, (120, 20, 20))
    found = read(stage, pixels)
    assert [text.replace(" ", "") for text in found["text"].split("\n")] == ["Breadandcheese", "Fresheveryday"]
    for box, ink in zip(found["text_boxes"], (first, second), strict=True):
        # A region is a little wider than the ink.
        assert boxes.intersection(box, ink) >= 0.9 * boxes.area(ink)
        assert boxes.area(box) <= 2 * boxes.area(ink)
    covered = sum(map(boxes.area, found["text_boxes"])) / (400 * 640)
    assert found["text_area"] == pytest.approx(covered, rel=0.15)
    assert found["watermark"] == 0
    assert found["reader"] == "rapidocr:PP-OCRv4"


def test_boxes_are_those_of_the_full_photograph(stage: Text) -> None:
    pixels, ink = written(np.full((1200, 1920, 3), 200, np.uint8), "Bread", (800, 700), 4, (20, 30, 60))
    found = read(stage, pixels)
    assert found["text"] == "Bread"
    assert boxes.iou(found["text_boxes"][0], ink) > 0.5


def test_photographs_without_text_have_none(stage: Text, photos: dict[str, np.ndarray]) -> None:
    for name in ("astronaut", "chelsea", "coffee"):
        found = read(stage, photos[name])
        assert (found["text"], found["text_area"], found["watermark"]) == (None, 0, 0), name


@pytest.mark.parametrize(
    ("text", "place", "least"),
    [("www.example.com", (330, 390), 0.8), ("gettyimages", (200, 220), 1.0), ("A. Miller", (460, 390), 0.3)],
)
def test_watermarks_on_a_photograph_are_found(
    stage: Text, photos: dict[str, np.ndarray], text: str, place: tuple[int, int], least: float
) -> None:
    assert read(stage, written(photos["coffee"], text, place, 0.8)[0])["watermark"] >= least - 1e-6


def test_the_same_text_all_over_a_photograph_is_found(stage: Text, photos: dict[str, np.ndarray]) -> None:
    pixels = photos["coffee"]
    for number in range(6):
        place = (30 + 290 * (number % 2), 70 + 130 * (number // 2))
        pixels = written(pixels, "PREVIEW", place, 1.2, (250, 250, 250))[0]
    assert read(stage, pixels)["watermark"] >= 0.8


def test_the_same_picture_gives_the_same_answer_beside_others(stage: Text, photos: dict[str, np.ndarray]) -> None:
    pixels, _ = written(photos["coffee"], "Fresh coffee", (100, 200), 1.4)
    rows = [
        Row(f"{n:032x}", {"image": images.encode(one), "width": one.shape[1], "height": one.shape[0]})
        for n, one in enumerate((photos["chelsea"], pixels, photos["astronaut"]))
    ]
    broken = Row("b" * 32, {"image": b"no picture", "width": 4, "height": 4})
    answers = stage([rows[0], broken, rows[1], rows[2]])
    assert isinstance(answers[1], Failure)
    assert answers[2] == stage([rows[1]])[0] == read(stage, pixels)


@pytest.mark.parametrize("size", [(1, 1), (7, 900), (900, 9), (40, 900), (3, 3)])
def test_pictures_of_any_shape_are_answered(size: tuple[int, int]) -> None:
    reader = engines.build("reader", {"engine": "rapidocr"})
    noise = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    (found,) = reader.read([noise])
    assert isinstance(found, list), str(found)
