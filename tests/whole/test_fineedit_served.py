"""`pipelines/fineedit.yaml` from photographs to shards, its models overridden to tiny random ones in the real formats.

What random models say has no sense: keep rules are off, and what is checked is that every row of every stage has an
answer of the right form or an error that says what happened, and that none is made up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_detectors
import tiny_editors

from ugaf.columns.parts import heavy_columns, part_schema
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.export import export
from ugaf.imaging import images
from ugaf.pipeline import config

pytestmark = pytest.mark.vllm

REASONS = {"ok", "unreasonable", "human_centric", "unsafe", "ambiguous", "not_visible"}
RULES = {"whole_image", "too_small", "no_op", "face", "unsafe_text", "malformed"}
ERRORS = {
    "MalformedAnswer",
    "RefusedAnswer",
    "EmptyAnswer",
    "TruncatedAnswer",
    "ServerError",
    "ServerBusy",
    "TimedOut",
    "Disconnected",
    "Unreachable",
    "RequestRefused",
}
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "detector": tiny_detectors.build_rtdetr(folder / "rtdetr"),
        "qwen": tiny_editors.build_qwen_edit_plus(folder / "qwen"),
        "kontext": tiny_editors.build_kontext(folder / "kontext"),
    }


def overrides(checkpoints: dict[str, Path], url: str, model: str, output: Path) -> list[str]:
    """What a user would give with --set to run the shipped pipeline on small models and a server of their own."""
    document = config.shipped_pipelines()["fineedit"].read_text()
    settings: dict[str, Any] = {
        "inputs": [f"sample://{name}" for name in PHOTOGRAPHS],
        "output": str(output),
        "fragment_rows": 2,
        "engine.streaming": False,
        "annotation.detect.detector.model": str(checkpoints["detector"]),
        "annotation.detect.detector.device": "cpu",
        "annotation.detect.detector.floor": 0.0,
        "annotation.detect.resources.workers": 1,
        "annotation.detect.min_score": 0.0,
        "annotation.detect.min_area": 0.0,
        "annotation.detect.max_area": 1.0,
        "annotation.detect.max_aspect": 100.0,
        "annotation.detect.max_objects": 4,
        "annotation.detect.max_per_class": None,
        "annotation.instruct.edits_per_image": 3,
        "annotation.instruct.writer.max_tokens": 4096,
        "annotation.instruct.writer.thinking": False,
        "annotation.screen.screener.thinking": False,
        "refinement.verify.verifier.thinking": False,
        "refinement.score.scorer.thinking": False,
        "refinement.score.scorer.max_tokens": 4096,
        "refinement.score.scorer.passes": 2,
        "generation.edit.editors.qwen-image-edit.model": str(checkpoints["qwen"]),
        "generation.edit.editors.flux-kontext.model": str(checkpoints["kontext"]),
    }
    for name in ("writer", "screener", "verifier", "editscore"):
        assert f"  {name}:" in document
        settings |= {
            f"models.{name}.model": model,
            f"models.{name}.lora": None,
            f"models.{name}.endpoints": [url],
            f"models.{name}.in_flight": 8,
        }
    for name in ("qwen-image-edit", "flux-kontext"):
        editor = f"generation.edit.editors.{name}"
        settings |= {f"{editor}.device": "cpu", f"{editor}.steps": 2, f"{editor}.max_area": 96 * 96}
    for spec in config.load("fineedit").stages:
        if not spec.cls.fans_out:
            settings |= {f"{spec.name}.keep.{column}": None for column in spec.keep if column != "n_objects"}
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


@pytest.mark.timeout(1500)
def test_fineedit_runs_from_photographs_to_shards_on_tiny_models(
    checkpoints: dict[str, Path], vllm_server: Any, tmp_path: Path
) -> None:
    pipeline = config.load("fineedit", overrides(checkpoints, vllm_server.url, vllm_server.model, tmp_path / "run"))
    runner.run(pipeline, runner.RunOptions(), lambda _: None, print)
    view = RunView(pipeline.output, pipeline)
    counts = {stage.name: stage for stage in view.funnel()}
    for stage in counts.values():
        assert stage.pending == 0, stage
        assert stage.given == stage.kept + sum(stage.rejected.values()) + stage.failed, stage
        print(stage.name, stage.given, stage.kept, dict(stage.rejected), dict(stage.errors))
    for name in ("annotation.instruct", "annotation.screen", "refinement.verify", "refinement.score"):
        assert set(counts[name].errors) <= ERRORS, counts[name].errors
    assert counts["annotation.detect"].kept == len(PHOTOGRAPHS)
    assert counts["generation.edit"].kept > 0
    assert counts["generation.edit"].failed == 0
    assert counts["refinement.verify"].kept > 0
    assert counts["refinement.score"].kept > 0
    rows = list(_rows(view))
    assert len(rows) == counts["annotation.screen"].given
    for row in rows:
        _check(row)
    summary = export(view, pipeline.settings.export)
    shards = list((tmp_path / "run" / "shards" / "parquet").rglob("*.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in shards) == counts["refinement.score"].kept, summary

    # Another prompt for the verifier: its columns are new, and nothing else is touched.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("part-*")}
    changed = overrides(checkpoints, vllm_server.url, vllm_server.model, tmp_path / "run")
    prompts = {"local": "Look at the marked region. {instruction}"}
    again = config.load("fineedit", [*changed, f"refinement.verify.verifier.prompts={json.dumps(prompts)}"])
    runner.run(again, runner.RunOptions(), lambda _: None, print)
    new = {path.relative_to(tmp_path / "run").parts[0].split("@")[0] for path in _new(tmp_path / "run", before)}
    assert new == {"refinement.verify"}


def _new(folder: Path, before: dict[Path, int]) -> list[Path]:
    return [path for path in folder.rglob("part-*") if before.get(path) != path.stat().st_mtime_ns]


def _rows(view: RunView) -> Any:
    edits = [spec for spec in view.pipeline.stages if spec.level == "edit"]
    columns = [
        name
        for spec in edits
        for name in spec.cls.schema.names
        if name not in heavy_columns(part_schema(view.pipeline, spec.name))
    ]
    columns += ["task", "instruction", "engine", "boxes", "writer_tokens_in", "writer_tokens_out", "edited_image"]
    for table in view.rows("edit", list(dict.fromkeys([*columns, "width", "height"]))):
        yield from table.to_pylist()


def _check(row: dict[str, Any]) -> None:
    assert row["instruction"].strip()
    assert row["engine"] in ("qwen-image-edit", "flux-kontext")
    assert row["writer_tokens_in"] is not None
    if row["screen"] is not None:
        assert row["screen"] in REASONS | RULES
        assert (row["screener_tokens_in"] is None) == (row["screener"] == "rules")
    if row["edited_image"] is not None:
        pixels = images.decode(row["edited_image"])
        assert pixels.shape == (row["height"], row["width"], 3)
    if row["verifier"] is not None:
        assert 1 <= row["global_score"] <= 5
        assert row["verifier_tokens_in"] > 0
    if row["scorer"] is not None:
        assert 0 <= row["quality"] <= 10
        assert row["scorer_tokens_out"] > 0
