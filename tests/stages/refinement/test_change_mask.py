"""The change mask: exact on exact pairs, and within the target on pairs that an editor redrew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from simulated_editor import EDITS, Redraw, local_edit, redraw
from ugaf.stages.refinement.change_mask import ChangeMask, drift_for, share_inside

from ugaf.imaging import boxes, images
from ugaf.measures.change import detect_change
from ugaf.stage import Row


def painted(photo: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    edited = photo.copy()
    x1, y1, x2, y2 = box
    edited[y1:y2, x1:x2] = 255 - edited[y1:y2, x1:x2]
    return edited


@pytest.mark.parametrize("box", [(40, 60, 200, 180), (100, 100, 112, 109), (0, 0, 590, 390)])
def test_an_exact_pair_has_its_exact_mask(photos: dict[str, np.ndarray], box: tuple[int, int, int, int]) -> None:
    photo = photos["coffee"]
    edited = painted(photo, box)
    change = detect_change(photo, edited)
    assert change.box == box
    differs = (photo != edited).any(axis=2)
    assert change.mask[differs].all()
    assert change.mask.sum() == boxes.area(box)
    assert (change.noise, change.drift, change.shift_x, change.shift_y) == (0, 0, 0, 0)


def test_identical_images_have_no_change(photos: dict[str, np.ndarray]) -> None:
    change = detect_change(photos["chelsea"], photos["chelsea"].copy())
    assert change.box is None
    assert change.area == 0


@pytest.mark.parametrize("photo_name", ["astronaut", "coffee", "rocket"])
def test_an_untouched_photograph_that_was_redrawn_shows_no_change(
    photos: dict[str, np.ndarray], photo_name: str
) -> None:
    photo = photos[photo_name]
    moved = redraw(photo, Redraw(shift=(1.5, -2.5), gamma=1.03, gain=(1.02, 1.0, 0.98)), np.random.default_rng(5))
    assert detect_change(photo, moved, "undo").area < 0.002


def test_boxes_survive_a_simulated_editor(photos: dict[str, np.ndarray]) -> None:
    names = sorted(photos)
    scores = []
    for number in range(20):
        rng = np.random.default_rng([11, number])
        photo, other = photos[names[number % 5]], photos[names[(number + 2) % 5]]
        edited, _, box = local_edit(photo, other, EDITS[number // 4 % 5], rng)
        change = detect_change(photo, redraw(edited, Redraw.random(rng), rng), "undo")
        scores.append(boxes.iou(change.box, box) if change.box else 0.0)
    assert np.median(scores) >= 0.9
    assert np.mean(np.array(scores) >= 0.85) >= 0.85
    assert min(scores) >= 0.4, scores


def test_the_box_ignores_far_specks_but_the_mask_has_them(photos: dict[str, np.ndarray]) -> None:
    photo = photos["astronaut"]
    edited = painted(photo, (100, 100, 300, 300))
    edited[500:504, 500:504] = 255 - edited[500:504, 500:504]
    change = detect_change(photo, edited)
    assert change.box == (100, 100, 300, 300)
    assert change.mask[500:504, 500:504].all()


def test_a_global_tone_is_change_or_drift_as_the_task_says(photos: dict[str, np.ndarray]) -> None:
    photo = photos["astronaut"]
    warm = np.clip(photo * np.array([1.15, 1.0, 0.75]), 0, 255).astype(np.uint8)
    assert detect_change(photo, warm, "keep").area > 0.7
    assert detect_change(photo, warm, "undo").area < 0.05
    assert detect_change(photo, warm, "auto").drift > 8
    assert drift_for("tone", has_box=False) == "keep"
    assert drift_for("recolor", has_box=True) == "undo"
    assert drift_for("remove", has_box=False) == "undo"
    assert drift_for(None, has_box=False) == "auto"


def test_share_inside_is_counted_pixel_by_pixel() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:20, 10:30] = True  # 200 pixels, 100 of them inside the box
    mask[60:70, 60:70] = True
    assert share_inside(mask, [(0, 0, 30, 20)]) == pytest.approx(200 / 300)
    assert share_inside(np.zeros((5, 5), bool), [(0, 0, 5, 5)]) == 0


def test_two_boxes_are_compared_as_one_and_no_box_gives_null(photos: dict[str, np.ndarray]) -> None:
    photo = photos["coffee"]
    edited = painted(painted(photo, (20, 20, 120, 120)), (400, 200, 500, 320))
    values = {"image": images.encode(photo), "edited_image": images.encode(edited), "task": "hybrid"}
    stage = ChangeMask("refinement.change_mask")
    both = stage.process(Row("a", {**values, "boxes": [[20, 20, 120, 120], [400, 200, 500, 320]]}))
    assert both["iou"] == 1.0
    assert both["change_inside"] == 1.0
    half = stage.process(Row("b", {**values, "boxes": [[20, 20, 120, 120]]}))
    assert half["iou"] < 0.5
    assert half["change_inside"] < 0.5
    none = stage.process(Row("c", {**values, "boxes": [], "task": None}))
    assert none["iou"] is None
    assert none["change_inside"] is None
    assert images.decode_mask(none["change_mask"]).shape == photo.shape[:2]


def test_real_pairs_of_a_diffusion_editor(shared_images: Path) -> None:
    pairs = json.loads((shared_images / "index.json").read_text())["pairs"]
    found = 0
    for pair in pairs:
        if pair["change_box"] is None:
            continue
        source, edited = (images.decode((shared_images / pair[key]).read_bytes()) for key in ("source", "edited"))
        height, width = source.shape[:2]
        target = [value * side for value, side in zip(pair["change_box"], (width, height) * 2, strict=True)]
        change = detect_change(source, edited)
        assert change.box is not None
        assert boxes.iou(change.box, target) >= 0.85, pair["source"]
        found += 1
    assert found == 2
