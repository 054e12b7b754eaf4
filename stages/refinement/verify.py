"""Refinement 3: was it done, and was the rest left alone? (FineEdit, arXiv 2604.10954, sec. 3: two-scale verification.)

The paper asks a vision-language model; the embedded verifier "rules" asks measurements (`ugaf.verification`) and says
so in the column `verifier`. It cannot read meaning: whether the pasted thing is a plausible cat is beyond it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from ugaf import boxes, images, quality, verification
from ugaf.boxes import Box
from ugaf.registration import on_one_grid
from ugaf.stage import Row, RowError, Stage
from ugaf.verification import Evidence, Verdict, worst

SIDE = 1024
"""Longer side, in pixels, at which pairs are compared."""

GLOBAL_TASKS = frozenset({"tone", "background", "restore", "style"})


class Verify(Stage):
    """Global and local score, 1..5, each with the measurement that decided it."""

    version = 1
    reads = ("image", "edited_image", "task", "boxes", "bbox_edit", "change_mask", "change_area", "shift_x", "shift_y")
    optional_reads = ("source_image", "params", "objects")
    writes = pa.schema(
        [
            ("verifier", pa.string()),
            ("global_score", pa.float64()),
            ("local_score", pa.float64()),
            ("global_reason", pa.string()),
            ("local_reason", pa.string()),
            ("background_psnr", pa.float64()),
            ("background_ssim", pa.float64()),
        ]
    )
    keep: ClassVar[dict[str, dict[str, Any]]] = {"global_score": {"min": 3.0}, "local_score": {"min": 3.0}}

    def process(self, row: Row) -> dict[str, Any]:
        evidence, factors = gather(row)
        targets = [scaled(box, factors, evidence.shape) for box in row["boxes"] or ()]
        params = parameters(row)
        outside = background(evidence, targets or measured(row, factors, evidence.shape))
        psnr = quality.psnr(evidence.source, evidence.edited, outside) if outside is not None else None
        ssim = quality.ssim(evidence.source, evidence.edited, outside) if outside is not None else None
        whole = self._global(row, evidence, targets, params, verification.background_kept(psnr, ssim))
        crop = self._local(row, evidence, targets, params)
        return {
            "verifier": "rules",
            "global_score": whole.score,
            "local_score": crop.score,
            "global_reason": whole.reason,
            "local_reason": crop.reason,
            "background_psnr": psnr,
            "background_ssim": ssim,
        }

    def _global(
        self, row: Row, evidence: Evidence, targets: list[Box], params: Mapping[str, Any], kept: Verdict
    ) -> Verdict:
        present = verification.change_present(row["change_area"])
        if present.score is not None:
            return present
        task = row["task"]
        if task == "tone" and "tone" in params:
            return verification.tone(evidence, params["tone"])
        if task == "restore" and "degradation" in params:
            return verification.restored(evidence, params["degradation"])
        if task == "background" and "object" in params:
            return verification.background_changed(evidence, evidence.objects.get(int(params["object"])))
        if not targets and task in GLOBAL_TASKS:
            return Verdict(None, f"a {task} edit of the whole image without known parameters: no rule measures it")
        return worst([kept, present])

    def _local(self, row: Row, evidence: Evidence, targets: list[Box], params: Mapping[str, Any]) -> Verdict:
        if not targets:
            return Verdict(None, "no target box")
        operations = params.get("operations")
        if operations and len(operations) == len(targets):
            pairs = zip(operations, targets, strict=True)
            return worst([verification.local(evidence, op.get("task"), box, op) for op, box in pairs])
        return worst([verification.local(evidence, row["task"], box, params) for box in targets])


def gather(row: Row) -> tuple[Evidence, tuple[float, float]]:
    """The row's pair on one grid with its masks, and the factors (x, y) from source pixels to that grid."""
    source = row.source()
    height, width = source.shape[:2]
    changed = images.decode_mask(row["change_mask"])
    if changed.shape != (height, width):
        size = f"{changed.shape[1]} x {changed.shape[0]}"
        raise RowError(f"change_mask is {size}, the source {width} x {height}: run refinement.change_mask again")
    before, after = on_one_grid(source, row.edited(), SIDE, shift=(row["shift_x"], row["shift_y"]))
    shape = before.shape[:2]
    factors = (shape[1] / width, shape[0] / height)
    things = {}
    for index, thing in enumerate(row.get("objects") or ()):
        if thing.get("mask") is not None:
            full = np.zeros((height, width), dtype=bool)
            x1, y1, x2, y2 = thing["box"]
            full[y1:y2, x1:x2] = images.decode_mask(thing["mask"])[: y2 - y1, : x2 - x1]
            things[index] = resize_mask(full, shape)
    return Evidence(before, after, resize_mask(changed, shape), things), factors


def parameters(row: Row) -> Mapping[str, Any]:
    """The edit's parameters; empty for pairs from elsewhere. Raises RowError if the column holds no JSON object."""
    text = row.get("params")
    if not text:
        return {}
    try:
        params = json.loads(text)
    except json.JSONDecodeError as error:
        raise RowError(f"params is not JSON ({error}): {text[:80]!r}") from error
    if not isinstance(params, dict):
        raise RowError(f"params is not a JSON object: {text[:80]!r}")
    return params


def background(evidence: Evidence, regions: list[Box]) -> np.ndarray | None:
    """Everything outside the regions, which are grown by 2 % of their longer side; None without regions."""
    if not regions:
        return None
    height, width = evidence.shape
    return ~boxes.to_mask([boxes.grow(box, 0.02, width, height) for box in regions], height, width)


def measured(row: Row, factors: tuple[float, float], shape: tuple[int, int]) -> list[Box]:
    """The measured box of a pair from elsewhere that names no target, where it covers less than half of the image."""
    box = row["bbox_edit"]
    if not box or row["task"] in GLOBAL_TASKS:
        return []
    region = scaled(box, factors, shape)
    return [region] if boxes.area(region) < 0.5 * shape[0] * shape[1] else []


def scaled(box: Any, factors: tuple[float, float], shape: tuple[int, int]) -> Box:
    fx, fy = factors
    return boxes.clip((box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy), shape[1], shape[0])


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if mask.shape == shape:
        return mask
    return cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST).astype(bool)
