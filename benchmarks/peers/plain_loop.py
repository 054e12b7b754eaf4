"""No engine: two processes, every other table to each; a batch of rows in memory, one Parquet file a process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence

import pyarrow.parquet as pq

from benchmarks.peers import job

VARIANTS = ("processes",)


def main() -> None:
    work = job.parse(VARIANTS)
    context = multiprocessing.get_context("spawn")
    shares = [(work, work.tables[part :: job.PROCESSES], part) for part in range(job.PROCESSES)]
    with context.Pool(job.PROCESSES) as pool:
        pool.starmap(_share, shares, chunksize=1)


def _share(work: job.Job, tables: Sequence[str], part: int) -> None:
    measure = job.Measure(work.kernel, work.guarded)
    rows = []
    for table in tables:
        with pq.ParquetFile(table) as file:
            for batch in file.iter_batches(16, use_threads=False):
                for id, image in zip(batch["id"], batch["image"], strict=True):
                    rows.append({"id": id.as_py(), **measure(image.as_py())})
    pq.write_table(job.table(rows), work.output / f"part-{part}.parquet")


if __name__ == "__main__":
    main()
