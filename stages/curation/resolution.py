"""Is the photograph large enough, and not a strip? From the size that ingest read in the header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from ugaf import stage


class Resolution(stage.Stage):
    """Writes short_side (pixels) and aspect_ratio (longer side over shorter, >= 1)."""

    reads = ("width", "height")
    writes: ClassVar = {
        "short_side": stage.Column(pa.int32(), "the shorter of width and height after EXIF rotation, pixels"),
        "aspect_ratio": stage.Column(float, "longer side over shorter, 1 or more", range=(1, None)),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"short_side": {"min": 256}, "aspect_ratio": {"max": 3.0}}

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        shorter, longer = sorted((row["width"], row["height"]))
        if shorter < 1:
            raise stage.RowError(f"the photograph's size is {row['width']} x {row['height']}: both must be at least 1")
        return {"short_side": shorter, "aspect_ratio": longer / shorter}
