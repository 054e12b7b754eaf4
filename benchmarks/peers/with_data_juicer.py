"""data-juicer: its default executor, a recipe of one filter, over a JSONL of image paths, its natural input.

(Over Parquet of image bytes each of its steps copies the bytes.) Where the function raises, `skip_op_error`, on by
default, drops the sample, or of a batched filter the whole batch.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.peers import job

VARIANTS = ("batches", "rows")


def main() -> None:
    work = job.parse(VARIANTS)
    listing, result = work.output / "photos.jsonl", work.output / "kept.jsonl"
    with listing.open("w") as file:
        for path in work.files:
            file.write(json.dumps({"text": path.stem, "images": [str(path)]}) + "\n")
    recipe = {
        "project_name": "photometric",
        "dataset_path": str(listing),
        "export_path": str(result),
        "work_dir": str(work.output / "work"),
        "np": job.PROCESSES,
        "keep_stats_in_res_ds": True,
        "use_cache": False,
        "custom_operator_paths": [str(Path(__file__).with_name("juicer_filter.py"))],
        "process": [{f"photometric_{work.variant}_filter": {"kernel": work.kernel, "guarded": work.guarded}}],
    }
    (work.output / "recipe.json").write_text(json.dumps(recipe))
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    DefaultExecutor(init_configs(["--config", str(work.output / "recipe.json")])).run()
    rows = [json.loads(line) for line in result.open()]
    answers = [{"id": row["text"], **{name: row["__dj__stats__"].get(name) for name in job.COLUMNS}} for row in rows]
    pq.write_table(job.table(answers), work.output / "part-0.parquet")


if __name__ == "__main__":
    main()
