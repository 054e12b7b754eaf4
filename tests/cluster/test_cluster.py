"""A run submitted to a Ray head."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT
from ray_heads import RAY, Head, started_head

from ugaf.base.errors import ConfigError
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.pipeline import config


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    with started_head(tmp_path) as head:
        yield head


@pytest.mark.timeout(400)
@pytest.mark.own_ray
def test_a_submitted_job_runs_on_the_cluster(head: Head, tmp_path: Path) -> None:
    """As a user submits it: a clean copy of the repository as the working directory."""
    working = tmp_path / "repository"
    for name in ("ugaf", "stages", "pipelines"):
        shutil.copytree(ROOT / name, working / name, ignore=shutil.ignore_patterns("__pycache__"))
    output = tmp_path / "run"
    command = ["python", "-m", "ugaf.run", "--input", "sample://coffee", "--output", str(output),
               "--until", "annotation.detect", "--no-export"]  # fmt: skip
    done = subprocess.run(
        [str(RAY), "job", "submit", "--working-dir", str(working), "--", *command],
        env=head.environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()
    counts = {stage.name: stage for stage in RunView(str(output)).funnel()}
    assert counts["annotation.detect"].kept == 1


def test_a_relative_output_on_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    pipeline = config.load("demo")
    with pytest.raises(ConfigError, match="must be a URL or an absolute path that every node shares"):
        runner.run(pipeline, runner.RunOptions(), lambda _: None, lambda _: None)
    assert not list(tmp_path.iterdir())
