"""Which photographs of the run are copies of one another: cropped, resized, compressed, recoloured.

FireRed-Image-Edit removes near-duplicates of the whole set before it edits (section 2.2.1). This stage stores links and
decides nothing; its keep rule `distinct` takes the best of each cluster when the run is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from ugaf import stage
from ugaf.base.needs import Needs
from ugaf.dedup import grid, storing
from ugaf.measures import signatures
from ugaf.stage.whole import RunRows

LINK = pa.struct(
    [
        ("id", pa.string()),
        ("distance", pa.int32()),
        ("similarity", pa.float32()),
        ("psnr", pa.float32()),
        ("ssim", pa.float32()),
        ("embedding", pa.float32()),
    ]
)


class NearDuplicates(stage.WholeRunStage):
    """Writes neighbours (links to other photographs), neighbour_count, and nearest (the largest similarity or null)."""

    reads = ("signature",)
    optional_reads = ("embedding",)
    writes: ClassVar = {
        "neighbours": stage.Column(pa.list_(LINK), "links to other photographs"),
        "neighbour_count": stage.Column(pa.int32(), "links stored"),
        "nearest": stage.Column(pa.float32(), "the largest similarity among them; null without any"),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "neighbours": {"distinct": {"where": {"similarity": {"min": 0.9}}, "best": ["width", "height"]}}
    }

    class Settings(stage.Settings):
        by: list[Literal["signature", "embedding"]] = Field(
            ["signature"], min_length=1, description="what finds copies: signature, embedding (a column), or both"
        )
        min_similarity: float = Field(
            0.8, ge=0.6, le=1, description="similarity of signatures from which a link is stored"
        )
        min_embedding: float = Field(
            0.75, ge=0, le=1, description="cosine of embeddings from which a link is stored, where `by` names them"
        )
        flips: bool = Field(False, description="a mirrored photograph is a copy")
        max_links: int = Field(
            32, ge=1, description="links stored at a row, the best ones, beside those that hold a cluster together"
        )
        memory_mb: int = stage.operational(1024, ge=512, description="memory of one task in MB, which bounds its rows")

        @field_validator("by")
        @classmethod
        def _once(cls, by: list[str]) -> list[str]:
            return sorted(set(by), reverse=True)

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:  # noqa: ARG003
        if "embedding" not in settings.by:
            return Needs()
        return Needs(reads=("embedding",), packages={"faiss": "faiss"})

    def across(self, run: RunRows) -> Iterator[tuple[str, Sequence[stage.Outcome]]]:
        wanted = grid.Search(
            column="signature",
            least=self.settings.min_similarity,
            by=tuple(self.settings.by),
            least_embedding=self.settings.min_embedding,
            flips=self.settings.flips,
            most=self.settings.max_links,
            memory_mb=self.settings.memory_mb,
            vectors="embedding" if run.has("embedding") else "",
        )
        links = grid.find(run, wanted)
        for found in storing.stored(run, links, wanted.most, wanted.column, signatures.BYTES):
            yield found.fragment, [row if isinstance(row, stage.Failure) else _outcome(row) for row in found.rows]


def _outcome(links: list[dict[str, Any]]) -> dict[str, Any]:
    nearest = max((link["similarity"] for link in links), default=None)
    return {"neighbours": links, "neighbour_count": len(links), "nearest": nearest}
