"""What a photograph looks like in 264 bytes, by which `curation.near_duplicates` finds its copies.

The 256 lowest frequencies of its luma: see `ugaf.measures.signatures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import pyarrow as pa

from ugaf import stage
from ugaf.measures import signatures

WORKING_SIDE = 256
"""The same small copy of the photograph that `curation.photometric` measures by default: decoded once for both."""


class Signature(stage.Stage):
    """Writes signature (264 bytes)."""

    reads = ("image",)
    writes: ClassVar = {
        "signature": stage.Column(pa.binary(), "a format byte, 255 coefficients as int8 on a square-root scale"),
    }

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        return {"signature": signatures.signature(cv2.cvtColor(row.photo(WORKING_SIDE), cv2.COLOR_RGB2GRAY))}
