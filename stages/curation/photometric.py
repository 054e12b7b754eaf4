"""Is the photograph colourful, sharp, well exposed and not empty? Six numbers from a small copy of it.

FineEdit (arXiv 2604.10954, section 4, Data Curation) drops photographs of poor saturation, poor clarity or low RGB
entropy; FireRed-Image-Edit adds brightness and texture complexity. The formulas are in `ugaf.photometry`; where the
default limits come from is in docs/stages.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from ugaf import photometry, stage


class Photometric(stage.Stage):
    """Writes rgb_entropy (bits), saturation (0..1), clarity, sharpness (0..8), brightness and texture (grey levels)."""

    reads = ("image",)
    writes = pa.schema(
        [
            ("rgb_entropy", pa.float64()),
            ("saturation", pa.float64()),
            ("clarity", pa.float64()),
            ("sharpness", pa.float64()),
            ("brightness", pa.float64()),
            ("texture", pa.float64()),
        ]
    )
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rgb_entropy": {"min": 5.0},
        "saturation": {"min": 0.06, "max": 0.9},
        "clarity": {"min": 100.0},
        "sharpness": {"min": 1.4, "max": 4.0},
        "brightness": {"min": 25.0, "max": 230.0},
        "texture": {"min": 4.0},
    }

    class Settings(stage.Settings):
        working_side: int = Field(
            256,
            ge=32,
            le=4096,
            description="longer side in pixels at which photographs are measured (smaller ones as they are); "
            "the keep rules' limits belong to this size",
        )

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        return photometry.measure(row.photo(self.settings.working_side))
