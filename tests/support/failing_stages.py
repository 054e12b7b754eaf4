# ruff: noqa: ARG003
"""Stages that fail as an author's slip, as broken photographs and as a service do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from ugaf.stage import Needs, Outcome, Row, RowError, Settings, Stage, operational


class Failing(Stage):
    """Fails the rows from the `good`-th on, as `how` says, until the file `mended` is there."""

    reads = ("image",)
    writes = pa.schema([("bytes", pa.int64())])

    class Settings(Settings):
        how: str = operational("slip", description="slip, row, service")
        good: int = operational(0)
        only: str = operational("", description="fail only rows whose id begins with one of these characters")
        wait_s: float = operational(0.0, description="seconds that each row takes")
        mended: str = operational("", description="a file: where it is, no row fails")

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        return Needs(batch_rows=4)

    def setup(self) -> None:
        self.done = 0

    def process(self, row: Row) -> Outcome:
        self.done += 1
        time.sleep(self.settings.wait_s)
        mended = bool(self.settings.mended) and os.path.exists(self.settings.mended)
        chosen = not self.settings.only or row.id[0] in self.settings.only
        if self.done > self.settings.good and chosen and not mended:
            if self.settings.how == "slip":
                return {"bytes": len(row["image"].shape)}
            if self.settings.how == "row":
                raise RowError(f"photograph {row.id} is number {self.done} of the bad ones")
            raise ConnectionError(f"{Path(row.id)}: the licence server said no, {self.done} times")
        return {"bytes": len(row["image"])}
