"""Making small photographs and small pipelines for the engine's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ugaf.cli.progress.files import LOG, PROGRESS
from ugaf.columns import lease, reasons
from ugaf.columns.view import RunView, StageCounts
from ugaf.engine import runner
from ugaf.imaging import images
from ugaf.pipeline import config
from ugaf.pipeline.config import Pipeline
from ugaf.withdrawal.withdraw import finish_interrupted


def make_photos(folder: Path, count: int, start: int = 0, side: int = 24) -> list[Path]:
    """Small JPEGs, each of its own colour and noise, so that no two are alike."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 60, (side, side + 8, 3)) + rng.integers(0, 196, 3)
        path = folder / f"photo-{number:05d}.jpg"
        path.write_bytes(images.encode(pixels.astype(np.uint8), "jpeg", 90))
        paths.append(path)
    return paths


def pipeline(inputs: Path | list[Any], output: Path | str, stages: list[Any], **top: Any) -> Pipeline:
    """A pipeline that runs in this process unless told otherwise."""
    document = {
        "name": "test",
        "inputs": inputs if isinstance(inputs, list) else [str(inputs)],
        "output": str(output),
        "fragment_rows": 5,
        "engine": {"executor": "inline"},
        "stages": stages,
    }
    return config.parse({**document, **top})


def go(checked: Pipeline, **options: Any) -> RunView:
    """Run it, and give the run to read."""
    wanted = runner.RunOptions(finish_withdrawal=finish_interrupted, **options)
    runner.run(checked, wanted, lambda _: None, lambda _: None)
    return RunView(checked.output, checked)


def counts(view: RunView) -> dict[str, StageCounts]:
    return {stage.name: stage for stage in view.funnel()}


def table(view: RunView, level: str, columns: list[str], **options: Any) -> dict[str, dict[str, Any]]:
    """Rows of a run by id, each with its reason in words."""
    rows = [row for part in view.rows(level, columns, **options) for row in part.to_pylist()]
    return {row["id"]: {**row, "reason": reasons.text(row["reason"])} for row in rows}


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and bytes of all files in a folder; but for those that say when a run was called, by whom."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (LOG, PROGRESS) and path.parent.name != lease.FOLDER
    }
