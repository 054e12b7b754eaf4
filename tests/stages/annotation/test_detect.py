"""The embedded detector and its stage: known objects, real photographs, limits, and rows that cannot be done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage
from ugaf.stages.annotation.detect import Detect

from ugaf.base.errors import ConfigError, StopRun
from ugaf.base.failure import each
from ugaf.imaging import boxes, images
from ugaf.models.detectors.interface import Detection, DetectQuery
from ugaf.models.detectors.proposals import object_masks, region_trees, segmentation
from ugaf.models.detectors.proposals.detector import ProposalDetector
from ugaf.stage import Failure, Row, engines


@pytest.fixture(scope="module")
def detector() -> ProposalDetector:
    return ProposalDetector()


def _found(detector: ProposalDetector, *photos: np.ndarray) -> list[list[Detection]]:
    outcomes = detector.detect([DetectQuery.of(photo) for photo in photos])
    found = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    assert len(found) == len(photos)
    return found


def _scene(height: int = 300, width: int = 420) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A noisy grey-green gradient with a red disc and a blue box on it; the masks of both."""
    ys, xs = np.mgrid[:height, :width]
    photo = np.stack([90 + 20 * xs / width, 120 + 20 * ys / height, 90 + 0 * xs], axis=2)
    disc = (xs - 110) ** 2 + (ys - 150) ** 2 < 60**2
    box = (xs >= 270) & (xs < 370) & (ys >= 90) & (ys < 220)
    photo[disc] = (200, 40, 40)
    photo[box] = (40, 60, 200)
    photo += np.random.default_rng(0).normal(0, 4, photo.shape)
    return np.clip(photo, 0, 255).astype(np.uint8), {"disc": disc, "box": box}


def _on_canvas(detection: Detection, shape: tuple[int, ...]) -> np.ndarray:
    assert detection.mask is not None
    full = np.zeros(shape[:2], dtype=bool)
    boxes.crop(full, detection.box)[:] = detection.mask
    return full


def _check(found: Sequence[Detection], photo: np.ndarray) -> None:
    height, width = photo.shape[:2]
    scores = [d.score for d in found]
    assert scores == sorted(scores, reverse=True)
    for detection in found:
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert all(type(v) is int for v in detection.box)
        assert 0 <= detection.score <= 1
        if detection.mask is not None:
            assert detection.mask.dtype == bool
            assert detection.mask.shape == (y2 - y1, x2 - x1)
            assert boxes.of_mask(detection.mask) == (0, 0, x2 - x1, y2 - y1), "the box is tight around the mask"


def test_known_objects_are_found_with_their_masks(detector: ProposalDetector) -> None:
    photo, truth = _scene()
    found = _found(detector, photo)[0]
    _check(found, photo)
    for mask in truth.values():
        expected = boxes.of_mask(mask)
        best = max(found[:2], key=lambda d: boxes.iou(d.box, expected))
        assert boxes.iou(best.box, expected) > 0.9
        assert best.score > 0.5
        full = _on_canvas(best, mask.shape)
        assert (full & mask).sum() / (full | mask).sum() > 0.93


def test_full_resolution_boxes_agree_with_those_of_a_small_copy(detector: ProposalDetector) -> None:
    photo, _ = _scene()
    large = cv2.resize(photo, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    small_box, large_box = (_found(detector, p)[0][0].box for p in (photo, large))
    assert boxes.iou(np.multiply(small_box, 4), large_box) > 0.9


@pytest.mark.parametrize("kind", ["flat", "sky", "noise"])
def test_an_image_without_objects_has_none(detector: ProposalDetector, kind: str) -> None:
    ys = np.linspace(0, 1, 240)[:, None, None]
    rng = np.random.default_rng(1)
    photo = {
        "flat": np.full((240, 360, 3), 140.0),
        "sky": np.broadcast_to([90, 130, 190] + ys * [80, 60, 30], (240, 360, 3)) + rng.normal(0, 2, (240, 360, 3)),
        "noise": rng.uniform(0, 255, (240, 360, 3)),
    }[kind]
    found = _found(detector, np.clip(photo, 0, 255).astype(np.uint8))[0]
    assert max((d.score for d in found), default=0) < Detect.Settings().min_score


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_any_size_is_accepted(height: int, width: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo[: height // 2, : width // 2] = 255
    _check(_found(ProposalDetector(), photo)[0], photo)


@pytest.mark.parametrize(
    ("name", "box", "label"),
    [
        ("coffee", (0.12, 0.03, 0.80, 0.98), "cup and saucer"),
        ("astronaut", (0.03, 0.03, 0.72, 1.0), "astronaut"),
        ("astronaut", (0.29, 0.03, 0.60, 0.40), "head"),
        ("rocket", (0.47, 0.29, 0.54, 0.97), "rocket"),
        ("motorcycle", (0.14, 0.17, 0.93, 0.93), "motorcycle"),
    ],
)
def test_a_box_sits_on_the_subject_of_a_photograph(
    found_in: dict[str, list[Detection]], photos: dict[str, np.ndarray], name: str, box: tuple[float, ...], label: str
) -> None:
    height, width = photos[name].shape[:2]
    expected = np.multiply(box, (width, height, width, height))
    assert max(boxes.iou(d.box, expected) for d in found_in[name][:5]) >= 0.5, label


@pytest.fixture(scope="module")
def found_in(detector: ProposalDetector, photos: dict[str, np.ndarray]) -> dict[str, list[Detection]]:
    return dict(zip(photos, _found(detector, *photos.values()), strict=True))


def test_detections_of_photographs_are_well_formed_and_distinct(
    found_in: dict[str, list[Detection]], photos: dict[str, np.ndarray]
) -> None:
    for name, found in found_in.items():
        assert found or name == "chelsea"
        _check(found, photos[name])
        for i, one in enumerate(found):
            for other in found[:i]:
                assert boxes.iou(one.box, other.box) <= 0.6
                own, earlier = (_on_canvas(d, photos[name].shape) for d in (one, other))
                assert (own & earlier).sum() <= 0.5 * min(own.sum(), earlier.sum()), "two masks of one thing"


def test_the_same_image_gives_the_same_detections(detector: ProposalDetector, photos: dict[str, np.ndarray]) -> None:
    first, second = _found(detector, photos["coffee"], photos["coffee"])
    assert [(d.box, d.score) for d in first] == [(d.box, d.score) for d in second]
    for one, other in zip(first, second, strict=True):
        assert one.mask is not None
        assert np.array_equal(one.mask, other.mask)


def test_options_limit_boxes_and_leave_masks_out(photos: dict[str, np.ndarray]) -> None:
    plain = _found(ProposalDetector(ProposalDetector.Settings(max_boxes=1, masks=False)), photos["astronaut"])[0]
    assert len(plain) == 1
    assert plain[0].mask is None


def test_five_best_boxes_hit_an_object_in_seven_of_eight_photographs(
    shared_images: Path, detector: ProposalDetector
) -> None:
    listed = json.loads((shared_images / "index.json").read_text())["photos"]
    hits = []
    for entry in listed:
        photo = images.decode((shared_images / entry["image"]).read_bytes())
        height, width = photo.shape[:2]
        wanted = [np.multiply(o["box"], (width, height, width, height)) for o in entry["objects"]]
        found = _found(detector, photo)[0][:5]
        hits.append(max((boxes.iou(d.box, w) for d in found for w in wanted), default=0.0) >= 0.5)
    assert sum(hits) >= len(listed) - 1


def test_superpixels_partition_the_image() -> None:
    photo, _ = _scene()
    regions = segmentation.superpixels(photo, 200)
    assert regions.sizes.sum() == photo.shape[0] * photo.shape[1]
    assert np.allclose(regions.words.sum(axis=1), regions.sizes)
    assert np.array_equal(regions.lengths, regions.lengths.T)
    horizontal = (regions.labels[:, 1:] != regions.labels[:, :-1]).sum()
    vertical = (regions.labels[1:] != regions.labels[:-1]).sum()
    assert regions.lengths.sum() == 2 * (horizontal + vertical)
    for i in (0, regions.count // 2, regions.count - 1):
        assert tuple(regions.corners[i]) == boxes.of_mask(regions.labels == i)


def test_contours_are_strong_on_an_edge_and_weak_in_texture() -> None:
    photo = np.full((100, 200, 3), 100.0)
    photo[:, 100:] = 180
    photo += np.random.default_rng(0).normal(0, 12, photo.shape)
    strength = segmentation.contours(segmentation.planes(np.clip(photo, 0, 255).astype(np.uint8)))
    assert strength[:, 98:102].mean() > 3 * strength[:, 20:80].mean()


def test_each_tree_merges_everything_into_one_region() -> None:
    photo, _ = _scene()
    regions = segmentation.superpixels(photo, 150)
    for tree in region_trees.grow_all(regions):
        nodes = region_trees.nodes_of(tree, regions.count)
        assert len(tree) == regions.count - 1
        assert nodes[-1].all()
        for parts in (1, 5, 20):
            pieces = nodes[region_trees.cut(tree, regions.count, parts)]
            assert len(pieces) == parts
            assert (pieces.sum(axis=0) == 1).all(), "the pieces partition the superpixels"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_components_and_holes_agree_with_labelling_the_pixels(seed: int) -> None:
    side = 9
    grid = np.arange(side * side).reshape(side, side)
    neighbours: list[list[int]] = [[] for _ in range(side * side)]
    across = np.stack([grid[:, :-1].ravel(), grid[:, 1:].ravel()], axis=1)
    down = np.stack([grid[:-1].ravel(), grid[1:].ravel()], axis=1)
    for a, b in [*across.tolist(), *down.tolist()]:
        neighbours[a].append(b)
        neighbours[b].append(a)
    member = np.random.default_rng(seed).random(side * side) < 0.6
    labels, count = ndimage.label(member.reshape(side, side))
    parts = region_trees.components(member, neighbours)
    assert len(parts) == count
    assert {tuple(np.flatnonzero(p)) for p in parts} == {
        tuple(np.flatnonzero(labels.ravel() == c)) for c in range(1, count + 1)
    }
    on_border = np.zeros((side, side), dtype=bool)
    on_border[[0, -1], :] = on_border[:, [0, -1]] = True
    filled = region_trees.fill_holes(member, neighbours, on_border.ravel())
    assert np.array_equal(filled.reshape(side, side), ndimage.binary_fill_holes(member.reshape(side, side)))


def test_a_cleaned_mask_has_no_crumbs_and_keeps_large_holes() -> None:
    mask = np.zeros((80, 80), dtype=bool)
    mask[10:70, 10:70] = True
    mask[15:20, 15:20] = False
    mask[30:60, 30:60] = False
    mask[2:6, 2:6] = True
    cleaned = object_masks.clean(mask, mask)
    assert cleaned[15:20, 15:20].all()
    assert not cleaned[35:55, 35:55].any()
    assert not cleaned[:8, :8].any()


def test_a_cut_that_loses_its_region_gives_no_mask() -> None:
    flat = np.full((120, 120, 3), 128, np.uint8)
    assert object_masks.cut_out(flat, np.zeros((120, 120), dtype=bool), 240, 240) is None
    assert object_masks.cut_out(flat, np.ones((120, 120), dtype=bool), 240, 240) is None


class Fixed:
    """A detector with known answers, that refuses any batch with a black image in it."""

    name, version = "fixed", 1

    def __init__(self, found: Sequence[Detection]) -> None:
        self.found = list(found)
        self.batches: list[int] = []

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        self.batches.append(len(queries))
        photos = each(DetectQuery.photo, queries)
        if any(isinstance(photo, np.ndarray) and not photo.any() for photo in photos):
            raise ValueError("a black image")
        return [photo if isinstance(photo, Failure) else self.found for photo in photos]


def _stage(found: Sequence[Detection] = (), **options: object) -> Detect:
    stage = Detect("annotation.detect", Detect.Settings(**options))
    stage.detector = Fixed(found)
    return stage


def _row(value: int = 128, height: int = 100, width: int = 200) -> Row:
    image = images.encode(np.full((height, width, 3), value, np.uint8))
    return Row("a" * 32, {"image": image, "width": width, "height": height})


def _detection(box: boxes.Box, score: float = 0.9) -> Detection:
    return Detection(box, None, score, np.ones((box[3] - box[1], box[2] - box[0]), dtype=bool))


@pytest.mark.parametrize(
    ("box", "score", "kept"),
    [
        ((10, 10, 60, 60), 0.9, True),
        ((10, 10, 60, 60), 0.29, False),  # below min_score
        ((10, 10, 29, 20), 0.9, False),  # 0.95 % of the image
        ((10, 10, 30, 20), 0.9, True),  # 1 % exactly
        ((0, 0, 120, 100), 0.9, True),  # 60 % exactly
        ((0, 0, 122, 100), 0.9, False),
        ((0, 0, 200, 20), 0.9, True),  # 10 : 1 exactly
        ((0, 0, 200, 19), 0.9, False),
        ((0, 0, 9, 100), 0.9, False),  # upright
    ],
)
def test_area_aspect_and_score_limits(box: boxes.Box, score: float, kept: bool) -> None:
    (outcome,) = _stage([_detection(box, score)])([_row()])
    assert outcome["n_objects"] == int(kept) == len(outcome["objects"])
    assert outcome["detector"] == "fixed"


def test_the_columns_hold_boxes_and_masks_in_full_resolution() -> None:
    (outcome,) = _stage([_detection((10, 20, 60, 80))])([_row()])
    (thing,) = outcome["objects"]
    assert thing["box"] == [10, 20, 60, 80]
    assert thing["label"] is None
    assert images.decode_mask(thing["mask"]).shape == (60, 50)
    assert images.decode_mask(thing["mask"]).all()


def test_one_bad_image_costs_only_itself() -> None:
    stage = _stage([_detection((10, 20, 60, 80))])
    broken = Row("b" * 32, {"image": b"not an image", "width": 200, "height": 100})
    outcomes = stage([_row(), broken, _row(0), _row()])
    assert [isinstance(o, Failure) for o in outcomes] == [False, True, True, False]
    assert "ImageError" in str(outcomes[1])
    assert str(outcomes[2]) == "ValueError: a black image"


def test_a_good_batch_reaches_the_detector_at_once() -> None:
    stage = _stage()
    stage([_row(), _row(), _row()])
    assert stage.detector.batches == [3]


def test_the_stage_writes_real_objects(photos: dict[str, np.ndarray]) -> None:
    import pyarrow as pa

    stage = Detect("annotation.detect")
    stage.setup()
    height, width = photos["coffee"].shape[:2]
    (outcome,) = stage([Row("a" * 32, {"image": images.encode(photos["coffee"]), "width": width, "height": height})])
    table = pa.Table.from_pylist([dict(outcome)], schema=Detect.schema)
    thing = table["objects"][0][0].as_py()
    x1, y1, x2, y2 = thing["box"]
    assert images.decode_mask(thing["mask"]).shape == (y2 - y1, x2 - x1)
    assert table["detector"][0].as_py() == "proposals"


def test_settings_are_checked_before_a_run() -> None:
    assert Detect.Settings().detector["max_boxes"] == 8, "the engine's defaults enter the fingerprint"
    with pytest.raises(ValidationError, match="min_area"):
        Detect.Settings(min_area=0.5, max_area=0.2)
    with pytest.raises((ConfigError, ValidationError), match="max_boxes"):
        Detect.Settings(detector={"engine": "proposals", "max_bokes": 3})
    with pytest.raises((ConfigError, ValidationError), match="proposals"):
        Detect.Settings(detector={"engine": "propsals"})


def test_an_outline_that_the_picture_does_not_have_is_no_object(photos: dict[str, np.ndarray]) -> None:
    """A disc of its own colour is supported all around, half a disc beside itself is not, a patch of fur is none."""
    image = np.full((120, 160, 3), (90, 120, 90), np.uint8)
    rows, columns = np.mgrid[0:120, 0:160]
    disc = (rows - 60) ** 2 + (columns - 80) ** 2 <= 40**2
    image[disc] = (200, 60, 40)
    box = (40, 20, 121, 101)
    whole = disc[box[1] : box[3], box[0] : box[2]]
    assert object_masks.outline_support(image, box, whole, 160, 120) == 1.0
    half = (40, 20, 80, 101)
    part = disc[half[1] : half[3], half[0] : half[2]]
    assert 0.3 < object_masks.outline_support(image, half, part, 160, 120) < 0.8
    assert object_masks.outline_support(np.full_like(image, 90), box, whole, 160, 120) == 0.0
    # A close-up of a cat: its fur has no object that ends within the picture.
    assert _found(ProposalDetector(), photos["chelsea"])[0] == []


def _labelled(*things: tuple[boxes.Box, str | None, float | None]) -> list[Detection]:
    return [Detection(box, label, score, None) for box, label, score in things]


def _kept(found: Sequence[Detection], **options: object) -> list[tuple[list[int], str | None]]:
    (outcome,) = _stage(found, detector={"engine": "boxes", "path": "a.parquet", "content": "known"}, **options)(
        [_row()]
    )
    return [(thing["box"], thing["label"]) for thing in outcome["objects"]]


LEFT, NEAR_LEFT, RIGHT, FAR = (10, 10, 60, 60), (12, 10, 60, 60), (70, 10, 120, 60), (130, 10, 180, 60)


def test_classes_are_kept_and_excluded_in_any_case() -> None:
    found = _labelled((LEFT, "Dog", 0.9), (RIGHT, "cat", 0.8), (FAR, None, 0.7))
    assert _kept(found, classes=["dog", "CAT"]) == [([*LEFT], "Dog"), ([*RIGHT], "cat")]
    assert _kept(found, exclude_classes=["dog"]) == [([*RIGHT], "cat"), ([*FAR], None)]
    assert _kept(found, classes=["dog", "cat"], exclude_classes=["cat"]) == [([*LEFT], "Dog")]


def test_caps_keep_the_best_and_count_only_what_the_limits_leave() -> None:
    tiny = (0, 0, 5, 5)
    found = _labelled((tiny, "cat", 0.99), (LEFT, "cat", 0.9), (RIGHT, "cat", 0.8), (FAR, "dog", 0.7))
    assert _kept(found, max_per_class=1) == [([*LEFT], "cat"), ([*FAR], "dog")]
    assert _kept(found, max_objects=2) == [([*LEFT], "cat"), ([*RIGHT], "cat")]
    assert _kept(found, max_per_class=1, max_objects=2) == [([*LEFT], "cat"), ([*FAR], "dog")]


def test_of_overlapping_boxes_the_better_one_stays_whatever_its_label() -> None:
    found = _labelled((LEFT, "dog", 0.9), (NEAR_LEFT, "wolf", 0.8), (RIGHT, "cat", 0.7))
    assert len(_kept(found)) == 3, "off by default"
    assert _kept(found, max_overlap=0.9) == [([*LEFT], "dog"), ([*RIGHT], "cat")]
    assert len(_kept(found, max_overlap=0.97)) == 3, "their IoU is 0.96"


def test_a_box_without_a_score_is_not_dropped_for_it() -> None:
    (outcome,) = _stage(_labelled((LEFT, "dog", None), (RIGHT, "cat", 0.1)), min_score=0.5)([_row()])
    assert [(thing["label"], thing["score"]) for thing in outcome["objects"]] == [("dog", None)]


def test_classes_are_refused_for_a_detector_that_knows_none() -> None:
    with pytest.raises(ValidationError, match="'proposals' knows no classes"):
        Detect.Settings(classes=["dog"])


def test_a_class_that_the_detector_does_not_have_stops_before_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Knows(Fixed):
        class_names = ("person", "dog")

    monkeypatch.setattr(ProposalDetector, "labels", True)
    stage = Detect("annotation.detect", Detect.Settings(exclude_classes=["Person", "dgo"]))
    monkeypatch.setattr(engines, "build", lambda *_: Knows([]))
    with pytest.raises(ConfigError, match="exclude_classes: 'dgo' is no class of this detector; did you mean 'dog'"):
        stage.setup()


def test_photographs_are_not_read_for_a_detector_that_does_not_look_at_them() -> None:
    assert Detect.needs(Detect.Settings()).reads == ("image",)
    table = Detect.Settings(detector={"engine": "boxes", "path": "a.parquet", "content": "known", "key": "source"})
    assert Detect.needs(table).reads == ("sources",)


def test_a_stopped_run_is_no_row_s_failure() -> None:
    class Gone(Fixed):
        def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
            raise StopRun(f"the server is gone, {len(queries)} photographs wait")

    stage = _stage()
    stage.detector = Gone([])
    with pytest.raises(StopRun):
        stage([_row(), _row()])


def test_a_detector_that_loses_a_photograph_is_noticed() -> None:
    class Forgetful(Fixed):
        def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
            return super().detect(queries)[1:]

    stage = _stage()
    stage.detector = Forgetful([])
    for outcome in stage([_row(), _row()]):
        assert isinstance(outcome, Failure)
        assert "Forgetful.detect gave 0 results for 1 items" in outcome.message


def test_a_vocabulary_reaches_the_detector_row_by_row() -> None:
    class Listening(Fixed):
        def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
            heard.extend(query.vocabulary for query in queries)
            return super().detect(queries)

    heard: list[tuple[str, ...]] = []
    options = {"engine": "transformers", "model": "m", "vocabulary_column": "tags"}
    stage = _stage(detector=options)
    stage.detector = Listening([])
    rows = [_row() for _ in range(4)]
    for row, tags in zip(rows, ["A Cat, dog. bus", ["red  Mug", "a.b", "red mug"], None, 7], strict=True):
        row.values["tags"] = tags
    outcomes = stage(rows)
    assert heard == [("a cat", "dog", "bus"), ("red mug", "a.b"), ()]
    assert "expected phrases" in str(outcomes[3])
    assert "tags" in Detect.needs(stage.settings).reads
