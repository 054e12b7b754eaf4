"""Refinement 2: is there anything in the picture? (FineEdit, arXiv 2604.10954, section 4.1, RGBE.)

Editors sometimes answer with a blank, a nearly monochrome or a flat image; its RGB entropy gives it away.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ugaf.imaging import boxes
from ugaf.measures.photometry import rgb_entropy
from ugaf.stage import Column, Row, Stage


class RgbEntropy(Stage):
    """RGB entropy of the pair and of its edited region, each the lower of source and edited image (bits, 0..8)."""

    version = 1
    reads = ("image", "edited_image", "boxes", "bbox_edit")
    optional_reads = ("source_image",)
    writes: ClassVar = {
        "pair_rgb_entropy": Column(float, "lower of source and edited, 0..8", range=(0, 8)),
        "crop_rgb_entropy": Column(float, "lowest over the target boxes' crops", range=(0, 8)),
    }
    keep: ClassVar[dict[str, dict[str, Any]]] = {"pair_rgb_entropy": {"min": 3.0}, "crop_rgb_entropy": {"min": 2.0}}

    def process(self, row: Row) -> dict[str, Any]:
        source, edited = row.source(), row.edited()
        pair = min(rgb_entropy(source), rgb_entropy(edited))
        regions = list(row["boxes"] or ()) or ([row["bbox_edit"]] if row["bbox_edit"] else [])
        height, width = source.shape[:2]
        crops = []
        for box in regions:
            for image in (source, edited):
                fy, fx = image.shape[0] / height, image.shape[1] / width
                inside = boxes.clip(
                    (box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy), image.shape[1], image.shape[0]
                )
                if boxes.area(inside):
                    crops.append(rgb_entropy(boxes.crop(image, inside)))
        return {"pair_rgb_entropy": pair, "crop_rgb_entropy": min(crops) if crops else None}
