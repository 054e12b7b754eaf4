"""Refinement 1: is the change where it was asked for? (FineEdit, arXiv 2604.10954, section 4.1: step one.)

The change mask is measured from the pair alone (`ugaf.measures.change`), without a look at the target box, and then
compared with it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ugaf.base import tasks
from ugaf.imaging import boxes, images
from ugaf.measures.change import Drift, detect_change
from ugaf.stage import Column, Row, Stage

TOLERANCE = 0.02
"""A changed pixel still counts as inside a target box within this share of the box's longer side."""


class ChangeMask(Stage):
    """Registers the pair, finds what changed, and compares it with the target boxes.

    `iou` is between the box of the main change and the smallest box around all target boxes: an edit of two boxes that
    changed only one of them scores low. Null where the row has no target box.

    `aspect_difference`: the larger of the two images' aspect ratios (width over height) over the smaller, less 1. An
    editor that rounds sides to multiples of 16 makes a few hundredths; a turned or cropped image a tenth and more.
    """

    version = 2
    reads = ("image", "edited_image", "task", "boxes")
    optional_reads = ("source_image",)
    writes: ClassVar = {
        "bbox_edit": Column(pa.list_(pa.int32()), "box of the main change (far specks do not stretch it)"),
        "change_mask": Column(pa.large_binary(), "all that changed, of the source's size"),
        "iou": Column(float, "IoU of `bbox_edit` and the smallest box around all target boxes, 0..1", range=(0, 1)),
        "change_inside": Column(float, "share of the mask inside the target boxes, 0..1", range=(0, 1)),
        "change_area": Column(float, "changed share of the image, 0..1", range=(0, 1)),
        "shift_x": Column(float, "displacement that was undone, px of the source"),
        "shift_y": Column(float, "the same, vertically"),
        "colour_drift": Column(float, "mean CIE76 of the fitted drift"),
        "noise": Column(float, "median difference of pixels under the limit, CIE76; 0 = exact pair"),
        "edited_width": Column(pa.int32(), "pixels of the edited image, upright"),
        "edited_height": Column(pa.int32(), "pixels of the edited image, upright"),
        "aspect_difference": Column(float, "larger ratio of width to height over the smaller, less 1"),
    }
    keep: ClassVar[dict[str, dict[str, Any]]] = {
        "aspect_difference": {"max": 0.1},
        "change_area": {"min": 0.0005},
        "iou": {"min": 0.4},
        "change_inside": {"min": 0.7},
    }

    def process(self, row: Row) -> dict[str, Any]:
        source = row.source()
        height, width = source.shape[:2]
        targets = [boxes.clip(box, width, height) for box in row["boxes"] or ()]
        edited = row.edited()
        change = detect_change(source, edited, drift_for(row["task"], bool(targets)))
        iou = inside = None
        if targets:
            iou = boxes.iou(change.box, boxes.union(targets)) if change.box else 0.0
            inside = share_inside(change.mask, targets)
        return {
            "bbox_edit": list(change.box) if change.box else None,
            "change_mask": images.encode_mask(change.mask),
            "iou": iou,
            "change_inside": inside,
            "change_area": change.area,
            "shift_x": change.shift_x,
            "shift_y": change.shift_y,
            "colour_drift": change.drift,
            "noise": change.noise,
            "edited_width": edited.shape[1],
            "edited_height": edited.shape[0],
            "aspect_difference": aspect_difference(source.shape, edited.shape),
        }


def aspect_difference(source: tuple[int, ...], edited: tuple[int, ...]) -> float:
    """Of two shapes (height, width, ...): the larger ratio of width to height over the smaller, less 1."""
    ratio = (edited[1] * source[0]) / (edited[0] * source[1])
    return max(ratio, 1 / ratio) - 1


def drift_for(task: str | None, has_box: bool) -> Drift:
    """What a global colour change means: an editor's drift (an edit with a target box, or of one region), the edit
    itself (a global task's), or either."""
    scope = "local" if has_box else tasks.of(task).scope
    drifts: dict[str, Drift] = {"local": "undo", "global": "keep", "open": "auto"}
    return drifts[scope]


def share_inside(mask: np.ndarray, targets: list[boxes.Box]) -> float:
    """Share of the mask's pixels inside the boxes, grown by TOLERANCE; 0 for an empty mask."""
    height, width = mask.shape
    allowed = boxes.to_mask([boxes.grow(box, TOLERANCE, width, height) for box in targets], height, width)
    total = int(mask.sum())
    return float((mask & allowed).sum() / total) if total else 0.0
