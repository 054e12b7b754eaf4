"""Where is the photograph in an encoder's space? For near-duplicates by content, clusters, balance by what is shown.

A photograph that was cropped, recoloured or written over keeps its place under an encoder that was trained for that
(SSCD, arXiv 2202.10261), and photographs of the same things are near each other under CLIP, SigLIP or DINOv2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from ugaf import stage
from ugaf.models.encoders import open_encoder, photo_of
from ugaf.stage import Failure, Outcome, Row, engines


class Embed(stage.Stage):
    """Writes embedding, of length 1, and encoder."""

    reads = ("image",)
    writes: ClassVar = {
        "embedding": stage.Column(pa.list_(pa.float16()), "the encoder's vector at length 1"),
        "encoder": stage.Column(str, "`transformers:MODEL`, `torchscript:FILE`"),
    }

    class Settings(stage.Settings):
        encoder: engines.EncoderSpec = Field(description="Which encoder embeds the photographs, and its options.")
        side: int | None = Field(
            None,
            ge=64,
            le=8192,
            description="Longer side in pixels to which photographs are decoded first, which is faster; null: all of "
            "them, as the encoder's own preparation has it.",
        )

    settings: Settings

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> stage.Needs:
        return replace(super().needs(settings, lane), own_pool=True)

    def setup(self) -> None:
        self.encoder = open_encoder(self.settings.encoder)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        found = self.encoder.encode([photo_of(row, self.settings.side) for row in rows])
        if len(found) != len(rows):
            raise TypeError(f"encoder {self.encoder.name!r} gave {len(found)} answers to {len(rows)} photographs")
        return [
            one if isinstance(one, Failure) else {"embedding": one.astype(np.float16), "encoder": self.encoder.name}
            for one in found
        ]
