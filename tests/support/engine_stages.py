# ruff: noqa: ARG003
"""Small stages for testing the engine: quick, countable, and able to misbehave."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from ugaf.stage import Failure, Needs, Outcome, Row, RowError, Settings, Stage, WholeRunStage
from ugaf.stage.whole import RunRows


def note(folder: str, stage: str, row_id: str) -> None:
    """Leave a trace of one execution, atomically, from any process."""
    if folder:
        handle = os.open(Path(folder) / f"{stage}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{row_id}\n".encode())
        os.close(handle)


def executions(folder: Path, stage: str) -> list[str]:
    """Ids in the order in which the stage worked on them."""
    path = folder / f"{stage}.log"
    return path.read_text().split() if path.exists() else []


class Mean(Stage):
    """The mean of all pixels."""

    reads = ("image",)
    writes = pa.schema([pa.field("mean", pa.float64())])

    class Settings(Settings):
        trace: str = ""
        fail_id: str = Field("", description="raise on this row")
        abort_id: str = Field("", description="abort the process on this row")
        sleep: float = 0.0
        power: float = 1.0

    def process(self, row: Row) -> Outcome:
        note(self.settings.trace, "mean", row.id)
        if row.id == self.settings.abort_id:
            os.abort()
        if row.id == self.settings.fail_id:
            raise RowError("asked to fail")
        time.sleep(self.settings.sleep)
        return {"mean": float(row.photo().mean()) ** self.settings.power}


class Double(Stage):
    """Twice the mean; a batch with a bad row raises as a whole."""

    reads = ("mean",)
    writes = pa.schema([pa.field("double", pa.float64())])

    class Settings(Settings):
        trace: str = ""
        raise_above: float = 1e9
        misfit_above: float = 1e9

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        return Needs(batch_rows=3)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        for row in rows:
            note(self.settings.trace, "double", row.id)
        if any(row["mean"] > self.settings.raise_above for row in rows):
            raise ValueError("the batch has a row that is too bright")
        out: list[Any] = [{"double": row["mean"] * 2} for row in rows]
        return [
            {"double": "not a number"} if row["mean"] > self.settings.misfit_above else o
            for row, o in zip(rows, out, strict=True)
        ]


class Halves(Stage):
    """Left and right half: two children a photograph; none for a dark one. Names its brightest neighbour."""

    reads = ("image", "mean")
    peers = ("mean",)
    writes = pa.schema(
        [pa.field("side", pa.string()), pa.field("half_mean", pa.float64()), pa.field("donor", pa.string())]
    )
    identity = ("side",)

    class Settings(Settings):
        trace: str = ""
        dark: float = 0.0

    def process(self, row: Row) -> Outcome:
        note(self.settings.trace, "halves", row.id)
        if row["mean"] < self.settings.dark:
            return []
        pixels = row.photo()
        middle = pixels.shape[1] // 2
        others = [peer for peer in row.peers if peer.id != row.id]
        donor = max(others, key=lambda peer: (peer["mean"], peer.id)).id if others else None
        return [
            {"side": "left", "half_mean": float(pixels[:, :middle].mean()), "donor": donor},
            {"side": "right", "half_mean": float(pixels[:, middle:].mean()), "donor": donor},
        ]


class Flip(Stage):
    """An image for each child, and a draw from its own generator; reads its donor's pixels."""

    reads = ("image", "side", "half_mean")
    refs: ClassVar[dict[str, tuple[str, ...]]] = {"donor": ("image", "mean")}
    writes = pa.schema(
        [
            pa.field("edited_image", pa.large_binary()),
            pa.field("draw", pa.float64()),
            pa.field("donor_mean", pa.float64()),
        ]
    )
    seeded = True

    class Settings(Settings):
        trace: str = ""

    def process(self, row: Row) -> Outcome:
        from ugaf.imaging import images

        note(self.settings.trace, "flip", row.id)
        donor = row.refs["donor"]
        if donor is not None and donor["mean"] != float(donor.photo().mean()):
            raise RowError("the donor's columns are not of one photograph")
        flipped = row.photo()[:, ::-1] if row["side"] == "left" else row.photo()[::-1]
        return {
            "edited_image": images.encode(flipped),
            "draw": float(self.rng(row).random()),
            "donor_mean": None if donor is None else donor["mean"],
        }


class Twins(WholeRunStage):
    """Compares the rows of the whole run: links each with those of nearly the same mean."""

    reads = ("mean",)
    writes = pa.schema(
        [
            pa.field("twins", pa.list_(pa.struct([("id", pa.string()), ("apart", pa.float64())]))),
            pa.field("compared", pa.int32()),
        ]
    )
    keep: ClassVar[dict[str, Any]] = {"twins": {"distinct": {"where": {"apart": {"max": 0.5}}, "best": ["mean"]}}}

    class Settings(Settings):
        trace: str = ""
        within: float = 5.0
        fail_id: str = ""
        stop_after: int = Field(0, description="raise after so many fragments")

    def across(self, run: RunRows) -> Iterator[tuple[str, Sequence[Outcome]]]:
        tables = dict(zip(run.fragments, run.map(_means, run.fragments), strict=True))
        every = [row for table in tables.values() for row in table]
        for number, (fragment, table) in enumerate(tables.items()):
            if self.settings.stop_after and number >= self.settings.stop_after:
                raise RuntimeError("asked to stop")
            due = [row for row in table if row["pending"]]
            if due:
                yield fragment, [self._outcome(row, every) for row in due]

    def _outcome(self, row: dict[str, Any], every: list[dict[str, Any]]) -> Outcome:
        note(self.settings.trace, "twins", row["id"])
        if row["id"] == self.settings.fail_id:
            return Failure("RowError", "asked to fail")
        apart = {other["id"]: abs(other["mean"] - row["mean"]) for other in every if other["id"] != row["id"]}
        near = sorted((gap, key) for key, gap in apart.items() if gap <= self.settings.within)
        return {"twins": [{"id": key, "apart": gap} for gap, key in near], "compared": len(apart)}


def _means(run: RunRows, fragment: str) -> list[dict[str, Any]]:
    return run.table(fragment, ["mean"]).to_pylist()


class Hoarder(Stage):
    """Keeps memory for every row, and says in which process it worked."""

    reads = ("width",)
    writes = pa.schema([pa.field("process", pa.int64())])

    class Settings(Settings):
        mb: int = 100

    def setup(self) -> None:
        self._kept: list[bytearray] = []

    def process(self, row: Row) -> Outcome:  # noqa: ARG002
        block = bytearray(self.settings.mb << 20)
        block[::4096] = b"x" * len(block[::4096])
        self._kept.append(block)
        return {"process": os.getpid()}
