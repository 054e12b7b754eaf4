"""What the file itself says of its origin: made by an image generator, taken with a camera, written by a program.

Generated images have no place among the photographs that edits are made of (FireRed-Image-Edit, section 2.2.5, keeps
them out with a detector). Content Credentials (C2PA), IPTC's digital source type and the texts that generators write
into their files name some of them for the price of reading a few hundred bytes; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from ugaf import stage
from ugaf.provenance import metadata, tags


class Provenance(stage.Stage):
    """Writes declared_generated, generator, generator_evidence, source_type, camera and software."""

    reads = ("image",)
    writes = pa.schema(
        [
            ("declared_generated", pa.bool_()),
            ("generator", pa.string()),
            ("generator_evidence", pa.string()),
            ("source_type", pa.string()),
            ("camera", pa.string()),
            ("software", pa.string()),
        ]
    )
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"declared_generated": {"equals": False}}

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        told = tags.provenance(metadata.read(row["image"]))
        return {
            "declared_generated": told.generated,
            "generator": told.generator,
            "generator_evidence": told.evidence,
            "source_type": told.source_type,
            "camera": told.camera,
            "software": told.software,
        }
