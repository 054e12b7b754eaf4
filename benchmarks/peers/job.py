"""What each program of this package is asked to do, from its command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.photographs import SHARD, files_of, table_of

PROCESSES = 2
COLUMNS = ("rgb_entropy", "saturation", "clarity", "brightness")
"""The columns of the Parquet files that a program writes, behind `id`; null where the file could not be measured."""


def table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as they are written: `id` and COLUMNS."""
    fields = [("id", pa.string()), *((name, pa.float64()) for name in COLUMNS)]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


@dataclass(frozen=True)
class Job:
    """The first `count` photographs below `photos` with a kernel, results to the folder `output`.

    Attributes:
        variant: which of the program's forms (its VARIANTS).
        guarded: the user's function catches what the kernel raises, and answers with nulls. Without, it raises, and
            the engine is set to go on in its own way.
    """

    photos: Path
    count: int
    output: Path
    kernel: str
    variant: str
    guarded: bool

    @property
    def tables(self) -> list[str]:
        return [str(table_of(self.photos, shard)) for shard in range(-(-self.count // SHARD))]

    @property
    def files(self) -> list[Path]:
        shards = (files_of(self.photos, shard) for shard in range(-(-self.count // SHARD)))
        return [file for shard in shards for file in sorted(shard.glob("*.jpg"))]


def parse(variants: Sequence[str]) -> Job:
    """The job of this process. `variants`: the program's forms, the usual one first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--kernel", default="ours")
    parser.add_argument("--variant", choices=variants, default=variants[0])
    parser.add_argument("--raising", action="store_true", help="let what the kernel raises reach the engine")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    return Job(
        options.photos, options.count, options.output, options.kernel, options.variant, guarded=not options.raising
    )


class Measure:
    """The user's function of a job: bytes -> the columns as a dict."""

    def __init__(self, kernel: str, guarded: bool) -> None:
        import cv2

        from benchmarks.peers.kernels import KERNELS

        cv2.setNumThreads(1)
        self.kernel = KERNELS[kernel]
        self.guarded = guarded

    def __call__(self, data: bytes) -> dict[str, Any]:
        try:
            return dict(zip(COLUMNS, self.kernel(data), strict=True))
        except Exception:
            if not self.guarded:
                raise
            return dict.fromkeys(COLUMNS)
