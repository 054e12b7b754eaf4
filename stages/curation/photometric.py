"""Is the photograph colourful, sharp, well exposed, clean and not empty? Fourteen numbers from one small decode of it.

FineEdit (arXiv 2604.10954, section 4.1, Data Curation) drops photographs of poor saturation, poor clarity or low RGB
entropy; FireRed-Image-Edit (section 2.2.2) judges by brightness, contrast, texture, noise and the like. The formulas
are in `ugaf.measures.photometry` and `ugaf.measures.artifacts`; where the default limits come from is in
docs/stages.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from ugaf import stage
from ugaf.base.errors import nearest
from ugaf.measures import artifacts, photometry

DESCRIPTORS = (
    "rgb_entropy",
    "saturation",
    "clarity",
    "sharpness",
    "brightness",
    "texture",
    "contrast",
    "colourfulness",
    "clipped_dark",
    "clipped_bright",
    "noise_level",
    "blockiness",
    "border",
    "grey_share",
)


class Photometric(stage.Stage):
    """Writes fourteen descriptors: tone, colour, detail, and what recording and saving left; null: not asked for."""

    version = 2
    reads = ("image",)
    writes: ClassVar = {
        "rgb_entropy": stage.Column(float, "mean over R, G", range=(0, 8)),
        "saturation": stage.Column(float, "mean of (max − min) / max over the pixel's three values", range=(0, 1)),
        "clarity": stage.Column(float, "variance of the Laplacian", range=(0, None)),
        "sharpness": stage.Column(float, "Σ Laplacian² / Σ gradient² of luma, 0..8", range=(0, 8)),
        "brightness": stage.Column(float, "mean luma, 0.299 R + 0.587 G + 0.114 B (BT.601)", range=(0, 255)),
        "texture": stage.Column(float, "mean over 8 × 8 blocks of luma's standard deviation", range=(0, 127.5)),
        "contrast": stage.Column(float, "standard deviation of luma, 0..127.5 grey levels", range=(0, 127.5)),
        "colourfulness": stage.Column(float, "√(σ²rg + σ²yb) + 0.3 √(μ²rg + μ²yb) with rg = R − G, yb ="),
        "clipped_dark": stage.Column(float, "share of the pixels with R, G and B all at most 4, 0..1", range=(0, 1)),
        "clipped_bright": stage.Column(float, "share of the pixels with R, G and B all at least 251", range=(0, 1)),
        "noise_level": stage.Column(
            float, "standard deviation of white noise in luma, 0..426 grey levels", range=(0, 426)
        ),
        "blockiness": stage.Column(float, "step of luma across JPEG's blocks over that inside", range=(1 / 32, 32)),
        "border": stage.Column(float, "share of the area that bands of one colour along the edges take", range=(0, 1)),
        "grey_share": stage.Column(float, "share of grey or toned pixels", range=(0, 1)),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rgb_entropy": {"min": 5.0},
        "saturation": {"min": 0.06, "max": 0.9},
        "clarity": {"min": 100.0},
        "sharpness": {"min": 1.4, "max": 4.0},
        "brightness": {"min": 25.0, "max": 230.0},
        "texture": {"min": 4.0},
        "contrast": {"min": 15.0},
        "colourfulness": {"min": 10.0},
        "clipped_dark": {"max": 0.5},
        "clipped_bright": {"max": 0.5},
        "noise_level": {"max": 15.0},
        "blockiness": {"max": 1.8},
        "border": {"max": 0.05},
        "grey_share": {"max": 0.9},
    }

    class Settings(stage.Settings):
        working_side: int = Field(
            256,
            ge=32,
            le=4096,
            description="longer side in pixels at which photographs are measured (smaller ones as they are); "
            "the keep rules' limits belong to this size",
        )
        descriptors: list[str] = Field(
            list(DESCRIPTORS),
            min_length=1,
            description="which columns to compute; the others are null, which breaks no keep rule",
        )

        @field_validator("descriptors")
        @classmethod
        def _known(cls, names: list[str]) -> list[str]:
            """Each once and in the order of the columns, so that the same choice has the same fingerprint."""
            for name in names:
                if name not in DESCRIPTORS:
                    raise ValueError(f"no descriptor is called {name!r}{nearest(name, DESCRIPTORS)}")
            return [name for name in DESCRIPTORS if name in names]

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        side, wanted = self.settings.working_side, self.settings.descriptors
        columns: dict[str, float | None] = dict.fromkeys(DESCRIPTORS)
        if "blockiness" in wanted:
            columns["blockiness"] = row.inspect(artifacts.blockiness, side)
        at_working_side = [name for name in wanted if name != "blockiness"]
        if at_working_side:
            columns |= photometry.measure(row.photo(side), at_working_side)
        return columns
