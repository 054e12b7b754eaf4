"""A thread says that Ray's head is gone, before Ray ends the process without a word."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from places import ROOT
from ray_heads import started_head

from ugaf.base.errors import STOPPED
from ugaf.engine import head_watch
from ugaf.engine.head_watch import FEWEST, HeadWatch, answers, patience


def watch(address: str, told: list[str], patience_s: float = 0.1) -> HeadWatch:
    return HeadWatch(address, told.append, patience_s, every_s=0.02)


def listener() -> tuple[socket.socket, str]:
    server = socket.create_server(("127.0.0.1", 0))
    return server, f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_is_gone_is_told_once_and_one_that_answers_never() -> None:
    server, address = listener()
    told: list[str] = []
    with watch(address, told):
        time.sleep(0.5)
        assert told == []
        server.close()
        limit = time.monotonic() + 20
        while not told and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.3)
    assert len(told) == 1
    assert told[0].startswith(f"Ray's head at {address} has not answered for")


def test_a_head_that_comes_back_in_time_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = iter([*[False] * (FEWEST - 1), True] * 3)
    over = threading.Event()

    def answer(*_: object) -> bool:
        found = next(answered, None)
        if found is None:
            over.set()
        return found is not False

    monkeypatch.setattr(head_watch, "answers", answer)
    told: list[str] = []
    with watch("127.0.0.1:1", told, patience_s=0):
        assert over.wait(20)
    assert told == []


def test_a_watch_that_is_over_says_nothing() -> None:
    server, address = listener()
    told: list[str] = []
    with watch(address, told, patience_s=0.2):
        server.close()
    time.sleep(0.5)
    assert told == []


def test_an_error_of_this_machine_is_no_answer_of_the_head_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(error: OSError) -> bool:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(socket, "create_connection", fail)
        return answers("127.0.0.1:1")

    assert connect(OSError(errno.EMFILE, "too many open files"))
    assert not connect(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not connect(TimeoutError())
    assert not connect(socket.gaierror(-2, "the name is not known"))


def test_it_speaks_before_ray_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_gcs_rpc_server_reconnect_timeout_s", raising=False)
    assert patience() == 30
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
    assert patience() == 300


@pytest.mark.timeout(400)
@pytest.mark.own_ray
def test_a_run_whose_head_is_killed_says_so_and_ends_with_75(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text(
        f"name: slow\ninputs: [sample://coffee]\noutput: {tmp_path / 'run'}\n"
        "stages:\n  - engine_stages:Mean: {sleep: 200.0}\n"
    )
    more = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "30",
    }
    with started_head(tmp_path, more) as head:
        command = [sys.executable, "-m", "ugaf", "run", "slow.yaml", "--address", head.address]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=head.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        log = tmp_path / "run" / "log.txt"
        limit = time.monotonic() + 200
        while not (log.exists() and "ingest done" in log.read_text()):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < limit
            time.sleep(0.2)
        stores = [
            child for child in psutil.Process(head.process.pid).children(recursive=True) if "gcs_server" in child.name()
        ]
        assert stores
        for child in stores:
            child.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == STOPPED
    assert b"has not answered for" in said
    assert b"the same command goes on from there" in said
    last = log.read_text().splitlines()[-1]
    assert "exit code 75: Ray's head at" in last
    assert "the same command goes on from there" in last
