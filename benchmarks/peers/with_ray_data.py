"""Bare Ray Data: read_parquet, map_batches, write_parquet.

Where the function raises, `max_errored_blocks` lets the job go on without the block (by default it stops).
"""

from __future__ import annotations

import logging
from typing import Any

from benchmarks.peers import job

VARIANTS = ("tasks-100", "actors-100", "actors-16", "tasks-16")


class _Map:
    def __init__(self, work: job.Job) -> None:
        self.measure = job.Measure(work.kernel, work.guarded)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        answers = [self.measure(bytes(image)) for image in batch["image"]]
        columns = {name: np.array([answer[name] for answer in answers], float) for name in job.COLUMNS}
        return {"id": batch["id"], **columns}


def main() -> None:
    work = job.parse(VARIANTS)
    import ray

    ray.init("local", num_cpus=job.PROCESSES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if not work.guarded:
        context.max_errored_blocks = -1
    pool, batch_size = work.variant.split("-")
    data: Any = ray.data.read_parquet(work.tables).select_columns(["id", "image"])
    if pool == "actors":
        # Half a CPU each: a read takes a whole one, and waits for ever beside a pool that leaves it less.
        options = {"compute": ray.data.ActorPoolStrategy(size=job.PROCESSES), "num_cpus": 0.5}
        data = data.map_batches(_Map, fn_constructor_args=(work,), batch_size=int(batch_size), **options)
    else:
        data = data.map_batches(_task, fn_args=(work,), batch_size=int(batch_size))
    data.write_parquet(str(work.output))


def _task(batch: dict[str, Any], work: job.Job) -> dict[str, Any]:
    return _Map(work)(batch)


if __name__ == "__main__":
    main()
