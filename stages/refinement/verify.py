"""Refinement 3: was it done, and was the rest left alone? (FineEdit, arXiv 2604.10954, section 4.1: two scales.)

The paper asks a vision-language model: engine "vlm". The embedded verifier "rules" asks measurements
(`ugaf.measures.verification`) and cannot read meaning. Which of them it was says the column `verifier`. Fidelity
outside the target is measured for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from ugaf import stage
from ugaf.base import tasks
from ugaf.base.failure import through
from ugaf.imaging import boxes, images
from ugaf.imaging.boxes import Box
from ugaf.measures import quality
from ugaf.models.judging.pairs import Pair, prepare, resize_mask, scaled, unshared
from ugaf.models.verifiers.interface import Case, Verification
from ugaf.stage import Failure, Outcome, Row, Stage, engines
from ugaf.stage.engines import VerifierSpec

SIDE = 1024
"""Longer side, in pixels, at which pairs are compared."""

DETAIL = 2048
"""The same for crops of a target, which may be small."""


class Verify(Stage):
    """Global and local score, 1..5, each with the reasons for it."""

    version = 2
    reads = ("image", "edited_image", "task", "boxes", "bbox_edit", "change_mask", "change_area", "shift_x", "shift_y")
    optional_reads = ("source_image", "params", "objects")
    writes: ClassVar = {
        "verifier": stage.Column(str, "`rules`, `vlm:MODEL`"),
        "global_score": stage.Column(float, "the whole image, 1 (clearly wrong) .. 5 (clearly right)"),
        "local_score": stage.Column(float, "the target boxes, 1..5; null for global edits", range=(1, 5)),
        "global_reason": stage.Column(str, "the measurement that decided it, or the model's reasons", text=True),
        "local_reason": stage.Column(str, "the same", text=True),
        "background_psnr": stage.Column(float, "dB outside the target boxes, at most 100 (= identical)"),
        "background_ssim": stage.Column(float, "mean SSIM of luma there, −1..1 (Wang et al. 2004)", range=(-1, 1)),
        "verifier_scores": stage.Column(str, "a model's named scores as JSON: what it said", text=True),
        "verifier_ratings": stage.Column(str, "whether they are `expected` (log-probabilities were had)"),
        "verifier_tokens_in": stage.Column(pa.int32(), "tokens of all requests about the pair"),
        "verifier_tokens_out": stage.Column(pa.int32(), "the same of the answers"),
        "verifier_thinking": stage.Column(str, "what a reasoning model thought, by pass, or null", text=True),
    }
    keep: ClassVar[dict[str, dict[str, Any]]] = {"global_score": {"min": 3.0}, "local_score": {"min": 3.0}}

    settings: Settings

    class Settings(stage.Settings):
        verifier: VerifierSpec = Field({"engine": "rules"}, description="who verifies the pairs, and its options")

    def setup(self) -> None:
        self.verifier = engines.build("verifier", self.settings.verifier, self.servers)
        self.alone = self.needs(self.settings).own_pool

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        fidelity: dict[str, tuple[float | None, float | None]] = {}

        def prepared(row: Row) -> Case:
            # In a pool of its own no other stage wants the decoded images.
            case = gather(unshared(row) if self.alone else row)
            fidelity[row.id] = case.background_psnr, case.background_ssim
            return case

        answers = through(prepared, rows, self.verifier.verify)
        return [self._columns(answer, fidelity.get(row.id)) for row, answer in zip(rows, answers, strict=True)]

    def _columns(self, answer: Verification | Failure, fidelity: tuple[float | None, float | None] | None) -> Outcome:
        if isinstance(answer, Failure):
            return answer
        psnr, ssim = fidelity or (None, None)
        return {
            "verifier": self.verifier.name,
            "global_score": answer.whole.score,
            "local_score": answer.local.score,
            "global_reason": answer.whole.reason,
            "local_reason": answer.local.reason,
            "background_psnr": psnr,
            "background_ssim": ssim,
            "verifier_scores": answer.scores,
            "verifier_ratings": answer.ratings,
            "verifier_tokens_in": answer.tokens_in,
            "verifier_tokens_out": answer.tokens_out,
            "verifier_thinking": answer.thinking,
        }


def gather(row: Row) -> Case:
    """The row's pair on one grid, with what is known of it and its fidelity outside the target."""
    pair = prepare(row, SIDE)
    regions = list(pair.boxes) or measured(row, pair)
    outside = background(pair.mask.shape[:2], regions)
    psnr = quality.psnr(pair.source, pair.edited, outside) if outside is not None else None
    ssim = quality.ssim(pair.source, pair.edited, outside) if outside is not None else None
    larger = max(row.source().shape[:2]) > SIDE

    def detail() -> Pair:
        return prepare(row, DETAIL) if larger else pair

    return Case(pair, detail, row["change_area"], row.get("params"), object_masks(row, pair), psnr, ssim)


def object_masks(row: Row, pair: Pair) -> Callable[[int], np.ndarray | None]:
    """Looks an object's mask up by the object's index, on the pair's grid; None where there is no such mask."""

    def mask_of(index: int) -> np.ndarray | None:
        things = row.get("objects") or ()
        if not 0 <= index < len(things) or things[index].get("mask") is None:
            return None
        full = np.zeros(row.source().shape[:2], dtype=bool)
        x1, y1, x2, y2 = things[index]["box"]
        full[y1:y2, x1:x2] = images.decode_mask(things[index]["mask"])[: y2 - y1, : x2 - x1]
        return resize_mask(full, pair.mask.shape[:2])

    return mask_of


def background(shape: tuple[int, ...], regions: list[Box]) -> np.ndarray | None:
    """Everything outside the regions, which are grown by 2 % of their longer side; None without regions."""
    if not regions:
        return None
    height, width = shape
    return ~boxes.to_mask([boxes.grow(box, 0.02, width, height) for box in regions], height, width)


def measured(row: Row, pair: Pair) -> list[Box]:
    """The measured box of a pair from elsewhere that names no target, where it covers less than half of the image."""
    box = row["bbox_edit"]
    if not box or tasks.of(row["task"]).scope == "global":
        return []
    source = row.source()
    height, width = pair.mask.shape[:2]
    region = scaled(box, (source.shape[1], source.shape[0]), (height, width))
    return [region] if boxes.area(region) < 0.5 * height * width else []
