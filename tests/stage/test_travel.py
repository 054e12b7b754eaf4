"""What travels to a worker arrives as a copy: it must say there what it says here, and no fact may rest on identity."""

from __future__ import annotations

import ast
import copy
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_tools import go, table
from PIL import Image
from places import ROOT
from ray import cloudpickle

from ugaf.pipeline import config
from ugaf.pipeline.config import Pipeline

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}


def said(pipeline: Pipeline) -> dict[str, Any]:
    """All that a pipeline says of itself: every property, of its stages too, and what its methods answer."""
    properties = [name for name, value in vars(Pipeline).items() if isinstance(value, property)]
    assert {"ingest_fingerprint", "ingest_schema", "document", "base_level", "fan_out"} <= set(properties)
    found: dict[str, Any] = {name: getattr(pipeline, name) for name in properties}
    found["is_pairs"] = pipeline.is_pairs
    found["base_columns"] = {column: pipeline.is_base_column(column) for column in pipeline.providers}
    for spec in pipeline.stages:
        own = [name for name, value in vars(type(spec)).items() if isinstance(value, property)]
        found[spec.name] = {name: getattr(spec, name) for name in own}
        found[f"{spec.name} in lanes"] = [
            (lane, spec.cpus(lane), spec.gpus(lane), spec.workers(lane), spec.batch_rows(lane), spec.demand(lane))
            for lane in (None, *spec.lanes)
        ]
        assert pipeline.stage(spec.name) is spec
    return found


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", sorted(config.shipped_pipelines()))
def test_a_pipeline_that_travelled_equals_itself(name: str, way: str) -> None:
    pipeline = config.load(name)
    arrived = COPIES[way](pipeline)
    assert arrived is not pipeline
    assert arrived == pipeline
    assert said(arrived) == said(pipeline)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", ["pairs", "images"])
def test_a_copy_knows_whether_its_rows_are_pairs(kind: str, way: str) -> None:
    stages = ["refinement.change_mask"] if kind == "pairs" else ["curation.photometric"]
    given = [{"path": "anything", "kind": kind, **({"columns": COLUMNS} if kind == "pairs" else {})}]
    pipeline = config.parse({"name": "t", "inputs": given, "stages": stages})
    arrived = COPIES[way](COPIES[way](pipeline))
    assert arrived.is_pairs == (kind == "pairs")
    assert said(arrived) == said(pipeline)


COLUMNS = {"source": "before", "edited": "after"}

WITHIN_A_CALL = {
    # module: what is compared there by identity. None of these objects leaves the process or outlives the call.
    "ugaf/pipeline/classes.py": {"c is not Stage"},
    "ugaf/cli/commands/stages.py": {"default is PydanticUndefined"},
    "ugaf/base/errors.py": {"option is not type(None)"},
    "ugaf/dedup/grid.py": {"second is first"},
    "ugaf/models/editors/templates/compose.py": {"other is chosen"},
    "ugaf/wording/donors.py": {"self._fragment.peers is not row.peers"},
    "ugaf/models/predictors/backbone.py": {"id(predictor.backbone)"},
    "ugaf/cli/endings.py": {"sys.unraisablehook is lost", "threading.current_thread() is not threading.main_thread()"},
    "ugaf/cli/progress/live.py": {"threading.current_thread() is not self._thread"},
    "ugaf/engine/session.py": {
        "signal.getsignal(signal.SIGTERM) is not before",
        "threading.current_thread() is not threading.main_thread()",
    },
    "ugaf/stage/photo.py": {"one.annotation is empty", "one.default is empty"},
    "ugaf/base/yaml_files.py": {"id(node)"},
    "ugaf/columns/packs.py": {"id(pack)", "id(self._live[name][0])", "pack is damaged", "runs[-1][0] is pack"},
}


def by_identity(path: Path) -> set[str]:
    """The comparisons by identity in a module, but for those with None, True and False."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "id":
            found.add(ast.unparse(node))
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for operator, pair in zip(node.ops, itertools.pairwise(sides), strict=True):
            constant = any(isinstance(side, ast.Constant) and side.value in (None, True, False) for side in pair)
            if isinstance(operator, ast.Is | ast.IsNot) and not constant:
                found.add(ast.unparse(node))
    return found


def test_no_fact_rests_on_identity() -> None:
    """Whoever adds a comparison by identity says here that its objects do not travel."""
    modules = sorted(path for folder in ("ugaf", "stages") for path in (ROOT / folder).rglob("*.py"))
    assert len(modules) > 100
    found = {path.relative_to(ROOT).as_posix(): by_identity(path) for path in modules}
    assert {name: compared for name, compared in found.items() if compared} == WITHIN_A_CALL


@pytest.mark.ray
def test_refine_on_ray_measures_what_it_measures_here(tmp_path: Path) -> None:
    from skimage import data

    photo = data.coffee()
    edited = photo.copy()
    edited[100:200, 200:320] = edited[100:200, 200:320, ::-1]
    for name, pixels in {"source": photo, "edited": edited}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    pair = {"source": "source.png", "edited": "edited.png"}
    lines = [
        {**pair, "instruction": "Swap red and blue in the box.", "boxes": [[200, 100, 320, 200]]},
        {**pair, "instruction": "Do nothing.", "edited": "source.png"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    found = {}
    for executor in ("ray", "inline"):
        engine = [f"engine.executor={executor}", "engine.workers=1"]
        overrides = [f"inputs=[{tmp_path}/pairs.jsonl]", f"output={tmp_path}/{executor}", *engine]
        view = go(config.load("refine", overrides))
        tallies = {stage.name: (stage.given, stage.kept, stage.rejected, stage.failed) for stage in view.funnel()}
        assert not any(stage.pending for stage in view.funnel())
        found[executor] = tallies, table(view, "edit", ["instruction", "iou", "bbox_edit", "change_area", "scorer"])
    assert found["ray"] == found["inline"]
    assert (tallies["ingest"][1], tallies["refinement.score"][0]) == (2, 1)
