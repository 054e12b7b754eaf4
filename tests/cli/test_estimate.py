"""`ugaf plan --estimate` and the time left of `ugaf status`: on a cluster that is not here, on a measured run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_tools import go, make_photos

from ugaf import cli
from ugaf.cli.estimated import imagined, left
from ugaf.columns.view import RunView
from ugaf.pipeline import config

MEAN, DOUBLE = "engine_stages:Mean", "engine_stages:Double"


def estimate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["estimate"]


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    make_photos(tmp_path / "photos", 2)
    return ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "run")]


def test_a_cluster_that_is_not_here(photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "fineedit", *photos, "--rows", "100_000", "--gpus", "64", "--price", "2.5")
    assert found["rows"] == 100_000
    assert found["money"] == pytest.approx(found["hours"] * 64 * 2.5, rel=0.01)
    assert found["hours_low"] < found["hours"] < found["hours_high"]
    assert sum(stage["share"] for stage in found["stages"]) == pytest.approx(1, abs=0.01)
    edits = [stage for stage in found["stages"] if stage["name"] == "generation.edit"]
    assert sum(stage["share"] for stage in edits) > 0.75
    assert all(stage["cost_from"] == "published" and stage["source"] for stage in edits)
    assert found["tokens_in"] > 1e9
    assert found["columns_gb"] > found["shards_gb"] > 10
    assert {e["model"]: e["outputs"] for e in found["licences"]}["black-forest-labs/FLUX.1-Kontext-dev"] == "limited"
    half = estimate(capsys, "fineedit", *photos, "--rows", "100000", "--gpus", "128")
    assert 0.4 < half["hours"] / found["hours"] < 0.65
    assert half["money"] is None


def test_it_is_told_in_words(photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "fineedit", *photos, "--rows", "1000", "--gpus", "8", "--price", "2"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "estimate for 1,000 rows to take in, on 8 GPUs and 128 CPUs" in text
    assert "4 generation.edit[qwen-image-edit] 6 ~7" in text
    assert "at 2 a GPU-hour" in text
    assert "licence of black-forest-labs/FLUX.1-Kontext-dev (generation.edit): FLUX [dev] Non-" in text
    assert "Apache" not in text
    assert cli.main(["plan", "fineedit", *photos, "--estimate"]) == 2
    assert "--gpus 8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["plan", "fineedit", *photos, "--gpus", "0"])


def test_what_was_measured_is_taken_from_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_photos(tmp_path / "photos", 40)
    document = {
        "name": "some",
        "inputs": [str(tmp_path / "photos")],
        "output": str(tmp_path / "run"),
        "engine": {"executor": "inline"},
        "stages": [{MEAN: {"sleep": 0.01}}, DOUBLE],
    }
    go(config.parse(document))
    (tmp_path / "some.yaml").write_text(yaml.safe_dump(document))
    found = estimate(capsys, str(tmp_path / "some.yaml"), "--rows", "1000")
    mean, double = (next(s for s in found["stages"] if s["name"] == name) for name in (MEAN, DOUBLE))
    assert mean["cost_from"] == double["cost_from"] == "measured"
    assert 0.01 <= mean["seconds_a_row"] < 0.5
    assert (double["rows"], double["rows_from"]) == (1000, "measured")
    assert found["bytes_from"] == "measured"
    assert estimate(capsys, str(tmp_path / "some.yaml"), "--estimate")["hours"] == 0

    make_photos(tmp_path / "photos", 20, start=40)
    checked = config.parse({**document, "stages": [{MEAN: {"sleep": 0.01, "power": 3.0}}, DOUBLE]})
    view = RunView(str(tmp_path / "run"), checked)
    open_work = left(view, view.funnel(), {"cpus": 2, "gpus": 0, "node_cpus": 2, "node_gpus": 0, "nodes": []})
    assert open_work is not None
    assert open_work["hours"] > 0
    assert left(RunView(str(tmp_path / "run")), RunView(str(tmp_path / "run")).funnel(), None) is None
    assert left(view, view.funnel(), None) == {**open_work, "hours": None, "bound": ""}


def test_nodes_of_an_imagined_cluster() -> None:
    assert imagined(20, 8).gpu_nodes == (8, 8, 4)
    assert imagined(4, 8).gpu_nodes == (4,)
