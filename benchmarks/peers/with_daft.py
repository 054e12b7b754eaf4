"""Daft on its native runner: read_parquet, a Python UDF, write_parquet.

Where the function raises, `on_error="ignore"` makes its rows null (by default the query stops); of a batch function
all rows of the batch.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.peers import job

VARIANTS = ("batches-threads", "rows-threads", "rows-processes", "batches-processes")
BATCH = 16


def main() -> None:
    work = job.parse(VARIANTS)
    import daft

    daft.set_runner_native(job.PROCESSES)
    fields = daft.DataType.struct(dict.fromkeys(job.COLUMNS, daft.DataType.float64()))
    shape, where = work.variant.split("-")
    options: dict[str, Any] = {"max_concurrency": job.PROCESSES, "use_process": where == "processes"}
    if not work.guarded:
        options["on_error"] = "ignore"

    @daft.cls(**options)
    class Measuring:
        def __init__(self) -> None:
            self.measure = job.Measure(work.kernel, work.guarded)

        @daft.method(return_dtype=fields, unnest=True)
        def row(self, image: bytes) -> dict[str, Any]:
            return self.measure(image)

        @daft.method.batch(return_dtype=fields, unnest=True, batch_size=BATCH)
        def rows(self, images: daft.Series) -> list[dict[str, Any]]:
            return [self.measure(image) for image in images.to_pylist()]

    measuring: Any = Measuring()
    data = daft.read_parquet(work.tables)
    function = measuring.rows if shape == "batches" else measuring.row
    data.select(data["id"], function(data["image"])).write_parquet(str(work.output))
    # Daft's threads outlive the query, and the interpreter's end under them is now and then a crash (0.7.26).
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
