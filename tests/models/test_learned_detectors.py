"""The learned detectors on tiny random checkpoints in their real formats: what is right whatever the weights."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from places import ROOT
from ugaf.stages.annotation.detect import Detect

from ugaf.base.errors import ConfigError, StopRun
from ugaf.imaging import boxes, images
from ugaf.models.detectors import mmdet_engine, ultralytics_engine
from ugaf.models.detectors.interface import Detection, DetectQuery
from ugaf.models.detectors.transformers_engine import OWL_PROMPT, TransformersDetector
from ugaf.models.detectors.ultralytics_engine import UltralyticsDetector, keep_to_itself
from ugaf.stage import Failure, Row

keep_to_itself()

import tiny_detectors as tiny  # noqa: E402 - after the environment of ultralytics

pytestmark = pytest.mark.torch

SCORES = 1e-4
PIXELS = 1
"""Within these, a photograph's detections are the same in every batch (a corner may round the other way)."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def checkpoints(folder: Path) -> dict[str, Path]:
    return {
        name: getattr(tiny, f"build_{name}")(folder / name)
        for name in ("rtdetr", "dfine", "detr", "grounding_dino", "owlv2")
    }


@pytest.fixture(scope="session")
def pictures(photos: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Of four shapes, two of each but one."""
    astronaut, coffee = cv2.resize(photos["astronaut"], (128, 128)), cv2.resize(photos["coffee"], (144, 96))
    return [astronaut, coffee, astronaut[:, ::-1], coffee[::-1], coffee.transpose(1, 0, 2), astronaut[:40]]


def _queries(pictures: Sequence[np.ndarray], **known: Any) -> list[DetectQuery]:
    return [DetectQuery.of(picture, **known) for picture in pictures]


def _transformers(path: Path, **options: Any) -> TransformersDetector:
    return TransformersDetector(
        TransformersDetector.Settings(model=str(path), **{"device": "cpu", "floor": 0.0, **options})
    )


def _good(outcomes: Sequence[list[Detection] | Failure]) -> list[list[Detection]]:
    assert not [str(outcome) for outcome in outcomes if isinstance(outcome, Failure)]
    return [outcome for outcome in outcomes if not isinstance(outcome, Failure)]


def _check(found: Sequence[Detection], picture: np.ndarray, labels: Sequence[str]) -> None:
    assert found
    scores = [detection.score for detection in found]
    assert scores == sorted(scores, reverse=True)
    for detection in found:
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 < x2 <= picture.shape[1]
        assert 0 <= y1 < y2 <= picture.shape[0]
        assert detection.label in labels


def _assert_same(one: Sequence[Detection], other: Sequence[Detection], pixels: float = PIXELS) -> None:
    """Up to the order of equal scores."""
    assert len(one) == len(other)
    left = list(other)
    for detection in one:
        match = next(
            i
            for i, candidate in enumerate(left)
            if candidate.label == detection.label
            and abs(candidate.score - detection.score) <= SCORES
            and np.abs(np.subtract(candidate.box, detection.box)).max() <= pixels
        )
        left.pop(match)


def _plain(rows: Sequence[tuple[Sequence[float], float, str]], picture: np.ndarray) -> list[Detection]:
    """A library's own answer, in whole pixels inside the picture."""
    height, width = picture.shape[:2]
    found = []
    for corners, score, label in rows:
        x1, y1, x2, y2 = np.clip(np.rint(corners), 0, (width, height, width, height)).astype(int).tolist()
        if x1 < x2 and y1 < y2:
            found.append(Detection((x1, y1, x2, y2), label, score, None))
    return found


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rtdetr", "dfine", "detr"])
def test_boxes_are_those_of_the_library_whatever_the_batch(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], name: str
) -> None:
    detector = _transformers(checkpoints[name], batch_size=3)
    together = _good(detector.detect(_queries(pictures)))
    model = transformers.AutoModelForObjectDetection.from_pretrained(checkpoints[name]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoints[name])
    for picture, found in zip(pictures, together, strict=True):
        _check(found, picture, tiny.CLASSES)
        (alone,) = _good(detector.detect(_queries([picture])))
        _assert_same(found, alone)
        with torch.no_grad():
            outputs = model(**processor(images=[Image.fromarray(picture)], return_tensors="pt"))
        (answer,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[picture.shape[:2]])
        rows = zip(answer["boxes"].tolist(), answer["scores"].tolist(), answer["labels"].tolist(), strict=True)
        _assert_same(found, _plain([(b, s, tiny.CLASSES[label]) for b, s, label in rows], picture))
    assert detector.class_names == tiny.CLASSES


@pytest.mark.parametrize("name", ["rtdetr", "detr"])
def test_a_batch_is_of_one_size_and_holds_no_padding(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    detector, seen = _transformers(checkpoints[name], batch_size=4), []
    forward = detector._model.forward

    def watch(**inputs: torch.Tensor) -> Any:
        seen.append(tuple(inputs["pixel_values"].shape))
        assert "pixel_mask" not in inputs or bool(inputs["pixel_mask"].all())
        return forward(**inputs)

    monkeypatch.setattr(detector._model, "forward", watch)
    _good(detector.detect(_queries(pictures)))
    if name == "rtdetr":
        assert [shape[0] for shape in seen] == [4, 2], "every photograph is stretched to the same size"
    else:
        assert sorted(shape[0] for shape in seen) == [1, 1, 2, 2], "of four shapes"
    assert sum(shape[0] for shape in seen) == len(pictures)


def test_half_precision_finds_nearly_the_same(checkpoints: dict[str, Path], pictures: list[np.ndarray]) -> None:
    """By the same code as on a GPU; a CPU has bfloat16, the coarser of the two."""
    whole = _good(_transformers(checkpoints["rtdetr"]).detect(_queries(pictures)))
    half = _good(_transformers(checkpoints["rtdetr"], dtype="bfloat16").detect(_queries(pictures)))
    for one, other in zip(whole, half, strict=True):
        assert len(one) == len(other)
        assert [d.score for d in one] == pytest.approx([d.score for d in other], abs=0.05)
        nearest = [min(np.abs(np.subtract(a.box, b.box)).max() for b in other) for a in one]
        assert np.median(nearest) <= 2


def test_the_floor_leaves_the_best(checkpoints: dict[str, Path], pictures: list[np.ndarray]) -> None:
    (every,) = _good(_transformers(checkpoints["rtdetr"]).detect(_queries(pictures[:1])))
    floor = every[4].score
    (some,) = _good(_transformers(checkpoints["rtdetr"], floor=floor).detect(_queries(pictures[:1])))
    assert [d.box for d in some] == [d.box for d in every if d.score >= floor]


@functools.cache
def _zero_shot(path: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(path).eval()
    return model, transformers.AutoProcessor.from_pretrained(path)


def _grounded(path: Path, picture: np.ndarray, vocabulary: Sequence[str]) -> list[Detection]:
    """Grounding DINO asked by hand: a phrase's score is the mean over its own tokens."""
    model, processor = _zero_shot(path)
    inputs = processor(
        images=Image.fromarray(picture), text=[" ".join(f"{phrase}." for phrase in vocabulary)], return_tensors="pt"
    )
    with torch.no_grad():
        outputs = model(**inputs)
    number = {word: i for i, word in enumerate(tiny.WORDS)}
    tokens, positions, at = inputs["input_ids"][0].tolist(), [], 1
    for phrase in vocabulary:
        words = phrase.split()
        assert tokens[at : at + len(words) + 1] == [number[word] for word in (*words, ".")]
        positions.append(range(at, at + len(words)))
        at += len(words) + 1
    chances = outputs.logits[0].sigmoid().numpy()
    scores = np.stack([chances[:, list(where)].mean(axis=1) for where in positions], axis=1)
    (height, width), rows = picture.shape[:2], []
    for (x, y, w, h), row in zip(outputs.pred_boxes[0].tolist(), scores, strict=True):
        corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        rows.append((corners, float(row.max()), vocabulary[int(row.argmax())]))
    return _plain(rows, picture)


def test_a_vocabulary_of_phrases_is_found_by_grounding_dino(
    checkpoints: dict[str, Path], pictures: list[np.ndarray]
) -> None:
    vocabulary = ["red mug", "cat", "a dog"]
    detector = _transformers(checkpoints["grounding_dino"], vocabulary=vocabulary, batch_size=2)
    for picture, found in zip(pictures, _good(detector.detect(_queries(pictures))), strict=True):
        _check(found, picture, vocabulary)
        _assert_same(found, _grounded(checkpoints["grounding_dino"], picture, vocabulary))


def test_each_photograph_has_its_own_vocabulary_in_one_batch(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoints["grounding_dino"]
    detector, sizes = _transformers(path, vocabulary=["bus"], vocabulary_column="tags"), []
    forward = detector._model.forward
    monkeypatch.setattr(
        detector._model, "forward", lambda **inputs: sizes.append(len(inputs["pixel_values"])) or forward(**inputs)
    )
    own = [("cat", "dog", "red mug"), ("person",), ()]
    queries = [DetectQuery.of(pictures[0], vocabulary=words) for words in own]
    found = _good(detector.detect(queries))
    assert sizes == [3]
    for words, some in zip([*own[:2], ("bus",)], found, strict=True):
        _assert_same(some, _grounded(path, pictures[0], words))
    assert detector.class_names == ()


def test_a_long_vocabulary_is_asked_in_parts(folder: Path, pictures: list[np.ndarray]) -> None:
    path = tiny.build_grounding_dino(folder / "narrow", tokens=8)
    vocabulary = ["red mug", "cat", "a dog", "bus", "person"]
    (found,) = _good(_transformers(path, vocabulary=vocabulary).detect(_queries(pictures[:1])))
    parts = [_grounded(path, pictures[0], part) for part in (["red mug", "cat"], ["a dog", "bus"], ["person"])]
    _assert_same(found, [detection for part in parts for detection in part])
    _check(found, pictures[0], vocabulary)


def test_owl_is_asked_for_each_phrase(checkpoints: dict[str, Path], pictures: list[np.ndarray]) -> None:
    vocabulary = ["cat", "red mug"]
    path = checkpoints["owlv2"]
    detector = _transformers(path, vocabulary=vocabulary, vocabulary_column="tags")
    queries = [*_queries(pictures[:2]), DetectQuery.of(pictures[0], vocabulary=("bus", "dog", "mug"))]
    found = _good(detector.detect(queries))
    model, processor = _zero_shot(path)
    for query, some in zip(queries, found, strict=True):
        words, picture = list(query.vocabulary or vocabulary), query.photo()
        prompts = [[OWL_PROMPT.format(word) for word in words]]
        inputs = processor(
            images=Image.fromarray(picture), text=prompts, max_length=32, padding="max_length", return_tensors="pt"
        )
        with torch.no_grad():
            outputs = model(**inputs)
        (answer,) = processor.post_process_grounded_object_detection(
            outputs, threshold=0.0, target_sizes=[picture.shape[:2]], text_labels=[words]
        )
        rows = zip(answer["boxes"].tolist(), answer["scores"].tolist(), answer["text_labels"], strict=True)
        _check(some, picture, words)
        _assert_same(some, _plain(list(rows), picture))


@pytest.mark.parametrize("name", ["grounding_dino", "owlv2"])
def test_a_vocabulary_that_cannot_be_asked_for_costs_its_own_row(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], name: str
) -> None:
    detector = _transformers(checkpoints[name], vocabulary_column="tags")
    long = " ".join(["cat"] * 40)
    queries = [DetectQuery.of(pictures[0], vocabulary=words) for words in [("cat",), (), (long,), ("dog",)]]
    one, nothing, too_long, other = detector.detect(queries)
    assert isinstance(nothing, Failure)
    assert "nothing to look for: 'tags' is empty here" in str(nothing)
    assert isinstance(too_long, Failure)
    assert "more tokens than the detector takes (32)" in str(too_long)
    assert all(isinstance(found, list) and found for found in (one, other))


def test_a_photograph_that_cannot_be_decoded_costs_only_itself(
    checkpoints: dict[str, Path], pictures: list[np.ndarray]
) -> None:
    queries = _queries(pictures[:3])
    queries[1] = DetectQuery(id="", size=(9, 9), load=lambda: images.decode(b"no image"))
    one, bad, other = _transformers(checkpoints["rtdetr"]).detect(queries)
    assert isinstance(bad, Failure)
    assert bad.type == "ImageError"
    assert len(one) == len(other) == 12


def test_numbers_that_are_none_are_an_error_and_not_an_empty_photograph(
    checkpoints: dict[str, Path], pictures: list[np.ndarray]
) -> None:
    detector = _transformers(checkpoints["rtdetr"])
    forward = detector._model.forward

    def overflow(**inputs: torch.Tensor) -> Any:
        outputs = forward(**inputs)
        outputs["logits"][inputs["pixel_values"].mean(dim=(1, 2, 3)) > 0.45] = torch.nan
        return outputs

    detector._model.forward = overflow
    dark, light = np.zeros_like(pictures[0]), np.full_like(pictures[0], 255)
    found = detector.detect(_queries([dark, light, dark]))
    assert [isinstance(one, Failure) for one in found] == [False, True, False]
    assert "dtype: float32 may help" in str(found[1])


def test_no_memory_left_halves_the_batch(checkpoints: dict[str, Path], pictures: list[np.ndarray]) -> None:
    detector = _transformers(checkpoints["rtdetr"])
    expected, forward, tried = _good(detector.detect(_queries(pictures))), detector._model.forward, []

    def small(**inputs: torch.Tensor) -> Any:
        tried.append(len(inputs["pixel_values"]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    detector._model.forward = small
    for one, other in zip(_good(detector.detect(_queries(pictures))), expected, strict=True):
        _assert_same(one, other)
    assert tried[0] == len(pictures)


def test_a_gpu_that_failed_stops_the_run(checkpoints: dict[str, Path], pictures: list[np.ndarray]) -> None:
    detector = _transformers(checkpoints["rtdetr"])

    def broken(**_: torch.Tensor) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    detector._model.forward = broken
    with pytest.raises(StopRun, match="device-side assert"):
        detector.detect(_queries(pictures))


def test_what_cannot_work_is_said_before_the_first_row(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set `vocabulary` or `vocabulary_column`"):
        _transformers(checkpoints["grounding_dino"])
    with pytest.raises(ConfigError, match="has its own classes; choose among them with `classes`"):
        _transformers(checkpoints["rtdetr"], vocabulary=["cat"])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        _transformers(tmp_path / "nothing")
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"\(bert\) is no supported detector"):
        _transformers(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"detector\.device=cpu"):
            _transformers(checkpoints["rtdetr"], device="cuda")


def test_the_stage_runs_a_checkpoint_with_class_filters(
    checkpoints: dict[str, Path], pictures: list[np.ndarray]
) -> None:
    def stage(**options: Any) -> Detect:
        detector = {"engine": "transformers", "model": str(checkpoints["rtdetr"]), "device": "cpu", "floor": 0}
        limits = {"min_score": 0.0, "min_area": 0.0, "max_area": 1.0, "max_aspect": 1000}
        built = Detect("annotation.detect", Detect.Settings(detector=detector, **limits, **options))
        built.setup()
        return built

    rows = [
        Row("a" * 32, {"image": images.encode(picture), "width": picture.shape[1], "height": picture.shape[0]})
        for picture in pictures
    ]
    every = stage()(rows)
    label = every[0]["objects"][0]["label"]
    some = stage(classes=[label.upper()], max_per_class=2)(rows)
    for one, other in zip(every, some, strict=True):
        assert other["objects"] == [thing for thing in one["objects"] if thing["label"] == label][:2]
        assert other["detector"] == "transformers"
    with pytest.raises(ConfigError, match="did you mean 'person'"):
        stage(classes=["persn"])


# -- ultralytics -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def yolos(folder: Path) -> dict[str, Path]:
    return {
        "yolo26": tiny.build_yolo(folder / "yolo26"),
        "yolo11": tiny.build_yolo(folder / "yolo11", "yolo11"),
        "yolo11-seg": tiny.build_yolo(folder / "yolo11-seg", "yolo11", "segment"),
        "world": tiny.build_yolo(folder / "world", "yolov8-worldv2"),
    }


def _ultralytics(path: Path | str, **options: Any) -> UltralyticsDetector:
    defaults = {"device": "cpu", "image_side": 96, "max_boxes": 20, "floor": 0.3}
    return UltralyticsDetector(UltralyticsDetector.Settings(model=str(path), **{**defaults, **options}))


def _library(path: Path, picture: np.ndarray, **options: Any) -> Any:
    """One picture by the library's own way."""
    from ultralytics import YOLO

    settings = {"imgsz": 96, "conf": 0.3, "iou": 0.7, "max_det": 20, "verbose": False, "save": False, **options}
    (answer,) = YOLO(path).predict(np.ascontiguousarray(picture[..., ::-1]), **settings)
    return answer


def _rows(answer: Any) -> list[tuple[Sequence[float], float, str]]:
    return [(row[:4], row[4], answer.names[int(row[5])]) for row in answer.boxes.data.tolist()]


@pytest.mark.parametrize("name", ["yolo26", "yolo11", "yolo11-seg"])
def test_yolo_finds_what_the_library_finds_whatever_the_batch(
    yolos: dict[str, Path], pictures: list[np.ndarray], name: str
) -> None:
    detector = _ultralytics(yolos[name], batch_size=3)
    together = _good(detector.detect(_queries(pictures)))
    for picture, found in zip(pictures, together, strict=True):
        _check(found, picture, [str(i) for i in range(80)])
        _assert_same(found, _good(detector.detect(_queries([picture])))[0])
        _assert_same(found, _plain(_rows(_library(yolos[name], picture)), picture))
    swapped = _good(detector.detect(_queries([np.ascontiguousarray(pictures[0][..., ::-1])])))[0]
    assert [(d.box, d.label) for d in swapped] != [(d.box, d.label) for d in together[0]], "colours matter"


def test_masks_of_a_segmenting_model_are_cut_to_their_boxes(yolos: dict[str, Path], pictures: list[np.ndarray]) -> None:
    picture = cv2.resize(pictures[0], (96, 96))
    (found,) = _good(_ultralytics(yolos["yolo11-seg"]).detect(_queries([picture])))
    answer = _library(yolos["yolo11-seg"], picture)
    expected = {}
    for (corners, score, label), mask in zip(_rows(answer), answer.masks.data.numpy() > 0.5, strict=True):
        for one in _plain([(corners, score, label)], picture):
            expected[one.box, label, round(score, 4)] = boxes.crop(mask, one.box)
    assert any(detection.mask is not None for detection in found)
    for detection in found:
        mask = expected[detection.box, detection.label, round(detection.score, 4)]
        assert (detection.mask is None) == (not mask.any())
        assert detection.mask is None or np.array_equal(detection.mask, mask)
    (large,) = _good(_ultralytics(yolos["yolo11-seg"]).detect(_queries(pictures[1:2])))
    assert all(d.mask is None or d.mask.shape == (d.box[3] - d.box[1], d.box[2] - d.box[0]) for d in large)


def test_photographs_that_suppression_did_not_come_to_are_asked_again(
    yolos: dict[str, Path], pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library gives up after two seconds, and leaves the rest of a batch without boxes."""
    detector = _ultralytics(yolos["yolo11"])
    alike = [pictures[0], pictures[2], pictures[0]]
    expected = _good(detector.detect(_queries(alike)))
    predict = detector._model.predict

    def slow(sources: list[np.ndarray], **options: Any) -> Any:
        answers = predict(sources, **options)
        return [answers[0], *(answer[:0] for answer in answers[1:])]

    monkeypatch.setattr(detector._model, "predict", slow)
    for one, other in zip(_good(detector.detect(_queries(alike))), expected, strict=True):
        _assert_same(one, other)


@pytest.fixture
def text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of CLIP, whose weights are not here: the same random features for the same word."""
    from ultralytics.nn.tasks import WorldModel

    def features(_: Any, text: Sequence[str], *__: Any, **___: Any) -> torch.Tensor:
        rows = [torch.randn(512, generator=torch.Generator().manual_seed(sum(word.encode()))) for word in text]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)[None]

    monkeypatch.setattr(WorldModel, "get_text_pe", features)


@pytest.mark.usefixtures("text_encoder")
def test_yolo_world_looks_for_each_photographs_vocabulary(yolos: dict[str, Path], pictures: list[np.ndarray]) -> None:
    detector = _ultralytics(yolos["world"], vocabulary=["mug", "dog"], vocabulary_column="tags", floor=0.01)
    own = [("red cat", "bus", "person"), (), ("mug",), ("red cat", "bus", "person")]
    found = _good(detector.detect([DetectQuery.of(pictures[0], vocabulary=words) for words in own]))
    for words, some in zip(own, found, strict=True):
        _check(some, pictures[0], words or ("mug", "dog"))
    _assert_same(found[0], found[3])
    (fixed,) = _good(_ultralytics(yolos["world"], vocabulary="mug, dog", floor=0.01).detect(_queries(pictures[:1])))
    _assert_same(fixed, found[1])


def test_a_text_encoder_that_is_not_installed_is_named(yolos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clip", None)
    monkeypatch.delitem(sys.modules, "ultralytics.nn.text_model", raising=False)
    with pytest.raises(ConfigError, match=r"needs the package `clip`.*pip install"):
        _ultralytics(yolos["world"], vocabulary=["mug"])


def test_sam2_gives_each_box_its_mask(
    yolos: dict[str, Path], pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny.build_sam2(tmp_path, monkeypatch)
    (plain,) = _good(_ultralytics(yolos["yolo11"], max_boxes=6).detect(_queries(pictures[:1])))
    detector = _ultralytics(yolos["yolo11"], max_boxes=6, masks=str(weights))
    (masked,) = _good(detector.detect(_queries(pictures[:1])))
    assert [(d.box, d.label, d.score) for d in plain] == [(d.box, d.label, d.score) for d in masked]
    assert any(d.mask is not None for d in masked)
    for detection in masked:
        x1, y1, x2, y2 = detection.box
        assert detection.mask is None or detection.mask.shape == (y2 - y1, x2 - x1)
    monkeypatch.setattr(ultralytics_engine, "SAM_BOXES", 4)
    (in_parts,) = _good(detector.detect(_queries(pictures[:1])))
    assert len(masked) > 4
    for one, other in zip(masked, in_parts, strict=True):
        assert (one.mask is None) == (other.mask is None)
        assert one.mask is None or (one.mask ^ other.mask).mean() < 0.01


def test_rt_detr_of_ultralytics(folder: Path, pictures: list[np.ndarray]) -> None:
    path = tiny.build_ultralytics_rtdetr(folder / "rtdetr-ultralytics")
    detector = _ultralytics(path, floor=0.0, max_boxes=12)
    for picture, found in zip(pictures, _good(detector.detect(_queries(pictures))), strict=True):
        _check(found, picture, [str(i) for i in range(80)])
        assert len(found) <= 12
    answer = _library(path, pictures[1], conf=0.0, max_det=12)
    _assert_same(_good(detector.detect(_queries(pictures[1:2])))[0], _plain(_rows(answer), pictures[1]))


def test_weights_that_cannot_be_used_are_named(yolos: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pt' cannot be loaded: no such file"):
        _ultralytics(tmp_path / "nothing.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"broken\.pt' cannot be loaded"):
        _ultralytics(tmp_path / "broken.pt")
    with pytest.raises(ConfigError, match="has its own classes"):
        _ultralytics(yolos["yolo11"], vocabulary=["mug"])


def test_ultralytics_writes_nothing_where_it_was_not_asked(yolos: dict[str, Path], tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    code = (
        "import numpy, sys\n"
        "from ugaf.models.detectors.interface import DetectQuery\n"
        "from ugaf.models.detectors.ultralytics_engine import UltralyticsDetector as D\n"
        "detector = D(D.Settings(model=sys.argv[1], device='cpu', image_side=64))\n"
        "assert isinstance(detector.detect([DetectQuery.of(numpy.zeros((64, 64, 3), numpy.uint8))])[0], list)\n"
        "from ultralytics.utils.events import events\n"
        "assert not events.enabled\n"
    )
    root = ROOT
    kept = {name: value for name, value in os.environ.items() if not name.startswith("YOLO_")}
    environment = {**kept, "HOME": str(home), "TORCH_HOME": str(tmp_path / "torch"), "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", code, str(yolos["yolo11"])], cwd=here, env=environment, check=True, timeout=120
    )
    assert [*here.rglob("*")] == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


# -- mmdet -------------------------------------------------------------------------------------------------------------


def test_mmdetection_s_answer_is_read() -> None:
    masks = torch.zeros(3, 50, 100, dtype=torch.bool)
    masks[1, 12:20, 30:40] = True
    instances = SimpleNamespace(
        bboxes=torch.tensor([[0.0, 0, 10, 10], [30.4, 10.2, 60, 40], [5, 5, 200, 45]]),
        scores=torch.tensor([0.04, 0.7, 0.9]),
        labels=torch.tensor([0, 1, 0]),
        masks=masks,
    )
    first, second = mmdet_engine.read(instances, ("cat", "dog"), (100, 50), floor=0.05)
    assert (first.box, first.label, first.mask) == ((5, 5, 100, 45), "cat", None)
    assert (second.box, second.label, second.score) == ((30, 10, 60, 40), "dog", pytest.approx(0.7))
    assert second.mask is not None
    assert second.mask.shape == (30, 30)
    assert boxes.of_mask(second.mask) == (0, 2, 10, 10)
    del instances.masks
    assert all(found.mask is None for found in mmdet_engine.read(instances, ("cat", "dog"), (100, 50), 0.0))
    instances.scores[0] = torch.nan
    with pytest.raises(ValueError, match="not a number"):
        mmdet_engine.read(instances, ("cat", "dog"), (100, 50), 0.0)
