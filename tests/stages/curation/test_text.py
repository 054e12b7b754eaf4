"""Text and watermarks: the columns of the stage against pictures with known lines, and the watermark rule by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_tools import table
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from ugaf.stages.curation.text import Text, text_area

from ugaf.base.errors import ConfigError, StopRun
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.imaging import images
from ugaf.models.readers import Line
from ugaf.pipeline import config
from ugaf.provenance.watermarks import pixel_box, watermark
from ugaf.stage import Failure, Row, engines

SEEN: list[tuple[int, ...]] = []
"""Shapes of the pictures that `Blocks` was given."""


class Blocks:
    """A reader of pictures with one black block on white: a line around it; a red corner is what it cannot read."""

    name = "blocks"
    version = 1

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        text: str = "HELLO"
        score: float | None = 0.9
        fault: str = ""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def read(self, pictures: Sequence[np.ndarray]) -> list[list[Line] | Failure]:
        found = [self._one(picture) for picture in pictures]
        return found[1:] if self.settings.fault == "short" else found

    def _one(self, picture: np.ndarray) -> list[Line] | Failure:
        SEEN.append(picture.shape)
        red = tuple(picture[0, 0] // 128) == (1, 0, 0)
        if red and self.settings.fault == "stops":
            raise StopRun("the reader's server is gone")
        if red and self.settings.fault == "raises":
            raise ValueError("red")
        if red:
            return Failure("Red", "it is red")
        ys, xs = np.nonzero(picture[..., 1] < 128)
        if not len(xs):
            return []
        x1, y1, x2, y2 = (float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        if self.settings.fault == "corners":
            corners[0, 0] = math.nan
        return [Line(corners, self.settings.text, self.settings.score)]


def picture(block: tuple[int, int, int, int] | None, size: tuple[int, int] = (200, 100)) -> np.ndarray:
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    if block:
        pixels[block[1] : block[3], block[0] : block[2]] = 0
    return pixels


def row(pixels: np.ndarray, number: int = 0) -> Row:
    height, width = pixels.shape[:2]
    return Row(f"{number:032x}", {"image": images.encode(pixels), "width": width, "height": height})


def stage_of(settings: dict[str, Any] | None = None, **reader: Any) -> Text:
    stage = Text("curation.text", Text.Settings(reader={"engine": "test_text:Blocks", **reader}, **(settings or {})))
    stage.setup()
    return stage


def columns(stage: Text, pixels: np.ndarray) -> dict[str, Any]:
    (found,) = stage([row(pixels)])
    assert isinstance(found, dict), str(found)
    return found


def line(x1: float, y1: float, x2: float, y2: float, text: str, score: float | None = 0.9) -> Line:
    return Line(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float), text, score)


GREY = np.full((400, 600, 3), 128, np.uint8)
CHESS = np.where((np.indices((400, 600)).sum(0) % 2)[..., None], 255, 0).repeat(3, 2).astype(np.uint8)
"""Where no box is faint."""


def middle(text: str) -> Line:
    """A large line in the middle of a picture of 600 x 400."""
    return line(200, 150, 400, 250, text)


# -- the stage ---------------------------------------------------------------------------------------------------------


def test_a_line_is_measured_in_the_photograph() -> None:
    found = columns(stage_of(), picture((40, 30, 140, 50)))
    assert found["text"] == "HELLO"
    assert found["text_boxes"] == [[40, 30, 140, 50]]
    assert found["text_area"] == 100 * 20 / (200 * 100)
    assert found["reader"] == "blocks"


def test_boxes_are_those_of_the_full_photograph_whatever_size_is_read() -> None:
    SEEN.clear()
    found = columns(stage_of({"side": 100}), picture((80, 60, 280, 100), (400, 200)))
    assert SEEN == [(50, 100, 3)]
    assert found["text_boxes"] == [[80, 60, 280, 100]]
    assert found["text_area"] == pytest.approx(200 * 40 / (400 * 200))


def test_without_text_the_text_is_null_and_the_measures_are_zero() -> None:
    found = columns(stage_of(), picture(None))
    assert found["text"] is None
    assert (found["text_area"], found["text_boxes"], found["watermark"]) == (0, [], 0)


@pytest.mark.parametrize(
    ("score", "kept"), [(0.59, False), (0.6, True), (None, True)], ids=["below", "at the limit", "no score"]
)
def test_lines_with_a_low_score_are_left_out(score: float | None, kept: bool) -> None:
    found = columns(stage_of(score=score), picture((40, 30, 140, 50)))
    assert (found["text"] is not None, bool(found["text_boxes"]), found["text_area"] > 0) == (kept, kept, kept)


@pytest.mark.parametrize("text", ["", "  ", "--", "®"])
def test_lines_without_a_letter_are_left_out(text: str) -> None:
    found = columns(stage_of(text=text), picture((40, 30, 140, 50)))
    assert (found["text"], found["text_boxes"], found["text_area"]) == (None, [], 0)


def test_the_text_is_cut_off() -> None:
    assert columns(stage_of({"max_characters": 3}), picture((40, 30, 140, 50)))["text"] == "HEL"


@pytest.mark.parametrize("fault", ["", "raises"])
def test_a_picture_that_cannot_be_read_fails_alone(fault: str) -> None:
    red = picture(None)
    red[:4, :4] = (255, 0, 0)
    broken = Row("b" * 32, {"image": b"no picture", "width": 9, "height": 9})
    rows = [row(picture((40, 30, 140, 50)), 1), row(red, 2), broken, row(picture(None), 3)]
    first, second, third, fourth = stage_of(fault=fault)(rows)
    assert isinstance(first, dict)
    assert first["text"] == "HELLO"
    assert isinstance(second, Failure)
    assert "red" in second.message
    assert isinstance(third, Failure)
    assert third.type == "ImageError"
    assert isinstance(fourth, dict)
    assert fourth["text"] is None


def test_a_reader_that_stops_the_run_stops_it() -> None:
    red = picture(None)
    red[:4, :4] = (255, 0, 0)
    with pytest.raises(StopRun, match="server is gone"):
        stage_of(fault="stops")([row(picture(None)), row(red)])


def test_a_reader_that_skips_a_picture_is_not_believed() -> None:
    for outcome in stage_of(fault="short")([row(picture(None), 1), row(picture(None), 2)]):
        assert isinstance(outcome, Failure)
        assert "gave 0 results for 1 items" in outcome.message


def test_corners_that_are_none_fail_their_row() -> None:
    (found,) = stage_of(fault="corners")([row(picture((40, 30, 140, 50)))])
    assert isinstance(found, Failure)
    assert "four corners" in found.message


def test_it_runs_in_a_pipeline_and_its_rules_reject(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, block in (("none", None), ("little", (80, 40, 120, 60)), ("much", (10, 10, 110, 90))):
        (tmp_path / "photos" / f"{name}.png").write_bytes(images.encode(picture(block)))
    entry = {"curation.text": {"reader": {"engine": "test_text:Blocks"}}}
    document = {"name": "read", "inputs": [str(tmp_path / "photos")], "output": str(tmp_path / "run")}
    pipeline = config.parse({**document, "stages": [entry], "engine": {"executor": "inline"}})
    runner.run(pipeline, runner.RunOptions(), lambda _: None, lambda _: None)
    rows = table(RunView(pipeline.output, pipeline), "image", ["sources", "text_area"]).values()
    found = {Path(r["sources"][0]).stem: (r["status"], r["reason"]) for r in rows}
    assert found["none"][0] == found["little"][0] == "kept"
    assert found["much"] == ("rejected", "text_area 0.4 > 0.15")


# -- the engine's settings ---------------------------------------------------------------------------------------------


def test_rapidocr_is_an_extra_with_workers_of_its_own() -> None:
    needs = Text.needs(Text.Settings())
    assert needs.packages == {"rapidocr_onnxruntime": "ocr"}
    assert (needs.own_pool, needs.cpus, needs.gpus) == (True, 1.0, 0.0)
    assert Text.needs(Text.Settings(reader={"engine": "rapidocr", "threads": 4})).cpus == 4.0


def test_threads_compute_nothing_again_and_the_box_score_does() -> None:
    one, threads, boxes = (
        engines.identity(Text.Settings(reader={"engine": "rapidocr", **options}))
        for options in ({}, {"threads": 4}, {"box_score": 0.7})
    )
    assert one == threads
    assert one != boxes


def test_an_unknown_reader_is_named() -> None:
    with pytest.raises(ConfigError, match="rapidocr"):
        engines.check("reader", {"engine": "rapidorc"})


# -- area and boxes ----------------------------------------------------------------------------------------------------

BOXES = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=50)
@given(st.lists(BOXES, max_size=5))
def test_the_area_is_that_of_the_union(boxes: list[tuple[int, int, int, int]]) -> None:
    pixels = {(x, y) for x1, y1, x2, y2 in boxes for x in range(x1, min(x2, 50)) for y in range(y1, min(y2, 40))}
    found = text_area([line(*box, "").corners for box in boxes], 50, 40)
    assert found == pytest.approx(len(pixels) / (50 * 40))


@given(st.floats(0, math.pi), st.floats(20, 60), st.floats(10, 30), st.booleans())
def test_a_tilted_line_covers_its_own_area(angle: float, width: float, height: float, backwards: bool) -> None:
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2) @ turn + (100, 80)
    found = text_area([corners[::-1] if backwards else corners], 200, 160) * 200 * 160
    # A pixel at the border is in or out: at most about one on each unit of it.
    assert found == pytest.approx(width * height, abs=2 * (width + height) * 0.75)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.2, 2.7, 8.1, 9), (1, 2, 9, 9)),
        ((-5, -5, 3, 4), (0, 0, 3, 4)),
        ((15, 5, 30, 30), (15, 5, 20, 10)),
        ((25, 2, 30, 4), None),
        ((-9, 2, -3, 4), None),
    ],
)
def test_boxes_are_whole_pixels_inside_of_the_picture(
    box: tuple[float, ...], expected: tuple[int, int, int, int] | None
) -> None:
    assert pixel_box(line(*box, "").corners, 20, 10) == expected


# -- watermarks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["shutterstock", "Getty Images", "gettyimages®", "utterstock", "SHUTTER STOC", "photo: iStock", "i stock", "alamy",
     "摄图网版权", "All rights reserved.", "dreamstimecom", "myalamy.alamy"],
)  # fmt: skip
def test_an_agency_s_name_is_a_watermark(text: str) -> None:
    assert watermark([middle(text)], CHESS) == 1.0


@pytest.mark.parametrize(
    "text",
    ["stock", "images", "getty", "livestock", "calamy", "shutters", "rights", "pixtar", "Colour book", "DO NOT CONSUME",
     "waterman"],
)  # fmt: skip
def test_ordinary_words_are_none(text: str) -> None:
    assert watermark([middle(text)], CHESS) == 0


@pytest.mark.parametrize(
    "text",
    ["www.shop", "http://a.b", "anna-photos.com", "© Anna", "(c) 2021", "COPYRIGHT 2020", "@anna.k", "@ 2024 John",
     "Photo by Anna", "SmithPhotography", "ａｎｎａ.com"],
)  # fmt: skip
def test_addresses_and_copyright_notes_are_half_of_one(text: str) -> None:
    assert watermark([middle(text)], CHESS) == 0.5


@pytest.mark.parametrize("text", ["STOP", "the end.It was", "3.14", "a@b", "photo", "WINTER SALE"])
def test_other_text_is_no_mark(text: str) -> None:
    assert watermark([middle(text)], CHESS) == 0


def test_own_words_are_names_too() -> None:
    assert watermark([middle("Example Pictures")], CHESS, ["example"]) == 1.0
    assert watermark([middle("Examples")], CHESS, ["example"]) == 0


def test_a_small_line_in_the_margin_counts_and_a_large_one_does_not() -> None:
    assert watermark([line(480, 380, 590, 395, "A. Miller")], CHESS) == pytest.approx(0.3)
    assert watermark([line(480, 300, 590, 315, "A. Miller")], CHESS) == 0
    assert watermark([line(100, 350, 590, 399, "A. Miller")], CHESS) == 0
    assert watermark([line(480, 380, 590, 395, "anna.com")], CHESS) == pytest.approx(0.8)


def test_faint_letters_count() -> None:
    faint, strong = GREY.copy(), GREY.copy()
    faint[190:210, 220:380:2] += 30
    strong[190:210, 220:380:2] += 60
    assert watermark([middle("Anna")], faint) == pytest.approx(0.2)
    assert watermark([middle("Anna")], strong) == 0


def tiles(texts: Sequence[str], spread: float = 1.0) -> list[Line]:
    """Lines along the diagonal of a picture of 600 x 400."""
    places = [(300 + spread * (i / (len(texts) - 1) - 0.5) * 400, 200 + spread * (i / (len(texts) - 1) - 0.5) * 250)
              for i in range(len(texts))]  # fmt: skip
    return [line(x - 40, y - 20, x + 40, y + 20, text) for (x, y), text in zip(places, texts, strict=True)]


def test_the_same_text_all_over_the_picture_is_a_watermark() -> None:
    assert watermark(tiles(["SAMPLE", "sample", "SAMPL"]), CHESS) == pytest.approx(0.8)
    assert watermark(tiles(["SAMPLE", "SAMPLE"]), CHESS) == 0
    assert watermark(tiles(["SAMPLE", "COFFEE", "WINTER"]), CHESS) == 0
    assert watermark(tiles(["SAMPLE"] * 3, spread=0.2), CHESS) == 0
    assert watermark(tiles(["ABC"] * 3), CHESS) == 0


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.text(max_size=20), *[st.floats(-700, 700)] * 2, *[st.floats(0, 300)] * 2),
        max_size=6,
    )
)
def test_it_is_a_share_and_a_further_line_never_lowers_it(lines: list[tuple[str, float, float, float, float]]) -> None:
    every = [line(x, y, x + w, y + h, text) for text, x, y, w, h in lines]
    values = [watermark(every[:count], CHESS) for count in range(len(every) + 1)]
    assert values[0] == 0
    assert all(0 <= value <= 1 for value in values)
    assert all(b >= a for a, b in itertools.pairwise(values))
