"""What the file itself says of its origin: made by an image generator, taken with a camera, written by a program.

Generated images have no place among the photographs that edits are made of (FireRed-Image-Edit, section 2.2.5, keeps
them out with a detector). Content Credentials (C2PA), IPTC's digital source type and the texts that generators write
into their files name some of them for the price of reading a few hundred bytes; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ugaf import stage
from ugaf.provenance import metadata, tags


class Provenance(stage.Stage):
    """Writes declared_generated, generator, generator_evidence, source_type, camera and software."""

    reads = ("image",)
    writes: ClassVar = {
        "declared_generated": stage.Column(
            bool, "whether the file declares that a model made the picture or a part of it"
        ),
        "generator": stage.Column(str, "the generator"),
        "generator_evidence": stage.Column(str, "the tags that said so, '; ' between them, at most 500 characters"),
        "source_type": stage.Column(str, "IPTC's digital source type (`digitalCapture`, `trainedAlgorithmicMedia` …)"),
        "camera": stage.Column(str, "maker and model by EXIF, else by XMP, or null"),
        "software": stage.Column(str, "the program that wrote the file, by EXIF, XMP, PNG or C2PA, or null"),
    }
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
