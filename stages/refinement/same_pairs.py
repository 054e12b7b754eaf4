"""Which pairs of the run are one pair: the same photograph, or nearly, and the same edit of it.

Sets of pairs that are put together hold the same pair again, re-encoded or resized. FireRed-Image-Edit removes them at
its second level of deduplication. Different edits of one photograph are different pairs. This stage stores links and
decides nothing; its keep rule `distinct` takes the best of each cluster when the run is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from ugaf import stage
from ugaf.dedup import grid, storing
from ugaf.measures import likeness
from ugaf.stage.whole import RunRows

LINK = pa.struct([("id", pa.string()), ("source", pa.float32()), ("change", pa.float32())])


class SamePairs(stage.WholeRunStage):
    """Writes same_pairs: links to pairs with nearly the same source and nearly the same change."""

    reads = ("pair_signature", "pair_side")
    writes: ClassVar = {
        "same_pairs": stage.Column(pa.list_(LINK), "`id`: the other pair. `source`: similarity of the sources"),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "same_pairs": {
            "distinct": {"where": {"source": {"min": 0.95}, "change": {"min": 0.98}}, "best": ["pair_side"]},
        }
    }

    class Settings(stage.Settings):
        min_source: float = Field(0.9, ge=0.6, le=1, description="similarity of sources from which a link is stored")
        min_change: float = Field(0.9, ge=0.5, le=1, description="likeness of changes from which a link is stored")
        max_links: int = Field(
            32, ge=1, description="links stored at a pair, the best ones, beside those that hold a cluster together"
        )
        memory_mb: int = stage.operational(1024, ge=512, description="memory of one task in MB, which bounds its rows")

    def across(self, run: RunRows) -> Iterator[tuple[str, Sequence[stage.Outcome]]]:
        wanted = grid.Search(
            column="pair_signature",
            least=self.settings.min_source,
            most=self.settings.max_links,
            size=likeness.BYTES,
            more=("change", likeness.same_change),
            least_more=self.settings.min_change,
            memory_mb=self.settings.memory_mb,
        )
        links = grid.find(run, wanted)
        for found in storing.stored(run, links, wanted.most, wanted.column, wanted.size):
            yield found.fragment, [row if isinstance(row, stage.Failure) else _outcome(row) for row in found.rows]


def _outcome(links: Sequence[Mapping[str, Any]]) -> stage.Outcome:
    named = [{"id": link["id"], "source": link["similarity"], "change": link["change"]} for link in links]
    return {"same_pairs": named}
