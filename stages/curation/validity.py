"""Is the picture one upright photograph, and not a collage, a framed print, a tilted canvas or a sheet of codes?

FireRed-Image-Edit (section 2.2.3, content validity) drops such pictures before anything is made of them; NeMo Curator
publishes a limit for QR codes. The measures are in `ugaf.measures.composition`, each from the pixels alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ugaf import stage
from ugaf.measures import composition


class Validity(stage.Stage):
    """Writes code_area, collage, frame (all 0..1) and rotation (degrees, 0..45)."""

    reads = ("image",)
    writes: ClassVar = {
        "code_area": stage.Column(float, "share of the picture inside of QR codes and bar codes", range=(0, 1)),
        "collage": stage.Column(float, "strength of the strongest seam across the whole picture, 0..1", range=(0, 1)),
        "frame": stage.Column(float, "share of the picture outside of the rectangle that a frame leaves", range=(0, 1)),
        "rotation": stage.Column(float, "degrees by which the picture was turned in its canvas, 0..45", range=(0, 45)),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code_area": {"max": 0.05},
        "collage": {"max": 0.7},
        "frame": {"max": 0.1},
        "rotation": {"max": 1.0},
    }

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        return composition.measure(row.photo(composition.SIDE))
