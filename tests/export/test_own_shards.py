"""Our own shards as inputs: tars and Parquet give the same pairs, on the default executor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_tools import go, table

from ugaf.columns.view import RunView
from ugaf.export import export
from ugaf.pipeline import config

SAID = ["instruction", "task", "boxes", "engine", "source_id", "edited_id", "image_id", "split", "width", "height"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of a small demo run."""
    output = tmp_path_factory.mktemp("demo") / "run"
    inputs = '["sample://coffee", "sample://chelsea"]'
    overrides = [f"inputs={inputs}", f"output={json.dumps(str(output))}", "engine.executor=inline"]
    view = go(config.load("demo", [*overrides, "export.validation=0.5"]))
    export(view, view.pipeline.settings.export)
    return output / "shards"


def refined(shards: str, output: Path, executor: str = "ray") -> RunView:
    engine = [f"engine.executor={executor}", "engine.workers=1"]
    overrides = [f"inputs={json.dumps([shards])}", f"output={json.dumps(str(output))}", *engine]
    return go(config.load("refine", overrides), last="ingest")


@pytest.mark.ray
def test_tars_and_tables_of_a_run_are_the_same_pairs(shards: Path, tmp_path: Path) -> None:
    exported = json.loads((shards / "manifest.json").read_text())["counts"]["split"]
    by_form = {}
    for form, pattern in (("tars", "webdataset/*.tar"), ("tables", "parquet/*.parquet")):
        view = refined(f"{shards}/{pattern}", tmp_path / form)
        by_form[form] = table(view, "edit", SAID)
        # Nothing failed, and the stages after ingest are still to come.
        assert {row["status"] for row in by_form[form].values()} == {"pending"}
    assert by_form["tars"] == by_form["tables"]
    rows = by_form["tars"].values()
    assert len(rows) == sum(exported.values()) > 4
    assert {split: sum(row["split"] == split for row in rows) for split in exported} == exported
    # The whole folder is the same pairs once.
    assert table(refined(str(shards), tmp_path / "whole", "inline"), "edit", SAID) == by_form["tables"]
    assert ".tar files" in (tmp_path / "whole" / "listing.json").read_text()
