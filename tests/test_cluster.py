"""A run submitted to a Ray head, and the cluster files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ugaf.base.errors import ConfigError
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.pipeline import config

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head node on free ports of 127.0.0.1, ended by its process id. Gives the environment for submitting."""
    ports = {
        name: free_port()
        for name in ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    }
    # Short, for the path of a socket below it may have 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    # A job's `python` is the first on the head's PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name in ("RAY_ADDRESS", "PYTHONPATH"):
        environment.pop(name, None)
    arguments = [f"--{name}={number}" for name, number in ports.items()]
    with open(tmp_path / "head.log", "wb") as log:
        process = subprocess.Popen(
            [str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2", *arguments,
             f"--temp-dir={temporary}", "--object-store-memory=100000000", "--disable-usage-stats"],
            env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        _wait_for(url, process, tmp_path / "head.log")
        yield {**environment, "RAY_API_SERVER_ADDRESS": url}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/api/version", timeout=2).read()
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"the head did not come up: {log.read_text()}")


@pytest.mark.timeout(400)
@pytest.mark.own_ray
def test_a_submitted_job_runs_on_the_cluster(head: dict[str, str], tmp_path: Path) -> None:
    """As a user submits it: a clean copy of the repository as the working directory."""
    working = tmp_path / "repository"
    for name in ("ugaf", "stages", "pipelines"):
        shutil.copytree(ROOT / name, working / name, ignore=shutil.ignore_patterns("__pycache__"))
    output = tmp_path / "run"
    command = ["python", "-m", "ugaf.run", "--input", "sample://coffee", "--output", str(output),
               "--until", "annotation.detect", "--no-export"]  # fmt: skip
    done = subprocess.run(
        [str(RAY), "job", "submit", "--working-dir", str(working), "--", *command],
        env=head, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
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


def test_cluster_files_are_valid_and_pin_the_same_ray() -> None:
    files = sorted((ROOT / "clusters").glob("*.yaml"))
    assert len(files) >= 2
    wanted = re.search(r"ray\[data,default\]==(\d+\.\d+)\.\*", (ROOT / "pyproject.toml").read_text())
    assert wanted
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text()), dict)
        assert wanted[1] in file.read_text(), f"{file.name} pins another Ray"


def test_the_cluster_s_dependencies_are_the_package_s() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    setup = yaml.safe_load((ROOT / "clusters" / "ray-cluster.yaml").read_text())["setup_commands"][0]
    listed = {re.split(r"[\[<>=~]", word.strip('"'))[0] for word in setup.split()[2:]}
    assert listed == {re.split(r"[\[<>=~]", name)[0] for name in project["dependencies"]}
