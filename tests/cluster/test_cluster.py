"""A run submitted to a Ray head, and the cluster files."""

from __future__ import annotations

import contextlib
import os
import random
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
from places import ROOT

from ugaf.base.errors import ConfigError
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.pipeline import config

RAY = Path(sys.executable).with_name("ray")


def quiet_port() -> int:
    """A free port below those that a system hands out by itself: no other process is given it before it is used."""
    while True:
        port = random.randrange(21_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head node on free ports of 127.0.0.1, ended by its process id. Gives the environment for submitting."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    # A job's `python` is the first on the head's PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name in ("RAY_ADDRESS", "PYTHONPATH"):
        environment.pop(name, None)
    with contextlib.ExitStack() as heads:
        for attempt in range(3):
            ports = {
                name: quiet_port()
                for name in ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
            }
            log = tmp_path / f"head{attempt}.log"
            process = heads.enter_context(_started(ports, environment, log))
            # A job is taken once the dashboard answers and its agent, a process of its own, does too.
            urls = [
                f"http://127.0.0.1:{ports['dashboard-port']}/api/version",
                f"http://127.0.0.1:{ports['dashboard-agent-listen-port']}/api/local_raylet_healthz",
            ]
            if _answer(urls, process):
                yield {**environment, "RAY_API_SERVER_ADDRESS": urls[0].removesuffix("/api/version")}
                return
        raise AssertionError(f"the head did not come up: {log.read_text()}")


@contextlib.contextmanager
def _started(ports: dict[str, int], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # Short, for the path of a socket below it may have 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))
    arguments = [f"--{name}={number}" for name, number in ports.items()]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2", *arguments,
             f"--temp-dir={temporary}", "--object-store-memory=100000000", "--disable-usage-stats"],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        shutil.rmtree(temporary, ignore_errors=True)


def _answer(urls: list[str], process: subprocess.Popen[bytes], seconds: float = 90) -> bool:
    """Whether all of them answer within that time, while the process is there."""
    limit = time.monotonic() + seconds
    for url in urls:
        while True:
            try:
                urllib.request.urlopen(url, timeout=2).read()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > limit:
                    return False
                time.sleep(0.5)
    return True


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
