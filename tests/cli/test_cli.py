"""The command line as a user meets it: the whole path on real photographs, run again, changed, explained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engine_tools import tree
from places import ROOT

from ugaf import cli
from ugaf.columns import reasons
from ugaf.columns.view import RunView, StageCounts

pytestmark = pytest.mark.own_ray

INPUTS = ["--input", "sample://coffee", "--input", "sample://chelsea", "--input", "sample://camera"]
SMALL = ["--set", "annotation.instruct.edits_per_image=3", "--set", "fragment_rows=2"]


def ugaf(*arguments: str, folder: Path, status: int = 0) -> str:
    """Run a command in `folder` as a user does; its output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["COLUMNS"] = "200"
    done = subprocess.run(
        [sys.executable, "-m", "ugaf", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=280,
        check=False,
    )
    output = done.stdout.decode()
    assert done.returncode == status, output
    return output


def demo(folder: Path, *extra: str, status: int = 0, executor: str = "inline") -> str:
    changes = ["--set", f"engine.executor={executor}"]
    return ugaf("run", *INPUTS, *SMALL, *changes, *extra, folder=folder, status=status)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in runs/demo, made on Ray. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("work")
    output = demo(folder, executor="ray")
    assert "runs/demo/report/index.html" in output
    return folder


def counts(folder: Path) -> dict[str, StageCounts]:
    stages = RunView(str(folder / "runs" / "demo")).funnel()
    for stage in stages:
        assert stage.given == stage.kept + sum(stage.rejected.values()) + stage.failed + stage.pending
    return {stage.name: stage for stage in stages}


def test_photographs_become_shards_report_and_card(finished: Path) -> None:
    run = finished / "runs" / "demo"
    assert (run / "report" / "index.html").stat().st_size > 10_000
    assert (run / "README.md").read_text().startswith("---\n")
    assert list((run / "shards" / "parquet").rglob("*.parquet"))
    assert list((run / "shards" / "webdataset").rglob("*.tar"))
    last = counts(finished)["refinement.score"]
    assert last.kept >= 2
    assert last.pending == 0
    told = {stage["name"]: stage for stage in json.loads(ugaf("status", "--json", folder=finished))["stages"]}
    assert (told["refinement.score"]["kept"], told["refinement.score"]["pending"]) == (last.kept, 0)


def test_the_second_run_changes_no_byte(finished: Path) -> None:
    before = tree(finished / "runs")
    demo(finished, executor="ray")
    assert tree(finished / "runs") == before


def test_two_runs_from_scratch_give_the_same_shards(finished: Path, tmp_path: Path) -> None:
    """The one ran on Ray's workers, the other in one process."""
    demo(tmp_path)
    one, two = (folder / "runs" / "demo" / "shards" for folder in (finished, tmp_path))
    assert {name: data for name, (_, data) in tree(one).items()} == {
        name: data for name, (_, data) in tree(two).items()
    }


def test_a_threshold_changes_verdicts_and_no_column(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    run = tmp_path / "runs" / "demo"
    parts = {name: facts for name, facts in tree(run).items() if "/part-" in name}
    pairs = counts(tmp_path)["refinement.score"].kept
    rule = "refinement.score.keep.quality.min=9.99"
    demo(tmp_path, "--set", rule, "--no-export")
    assert {name: facts for name, facts in tree(run).items() if "/part-" in name} == parts
    after = counts(tmp_path)["refinement.score"]
    assert after.rejected["quality < 9.99"] >= 1
    rejected = next(
        row
        for table in RunView(str(run)).rows("edit")
        for row in table.to_pylist()
        if row["stage"] == "refinement.score"
    )
    story = ugaf("explain", rejected["id"][:12], folder=tmp_path)
    assert story.splitlines()[0] == f"OUT BY refinement.score: {reasons.text(rejected['reason'])}"
    assert ">= 9.99 BROKEN" in story
    demo(tmp_path, "--no-export")
    assert counts(tmp_path)["refinement.score"].kept == pairs


def test_one_more_photograph_is_the_only_work(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    before = tree(tmp_path / "runs")
    plan = ugaf("plan", *INPUTS, "--input", "sample://rocket", *SMALL, folder=tmp_path)
    assert "1 new source; 3 rows taken in" in plan
    assert tree(tmp_path / "runs") == before
    demo(tmp_path, "--input", "sample://rocket")
    after = tree(tmp_path / "runs")
    parts = {name: facts for name, facts in before.items() if "/part-" in name}
    assert {name: after[name] for name in parts} == parts
    assert counts(tmp_path)["ingest"].kept == 4


def test_stages_one_by_one(tmp_path: Path) -> None:
    demo(tmp_path, "--until", "curation.near_duplicates", "--no-export")
    assert counts(tmp_path)["annotation.detect"].pending == 2
    demo(tmp_path, "--stage", "annotation.detect", "--no-export")
    assert counts(tmp_path)["annotation.detect"].pending == 0
    assert not (tmp_path / "runs" / "demo" / "shards").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demos"], "did you mean 'demo'"),
        (["run", "--set", "curation.photometric.keep.rgb_entropi.min=1"], "did you mean 'rgb_entropy'"),
        (["run", "--stage", "curation.fotometric"], "did you mean 'curation.photometric'"),
        (["run", "--input", "nothing/here"], "nothing/here"),
        (["run", "--stage", "ingest", "--until", "ingest"], "--stage names one stage"),
        (["explain", "abc", "--run", "nowhere"], "nowhere is not a run"),
        (["status"], "there is no run in runs/"),
        (["stages", "curation.photo"], "did you mean 'curation.photometric'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.out + said.err
    assert not (tmp_path / "runs").exists()


def test_stages_tell_their_settings(tmp_path: Path) -> None:
    listed = ugaf("stages", folder=tmp_path)
    assert "curation.photometric" in listed
    shown = ugaf("stages", "curation.photometric", folder=tmp_path)
    assert "working_side" in shown
    assert "rgb_entropy: double" in shown


def test_help_needs_no_heavy_import() -> None:
    code = "import sys; from ugaf.cli.main import _parser; _parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"numpy", "pyarrow", "ray", "cv2", "pydantic", "yaml", "rich"}
