"""A head of Ray as `ray start` gives it, on free ports of 127.0.0.1, ended by its process id."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """environment: for programs that attach or submit. address: of its control store. metrics: the port of its
    Prometheus endpoint. process: `ray start`; all that it started is of its process group."""

    environment: dict[str, str]
    address: str
    metrics: int
    process: subprocess.Popen[bytes]


def quiet_port() -> int:
    """A free port below those that a system hands out by itself: no other process is given it before it is used."""
    while True:
        port = random.randrange(21_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def started_head(folder: Path, more: Mapping[str, str] | None = None) -> Iterator[Head]:
    """folder: for its log. more: environment of its processes."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **(more or {})}
    # A job's `python` is the first on the head's PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name in ("RAY_ADDRESS", "PYTHONPATH"):
        environment.pop(name, None)
    environment.update(more or {})
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    with contextlib.ExitStack() as heads:
        for attempt in range(3):
            ports = {name: quiet_port() for name in names}
            log = folder / f"head{attempt}.log"
            process = heads.enter_context(_started(ports, environment, log))
            # A job is taken once the dashboard answers and its agent, a process of its own, does too.
            urls = [
                f"http://127.0.0.1:{ports['dashboard-port']}/api/version",
                f"http://127.0.0.1:{ports['dashboard-agent-listen-port']}/api/local_raylet_healthz",
            ]
            if _answer(urls, process):
                environment["RAY_API_SERVER_ADDRESS"] = urls[0].removesuffix("/api/version")
                yield Head(environment, f"127.0.0.1:{ports['port']}", ports["metrics-export-port"], process)
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
