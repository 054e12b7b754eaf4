"""The stage by which ugaf runs a kernel of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from benchmarks.peers.job import COLUMNS
from benchmarks.peers.kernels import KERNELS
from ugaf import stage


class Kernel(stage.Stage):
    """Writes rgb_entropy, saturation, clarity and brightness, as the kernel gives them."""

    reads = ("image",)
    writes = pa.schema([(name, pa.float64()) for name in COLUMNS])
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    class Settings(stage.Settings):
        kernel: str = Field("ours", description="which function of benchmarks.peers.kernels measures")

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        return dict(zip(COLUMNS, KERNELS[self.settings.kernel](row["image"]), strict=True))
