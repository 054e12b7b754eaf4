"""What detectors rest on that needs no torch: boxes from tables, a VLM's boxes, phrases and tokens, letterboxing."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_fakes import FakeChat, Reply, pictures_of, texts_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ugaf.base.errors import ConfigError, StopRun
from ugaf.models.chat import ChatRequest
from ugaf.models.chat.schemas import json_schema
from ugaf.models.detectors import grounding, vlm
from ugaf.models.detectors.box_table import content_of
from ugaf.models.detectors.boxes import BoxesDetector, check, to_corners
from ugaf.models.detectors.common import by_halves, grouped
from ugaf.models.detectors.interface import Detection, DetectQuery, detections_of, phrases, pixel_box
from ugaf.models.detectors.letterbox import letterbox
from ugaf.models.detectors.vlm import VLMDetector
from ugaf.models.servers import ModelServer
from ugaf.pipeline import config
from ugaf.stage import Failure, engines

# -- arrays and phrases ------------------------------------------------------------------------------------------------


def test_corners_become_the_nearest_pixels_inside_the_image() -> None:
    assert pixel_box((10.4, 10.6, 19.5, 30.49), 100, 50) == (10, 11, 20, 30)
    assert pixel_box((-5, -0.2, 120, 60), 100, 50) == (0, 0, 100, 50)
    assert pixel_box((10, 10, 10.4, 20), 100, 50) is None
    assert pixel_box((-9, 0, -1, 5), 100, 50) is None
    with pytest.raises(ValueError, match="not a number"):
        pixel_box((math.nan, 0, 1, 1), 100, 50)


def test_a_model_s_arrays_come_best_first_and_must_be_numbers() -> None:
    corners = np.array([[0, 0, 10, 10], [5, 5, 5, 9], [20, 20, 40, 30]], np.float32)
    found = detections_of(corners, np.array([0.2, 0.9, 0.8]), ["a", "b", "c"], (100, 50))
    assert [(d.box, d.label, d.score) for d in found] == [((20, 20, 40, 30), "c", 0.8), ((0, 0, 10, 10), "a", 0.2)]
    with pytest.raises(ValueError, match="score that is not a number"):
        detections_of(corners, np.array([0.2, np.nan, 0.8]), ["a", "b", "c"], (100, 50))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ()),
        ("", ()),
        ("A cat. a  dog.", ("a cat", "a dog")),
        ("cat,dog; Cat\nst. bernard", ("cat", "dog", "st", "bernard")),
        (["St. Bernard", " ", "Dog "], ("st. bernard", "dog")),
        (np.array(["mug"], dtype=object), ("mug",)),
    ],
)
def test_phrases_are_read_from_text_and_lists(given: Any, expected: tuple[str, ...]) -> None:
    assert phrases(given) == expected


# -- Grounding DINO's text ---------------------------------------------------------------------------------------------


def _tokens(text: str) -> list[tuple[int, int]]:
    """Words and full stops as half-open ranges of characters, between a token each for start and end."""
    found, start = [(0, 0)], 0
    for i, character in enumerate(text + " "):
        if character in " .":
            if start < i:
                found.append((start, i))
            if character == ".":
                found.append((i, i + 1))
            start = i + 1
    return [*found, (0, 0)]


WORD = st.text("abcdef", min_size=1, max_size=4)
PHRASES = st.lists(st.lists(WORD, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=12, unique=True)


@given(PHRASES)
def test_spans_hold_their_phrases(names: list[str]) -> None:
    text, spans = grounding.as_text(names)
    assert [text[a:b] for a, b in spans] == names
    assert text.count(".") == len(names)


@given(PHRASES, st.integers(6, 20))
def test_chunks_hold_every_phrase_once_and_fit(names: list[str], limit: int) -> None:
    chunks = grounding.in_chunks(names, lambda text: len(_tokens(text)), limit)
    assert [name for chunk in chunks for name in chunk] == names
    assert all(len(_tokens(grounding.as_text(chunk)[0])) <= limit for chunk in chunks)
    for one, following in itertools.pairwise(chunks):
        assert len(_tokens(grounding.as_text([*one, following[0]])[0])) > limit, "the next would have fitted"


def test_a_phrase_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="'a b c d' has more tokens than the detector takes"):
        grounding.in_chunks(["a", "a b c d"], lambda text: len(_tokens(text)), 6)


def test_a_phrase_s_score_is_the_mean_over_its_tokens() -> None:
    text, spans = grounding.as_text(["red mug", "cat"])
    shares = grounding.token_shares(_tokens(text), spans, 10)
    assert np.allclose(shares.sum(axis=1), 1)
    logits = np.full((2, 10), -np.inf)
    # [start] red mug . cat . [end]
    logits[0, 1:5] = [2.0, 0.0, 5.0, 0.5]
    logits[1, 1:5] = [-1.0, 3.0, 5.0, 4.0]
    scores, best = grounding.read(logits, shares)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert best.tolist() == [0, 1]
    assert scores == pytest.approx([(sigmoid(2) + sigmoid(0)) / 2, sigmoid(4)])


def test_a_phrase_without_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="phrase 2"):
        grounding.token_shares([(0, 0), (0, 3)], [(0, 3), (5, 8)], 4)


def test_centres_become_corners_in_pixels() -> None:
    assert grounding.corners(np.array([[0.5, 0.25, 0.2, 0.5]]), 200, 100).tolist() == [[80, 0, 120, 50]]


# -- batches -----------------------------------------------------------------------------------------------------------


class _MemoryError(RuntimeError):
    pass


class _BrokenError(RuntimeError):
    pass


TORCH = SimpleNamespace(
    OutOfMemoryError=_MemoryError, AcceleratorError=_BrokenError, cuda=SimpleNamespace(empty_cache=lambda: None)
)


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 5), st.sets(st.integers(0, 20), max_size=3))
def test_halving_finishes_everything_but_what_fails_by_itself(items: list[int], room: int, bad: set[int]) -> None:
    def work(batch: Sequence[int]) -> list[int]:
        if len(batch) > room:
            raise _MemoryError
        if bad.intersection(batch):
            raise ValueError("bad")
        return [2 * item for item in batch]

    for batch in grouped(items, lambda item: item % 3, 7):
        assert len({item % 3 for item in batch}) == 1
        for item, outcome in zip(batch, by_halves(TORCH, work, batch), strict=True):
            assert isinstance(outcome, Failure) if item in bad else outcome == 2 * item
    assert sorted(i for batch in grouped(items, lambda item: item % 3, 7) for i in batch) == sorted(items)


@pytest.mark.parametrize("error", [_BrokenError("device-side assert"), StopRun("gone")])
def test_a_broken_gpu_fails_no_row(error: BaseException) -> None:
    def work(_: Sequence[int]) -> list[int]:
        raise error

    with pytest.raises(StopRun):
        by_halves(TORCH, work, [1, 2])


# -- letterboxing ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([64, 96]))
def test_a_letterbox_is_a_multiple_of_the_stride_and_maps_back(width: int, height: int, side: int) -> None:
    photo = np.zeros((height, width, 3), np.uint8)
    framed, frame = letterbox(photo, side, 32)
    assert max(framed.shape[:2]) == side
    assert framed.shape[0] % 32 == framed.shape[1] % 32 == 0
    inside = np.argwhere(framed[..., 0] == 0)
    (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
    back = frame.to_photo(np.array([[left, top, right, bottom]]))
    assert back[0] == pytest.approx([0, 0, width, height])


def test_a_mask_is_cut_out_of_the_input_where_the_box_is() -> None:
    photo = np.zeros((90, 160, 3), np.uint8)
    _, frame = letterbox(photo, 320, 32)
    rows, columns = np.mgrid[0:192, 0:320]
    # A disc of radius 40 in the input, around the photograph's point (60, 45).
    disc = (columns + 0.5 - 120) ** 2 + (rows + 0.5 - (90 + frame.top)) ** 2 < 40**2
    cut = frame.mask_of(disc, (35, 20, 85, 70))
    rows, columns = np.mgrid[20:70, 35:85]
    expected = (columns + 0.5 - 60) ** 2 + (rows + 0.5 - 45) ** 2 < 20**2
    assert cut is not None
    assert (cut ^ expected).mean() < 0.01
    assert frame.mask_of(disc, (100, 0, 160, 90)) is None


# -- missing libraries and needs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "missing", "extra"),
    [
        ({"engine": "transformers", "model": "m", "device": "cpu"}, "torch", "transformers"),
        ({"engine": "transformers", "model": "m", "device": "cpu"}, "transformers", "transformers"),
        ({"engine": "ultralytics", "model": "m.pt", "device": "cpu"}, "torch", "ultralytics"),
        ({"engine": "mmdet", "config": "c.py", "checkpoint": "c.pth", "device": "cpu"}, "torch", "mmdet"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], missing: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=rf"{missing} is not installed: pip install '\.\[{extra}\]'"):
        engines.build("detector", spec)


def test_what_a_detector_needs_follows_from_its_settings() -> None:
    spec = {"engine": "transformers", "model": "PekingU/rtdetr_v2_r101vd", "batch_size": 4}
    needs = engines.needs("detector", spec)
    assert (needs.own_pool, needs.gpus, needs.without_gpu) == (True, 0.25, "detector.device=cpu")
    assert needs.models == ("PekingU/rtdetr_v2_r101vd",)
    assert needs.packages == {"torch": "transformers", "transformers": "transformers"}
    assert needs.batch_rows == 16
    on_cpu = engines.needs("detector", {**spec, "device": "cpu", "vocabulary_column": "caption"})
    assert (on_cpu.gpus, on_cpu.cpus, on_cpu.without_gpu, on_cpu.reads) == (0.0, 1.0, "", ("caption",))


def test_how_the_work_is_done_is_in_no_fingerprint() -> None:
    def identity(**options: Any) -> dict[str, Any]:
        settings = engines.settings_of("detector", {"engine": "ultralytics", "model": "yolo26x.pt", **options})
        return engines.identity(settings)

    assert identity(device="cpu", batch_size=2) == identity()
    assert identity(model="yolo26n.pt") != identity()
    assert identity(vocabulary="Dog, cat") == identity(vocabulary=["dog", "cat"]) != identity()


def test_weights_are_no_yaml() -> None:
    with pytest.raises(ConfigError, match="without weights"):
        engines.check("detector", {"engine": "ultralytics", "model": "yolo26n.yaml"})


# -- boxes from a table ------------------------------------------------------------------------------------------------


def _query(**known: Any) -> DetectQuery:
    def refuse() -> np.ndarray:
        raise AssertionError("the photograph was decoded")

    return DetectQuery(**{"id": "ab" * 16, "size": (200, 100), "load": refuse, "sources": ("/data/a.jpg",), **known})


def _boxes(tmp_path: Path, table: dict[str, Any] | pa.Table, **options: Any) -> BoxesDetector:
    path = tmp_path / "boxes.parquet"
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    return BoxesDetector(BoxesDetector.Settings(path=str(path), **options))


def _plain(found: list[Detection] | Failure) -> list[tuple[Any, ...]]:
    assert not isinstance(found, Failure), str(found)
    return [(d.box, d.label, d.score) for d in found]


def test_one_row_an_image(tmp_path: Path) -> None:
    table = {
        "source": ["/data/b.jpg", "/data/a.jpg", "/data/empty.jpg"],
        "boxes": [[[0.0, 0, 5, 5]], [[10.4, 20, 60, 80.6], [100, 0, 200, 100]], []],
        "labels": [["cat"], ["dog", None], []],
        "scores": [[0.5], [0.25, 0.75], []],
    }
    detector = _boxes(tmp_path, table)
    found, empty = detector.detect([_query(), _query(sources=("/data/nowhere.jpg", "/data/empty.jpg"))])
    assert _plain(found) == [((100, 0, 200, 100), None, 0.75), ((10, 20, 60, 81), "dog", 0.25)]
    assert empty == []


@pytest.mark.parametrize("corners", ["box", "four"])
def test_one_row_a_box(tmp_path: Path, corners: str) -> None:
    numbers: list[list[float] | None] = [[0, 0, 50, 50], [10, 20, 60, 80], None, [100, 0, 200, 100]]
    if corners == "box":
        given: dict[str, Any] = {"box": pa.array(numbers, pa.list_(pa.float32(), 4))}
    else:
        given = {
            name: [None if box is None else box[i] for box in numbers]
            for i, name in enumerate(("x1", "y1", "x2", "y2"))
        }
    names = ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]
    table = {"file_name": names, "label": ["cat", "cat", None, "dog"], "confidence": [0.5, 0.5, None, 0.6], **given}
    detector = _boxes(tmp_path, table, key="file_name")
    sources = ["/data/a.jpg", "s3://bucket/x.tar#deep/b.jpg", "/t.parquet#17 (c.jpg)"]
    found = detector.detect([_query(sources=(source,)) for source in sources])
    assert [_plain(one) for one in found] == [
        [((100, 0, 200, 100), "dog", 0.6), ((0, 0, 50, 50), "cat", 0.5)],
        [((10, 20, 60, 80), "cat", 0.5)],
        [],
    ]


def test_by_id_with_columns_of_other_names_and_neither_labels_nor_scores(tmp_path: Path) -> None:
    table = {"sha": ["ab" * 16], "rois": [[[1, 2, 30, 40], [5, 6, 70, 80]]]}
    detector = _boxes(tmp_path, table, key="id", columns={"key": "sha", "boxes": "rois"})
    assert _plain(detector.detect([_query()])[0]) == [((1, 2, 30, 40), None, None), ((5, 6, 70, 80), None, None)]
    assert engines.needs("detector", {"engine": "boxes", "path": "x", "key": "id", "content": "known"}).reads == ()


@pytest.mark.parametrize(
    ("form", "relative", "box"),
    [
        ("xyxy", False, [20, 10, 60, 50]),
        ("xywh", False, [20, 10, 40, 40]),
        ("cxcywh", False, [40, 30, 40, 40]),
        ("xyxy", True, [0.1, 0.1, 0.3, 0.5]),
        ("cxcywh", True, [0.2, 0.3, 0.2, 0.4]),
    ],
)
def test_formats(form: Any, relative: bool, box: list[float]) -> None:
    assert to_corners(np.array([box]), form, 200, 100, relative) == pytest.approx(np.array([[20, 10, 60, 50]]))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([60, 20, 10, 80], "empty or inverted"),
        ([10, 20, 10, 80], "empty or inverted"),
        ([10, 20, 300, 80], "outside of the image of 200 x 100"),
        ([-6, 20, 100, 80], "outside of the image"),
        ([10, 20, 100, 103], "outside of the image"),
        ([10, math.nan, 100, 80], "not of numbers"),
        ([10, None, 100, 80], "not of numbers"),
        ([10, 20, 100], "has not four numbers"),
    ],
)
def test_a_box_that_cannot_be_the_image_s_is_an_error_on_its_row(tmp_path: Path, box: list[Any], message: str) -> None:
    table = {"source": ["/data/a.jpg", "/data/b.jpg"], "boxes": [[[0, 0, 50, 50], box], [[0, 0, 50, 50]]]}
    bad, good = _boxes(tmp_path, pa.table(table)).detect([_query(), _query(sources=("/data/b.jpg",))])
    assert isinstance(bad, Failure)
    assert message in str(bad)
    assert "'/data/a.jpg'" in str(bad)
    assert _plain(good) == [((0, 0, 50, 50), None, None)]


def test_a_box_that_reaches_out_a_little_is_cut_off() -> None:
    assert check([-3.9, -1.9, 203.9, 50], 200, 100, "it") == (0, 0, 200, 50)
    assert check([199.8, 99.9, 200.5, 100.5], 200, 100, "it") == (199, 99, 200, 100), "never empty"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"source": ["/data/z.jpg"], "boxes": [[[0, 0, 5, 5]]]}, "no boxes for '/data/a.jpg'.*are like '/data/z.jpg'"),
        ({"source": ["/data/a.jpg"] * 2, "boxes": [[[0, 0, 5, 5]]] * 2}, "has 2 rows"),
        ({"source": ["/data/a.jpg", "b"], "boxes": [None, [[0, 0, 5, 5]]]}, "null boxes"),
        ({"source": ["/data/a.jpg"], "boxes": [[[0, 0, 5, 5]]], "scores": [[0.5, 0.4]]}, "1 boxes and 2 scores"),
        ({"source": ["/data/a.jpg"], "boxes": [[[0, 0, 5, 5]]], "scores": [[97.0]]}, "score 97.0: scores are 0..1"),
    ],
)
def test_what_the_table_does_not_say_clearly_is_an_error(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    (found,) = _boxes(tmp_path, table).detect([_query()])
    assert isinstance(found, Failure)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(str(found))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"source": ["a"], "things": [1]}, "name the column of the boxes.*source, things"),
        ({"boxes": [[[0, 0, 5, 5]]]}, r"name the column of the key \(source\)"),
        ({"source": ["a"], "boxes": ["0 0 5 5"]}, "expected lists of four numbers"),
        ({"source": [1], "boxes": [[[0, 0, 5, 5]]]}, "int64, not text"),
        ({"source": ["a"], "boxes": [[[0, 0, 5, 5]]], "labels": [[17]]}, "not class names"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error_before_the_first_row(
    tmp_path: Path, table: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _boxes(tmp_path, table)


def test_many_files_by_folder_pattern_and_list(tmp_path: Path) -> None:
    for folder, name in (("one", "a"), ("one", "b"), ("two", "c")):
        (tmp_path / folder).mkdir(exist_ok=True)
        number: Any = 0.0 if name == "b" else 0
        pq.write_table(
            pa.table({"source": [name], "boxes": [[[number, number, 50, 50]]]}), tmp_path / folder / f"{name}.parquet"
        )

    def known(path: Any) -> list[str]:
        detector = BoxesDetector(BoxesDetector.Settings(path=path))
        found = detector.detect([_query(sources=(name,)) for name in "abc"])
        return [name for name, one in zip("abc", found, strict=True) if not isinstance(one, Failure)]

    assert known(str(tmp_path)) == ["a", "b", "c"]
    assert known(f"{tmp_path}/one/*.parquet") == ["a", "b"]
    assert known(f"{tmp_path}/*/[ac].parquet") == ["a", "c"]
    assert known(f"{tmp_path}/**/c.parquet") == ["c"]
    assert known([f"{tmp_path}/two", f"file://{tmp_path}/one/a.parquet"]) == ["a", "c"]
    with pytest.raises(ConfigError, match=r"no Parquet file at .*three"):
        known(f"{tmp_path}/three")


def test_the_fingerprint_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    def content(value: float, name: str) -> str:
        pq.write_table(pa.table({"source": ["a"], "boxes": [[[0.0, 0.0, 5.0, value]]]}), tmp_path / name)
        return content_of(str(tmp_path / name))

    first = content(5.0, "one.parquet")
    assert content(5.0, "two.parquet") == first
    assert content(5.5, "one.parquet") != first
    path = str(tmp_path / "one.parquet")
    spec = {"engine": "boxes", "path": path}
    settings = engines.settings_of("detector", spec)
    assert settings.content == content_of(path)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 2**32))
def test_every_key_gets_its_own_boxes_in_the_table_s_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], seed: int
) -> None:
    corners = np.sort(np.random.default_rng(seed).uniform(0, 100, (len(rows), 2, 2)), axis=1).reshape(-1, 4)
    corners[:, 2:] += 1
    table = pa.table({"source": [f"image {row}" for row in rows], "box": list(corners)})
    detector = _boxes(tmp_path_factory.mktemp("boxes"), table)
    for key in range(8):
        expected = [tuple(round(v) for v in box) for row, box in zip(rows, corners, strict=True) if row == key]
        (found,) = detector.detect([_query(sources=(f"image {key}",), size=(200, 200))])
        assert ([d.box for d in found] if not isinstance(found, Failure) else []) == expected
        assert isinstance(found, Failure) == (key not in rows)


# -- a VLM that grounds ------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[VLMDetector, FakeChat]]:
    """A detector of these settings, on a model that answers so."""

    def build(answers: Callable[[ChatRequest], Reply], **options: Any) -> tuple[VLMDetector, FakeChat]:
        chat = FakeChat(answers)
        monkeypatch.setattr(vlm, "open_chat", lambda link: chat if link == "link" else None)
        return VLMDetector(VLMDetector.Settings(server="eyes", **options), {"eyes": "link"}), chat

    return build


def _photo(width: int = 400, height: int = 200, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def _answer(*things: tuple[str, list[int]]) -> dict[str, Any]:
    return {"objects": [{"label": label, "box": box} for label, box in things]}


def test_thousandths_become_pixels(asked: Any) -> None:
    detector, chat = asked(lambda _: _answer(("red mug", [100, 250, 500, 1000]), ("cat", [0, 0, 1000, 333])))
    (found,) = detector.detect([DetectQuery.of(_photo(), id="ab" * 16, caption="a mug")])
    assert _plain(found) == [((40, 50, 200, 200), "red mug", None), ((0, 0, 400, 67), "cat", None)]
    (request,) = chat.requests
    (picture,) = pictures_of(request)
    assert (picture.pixels.shape, picture.side) == ((200, 400, 3), 1024)
    assert "0 to 1000" in texts_of(request)
    assert "a mug" in texts_of(request)
    assert 0 <= request.sampling.seed < 2**31


@given(
    st.integers(30, 3000),
    st.integers(30, 3000),
    st.integers(56, 1500),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.booleans(),
)
def test_pixels_are_those_of_the_picture_as_sent(
    width: int, height: int, side: int, edges: tuple[float, ...], small: bool
) -> None:
    photo = _photo(max(30, width // 8) if small else width, max(30, height // 8) if small else height)
    height, width = photo.shape[:2]
    detector = VLMDetector.__new__(VLMDetector)
    detector.settings = VLMDetector.Settings(server="eyes", coordinates="absolute", image_side=side)
    query = DetectQuery.of(photo)
    sent = detector._extent(query)
    assert sent[0] % 28 == sent[1] % 28 == 0
    assert max(sent) <= max(28, min(side, max(width, height)) + 14)
    x1, x2 = sorted(edges[:2])
    y1, y2 = sorted(edges[2:])
    box = [round(x1 * sent[0]), round(y1 * sent[1]), round(x2 * sent[0]), round(y2 * sent[1])]
    answer = SimpleNamespace(objects=[SimpleNamespace(label="a", box=box)])
    for found in detector._read(answer, query):
        expected = (
            box[0] * width / sent[0],
            box[1] * height / sent[1],
            box[2] * width / sent[0],
            box[3] * height / sent[1],
        )
        assert np.abs(np.subtract(found.box, expected)).max() <= 0.5


def test_absolute_coordinates_are_asked_for_a_picture_of_whole_patches(asked: Any) -> None:
    detector, chat = asked(lambda _: _answer(("mug", [14, 28, 252, 140])), coordinates="absolute", image_side=280)
    photo = cv2.resize(np.arange(200, dtype=np.uint8).reshape(1, 200, 1).repeat(3, 2), (400, 200))
    (found,) = detector.detect([DetectQuery.of(photo)])
    (picture,) = pictures_of(chat.requests[0])
    assert picture.pixels.shape == (140, 280, 3)
    assert picture.side is None
    assert "280 pixels wide and 140 pixels high" in texts_of(chat.requests[0])
    assert _plain(found) == [((20, 40, 360, 200), "mug", None)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_answer(("mug", [500, 0, 100, 10])), "empty or inverted"),
        (_answer(("mug", [100, 10, 500, 10])), "empty or inverted"),
        (_answer(("mug", [0, 0, 1001, 10])), "less than or equal to 1000"),
        (_answer(("mug", [-1, 0, 10, 10])), "greater than or equal to 0"),
        (_answer(("mug", [0, 0, 10])), "at least 4 items"),
        (_answer(("", [0, 0, 10, 10])), "label"),
        (_answer(*[("mug", [i, 0, 500, 10]) for i in range(21)]), "at most 20 items"),
        ({"objects": [{"label": "mug", "box": [0, 0, 9, 9], "score": 0.9}]}, "Extra inputs"),
        ("I see a mug.", "no JSON object"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_and_no_box(asked: Any, answer: Reply, message: str) -> None:
    good = _answer(("mug", [0, 0, 10, 10]))
    detector, _ = asked(lambda request: answer if pictures_of(request)[0].pixels[0, 0, 0] == 1 else good)
    bad, fine = detector.detect([DetectQuery.of(_photo(value=1)), DetectQuery.of(_photo(value=2))])
    assert isinstance(bad, Failure)
    assert message in str(bad)
    assert _plain(fine) == [((0, 0, 4, 2), "mug", None)]


def test_absolute_boxes_outside_of_the_shorter_side_are_refused(asked: Any) -> None:
    detector, _ = asked(lambda _: _answer(("mug", [0, 0, 100, 150])), coordinates="absolute", image_side=280)
    (found,) = detector.detect([DetectQuery.of(_photo())])
    assert isinstance(found, Failure)
    assert "outside of a picture of 280 x 140" in str(found)


def test_a_vocabulary_is_all_that_a_label_can_be(asked: Any) -> None:
    detector, chat = asked(
        lambda request: _answer(("dog" if "dog" in texts_of(request) else "mug", [0, 0, 500, 500])),
        vocabulary=["mug", "red cat"],
        vocabulary_column="tags",
    )
    own, other = detector.detect([DetectQuery.of(_photo(), vocabulary=("dog",)), DetectQuery.of(_photo())])
    assert _plain(own)[0][1] == "dog"
    assert _plain(other)[0][1] == "mug"
    assert "mug, red cat" in texts_of(chat.requests[1])
    assert ">dog</words-" in texts_of(chat.requests[0]), "words of a column are quoted"
    label = json_schema(chat.requests[1].schema)["properties"]["objects"]["items"]["properties"]["label"]
    assert label["enum"] == ["mug", "red cat"]
    wrong, _ = asked(lambda _: _answer(("cat", [0, 0, 500, 500])), vocabulary=["mug"])
    assert isinstance(wrong.detect([DetectQuery.of(_photo())])[0], Failure)


def test_nothing_to_look_for_is_an_error_on_its_row_alone(asked: Any) -> None:
    detector, chat = asked(lambda _: _answer(), vocabulary_column="tags")
    nothing, something = detector.detect([DetectQuery.of(_photo()), DetectQuery.of(_photo(), vocabulary=("mug",))])
    assert isinstance(nothing, Failure)
    assert "'tags' is empty" in str(nothing)
    assert something == []
    assert len(chat.requests) == 1


def test_a_photograph_that_cannot_be_decoded_shifts_no_answer(asked: Any) -> None:
    def broken() -> np.ndarray:
        raise OSError("damaged")

    detector, _ = asked(lambda request: _answer(("mug", [0, 0, int(pictures_of(request)[0].pixels[0, 0, 0]), 1000])))
    queries = [DetectQuery.of(_photo(value=value)) for value in (100, 150, 200)]
    queries.insert(1, DetectQuery(id="", size=(400, 200), load=broken))
    found = detector.detect(queries)
    assert str(found[1]) == "OSError: damaged"
    assert [_plain(found[i])[0][0][2] for i in (0, 2, 3)] == [40, 60, 80]


def test_the_same_thing_twice_is_one(asked: Any) -> None:
    detector, _ = asked(lambda _: _answer(*[("mug", [0, 0, 500, 500])] * 3, ("cup", [0, 0, 500, 500])))
    assert [d[1] for d in _plain(detector.detect([DetectQuery.of(_photo())])[0])] == ["mug", "cup"]


def test_prompts_are_part_of_the_fingerprint_and_can_be_changed(asked: Any) -> None:
    settings = VLMDetector.Settings(server="eyes", prompts={"objects": "Find all. {coordinates} {caption}"})
    models = {"eyes": ModelServer(model="m", endpoints=["http://127.0.0.1:9/v1"])}
    ours = engines.identity(VLMDetector.Settings(server="eyes"), models)
    assert engines.identity(settings, models)["prompts"] != ours["prompts"]
    detector, chat = asked(lambda _: _answer(), prompts={"objects": "Find all. {coordinates}"})
    detector.detect([DetectQuery.of(_photo())])
    assert texts_of(chat.requests[0]).startswith("Find all. A box is")
    with pytest.raises((ConfigError, ValidationError), match="objets"):
        VLMDetector.Settings(server="eyes", prompts={"objets": "x"})


def test_the_model_reads_the_caption_where_there_is_one() -> None:
    needs = engines.needs("detector", {"engine": "vlm", "server": "eyes"})
    assert needs.optional_reads == ("caption",)
    assert needs.servers == ("eyes",)
    assert needs.packages == {"openai": "chat"}


def test_a_finished_run_is_read_when_its_table_is_gone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"source": ["a"], "boxes": [[[0.0, 0.0, 5.0, 5.0]]]}), tmp_path / "boxes.parquet")
    detector = {"engine": "boxes", "path": str(tmp_path / "boxes.parquet")}
    document = {"name": "x", "inputs": ["sample://"], "stages": [{"annotation.detect": {"detector": detector}}]}
    checked = config.parse(document)
    (tmp_path / "boxes.parquet").unlink()
    again = config.parse(checked.document)
    assert again.stage("annotation.detect").fingerprint == checked.stage("annotation.detect").fingerprint
    with pytest.raises(ConfigError, match="no Parquet file"):
        config.parse(document)
