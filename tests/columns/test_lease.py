"""A run is one driver's at a time, and that of one that has died is free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_tools import counts, go, make_photos, pipeline, tree
from faulty_store import faulty
from places import PATHS

from ugaf import cli
from ugaf.base.errors import ConfigError, StopRun
from ugaf.columns import lease
from ugaf.columns.lease import FOLDER, Fence, HeldError
from ugaf.columns.parts import Columns
from ugaf.storage import Storage, store
from ugaf.storage.objects import Objects, UnavailableError

MEAN = "engine_stages:Mean"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", ""), *sys.path])}


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "run"))
    if request.param == "memory":
        return Storage(f"memory://{tmp_path.name}/run")
    return Storage((request.getfixturevalue("s3_url") % tmp_path.name).replace("?", "/run?", 1))


def elsewhere(call: Callable[[], Any]) -> Any:
    """What a call gives in a thread of its own, which is another driver; its error is raised."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(call).result()


def take(storage: Storage) -> None:
    with lease.held(storage, "another"):
        pass


def holder(**facts: Any) -> bytes:
    known = {"command": "ugaf run", "user": "ann", "pid": 7, "host": "far", "since": "then", "machine": "far 1"}
    return json.dumps({**known, **facts}).encode()


def test_a_held_run_is_refused_to_others_until_it_is_released(storage: Storage) -> None:
    with lease.held(storage, "ugaf run"):
        storage.write("run.yaml", b"x")
        with pytest.raises(HeldError) as refused:
            elsewhere(lambda: take(storage))
        for words in (f"process {os.getpid()}", "ugaf run of ", "since 20", "--wait"):
            assert words in str(refused.value)
        assert refused.value.status == 75
        with lease.held(storage, "ugaf export") as same:
            same.check()
    elsewhere(lambda: take(storage))
    assert storage.list(FOLDER) == ["000002.json"]
    assert json.loads(storage.read(f"{FOLDER}/000002.json")) == {"number": 2, "state": "free"}


def test_of_many_who_take_it_at_once_one_has_it_at_a_time(storage: Storage) -> None:
    storage.write("run.yaml", b"x")
    inside, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most
        with lease.scope("many", wait=True, notify=lambda _: None), lease.held(storage, "many"):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    # Where a file cannot be created only where there is none, takers in one moment are not kept apart.
    workers = 1 if storage.exclusive else 4
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(4)))
    assert most == 1
    assert storage.list(FOLDER) == ["000004.json"]


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    take(Storage(str(tmp_path / "a" / "b" / "run")))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError):
        go(pipeline(tmp_path / "none", tmp_path / "run", [MEAN]))
    assert list(tmp_path.iterdir()) == []


def test_the_run_of_a_process_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom ugaf.columns import lease\nfrom ugaf.storage import Storage\n"
        "with lease.held(Storage(sys.argv[1]), 'ugaf run'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    run = Storage(str(tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-c", code, run.url], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=f"process {process.pid} on"):
            take(run)
        process.send_signal(signal.SIGKILL)
        began = time.monotonic()
        while lease._began(process.pid) and time.monotonic() - began < 5:
            time.sleep(0.02)  # it is not reaped, and stays as a zombie
        with lease.held(run, "ugaf run") as mine:
            assert mine.fence.number == 2
        assert time.monotonic() - began < 10


def test_a_holder_elsewhere_is_dead_when_it_gives_no_sign_of_life(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DEAD_S", 1.0)
    monkeypatch.setattr(lease, "_LOOK_REMOTE_S", 0.1)
    storage.write("run.yaml", b"x")
    storage.write(f"{FOLDER}/000041.json", holder())
    told: list[str] = []
    with lease.scope("ugaf run", notify=told.append), lease.held(storage, "ugaf run") as mine:
        assert (mine.fence.number, mine.waited) == (42, True)
    assert any("ann" in line and "taken over" in line for line in told)
    assert storage.list(FOLDER) == ["000042.json"]


@contextmanager
def living(storage: Storage, seconds: float) -> Iterator[None]:
    """A holder elsewhere that lives for so long, and then says that it is done."""

    def live() -> None:
        for beat in range(int(seconds / 0.1)):
            storage.write(f"{FOLDER}/000001.json", holder(beats=beat))
            time.sleep(0.1)
        storage.write(f"{FOLDER}/000001.json", b'{"state": "free"}')

    storage.write("run.yaml", b"x")
    storage.write(f"{FOLDER}/000001.json", holder(beats=-1))
    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_holder_elsewhere_that_lives_is_not_robbed_but_waited_for_if_asked(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DEAD_S", 1.0)
    monkeypatch.setattr(lease, "_LOOK_S", 0.15)
    monkeypatch.setattr(lease, "_LOOK_REMOTE_S", 0.15)
    with living(storage, 1.5), pytest.raises(HeldError, match="ugaf run of ann"):
        take(storage)
    with living(storage, 2.0), lease.scope("second", wait=True, notify=lambda _: None):
        with lease.held(storage, "second") as mine:
            assert json.loads(storage.read(f"{FOLDER}/000002.json"))["command"] == "second"
        assert mine.waited


def test_who_has_lost_the_run_stops_and_says_to_whom(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    with lease.held(storage, "ugaf run") as mine:
        fence = Fence.__reduce__(mine.fence)[0](*Fence.__reduce__(mine.fence)[1])
        time.sleep(0.2)
        mine.check()
        fence.check(storage)
        storage.write(f"{FOLDER}/000002.json", holder())
        deadline = time.monotonic() + 20
        while not mine.lost and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(StopRun, match="ugaf run of ann"):
            mine.check()
        with pytest.raises(StopRun, match="same command"):
            fence.check(storage)
    assert storage.read(f"{FOLDER}/000002.json") == holder()


def test_a_run_that_is_taken_from_its_driver_stops_before_its_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "in", 12)
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    write, parts = Columns.write, list[str]()

    def robbed(self: Columns, *rest: Any) -> str:
        parts.append(write(self, *rest))
        if len(parts) == 3:
            self.storage.write(f"{FOLDER}/000009.json", holder())
        return parts[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Columns, "write", robbed)
        patch.setattr(lease, "BEAT_S", 0.0)
        with pytest.raises(StopRun, match="ugaf run of ann"):
            go(checked)
    assert len(parts) == 3
    for path in (tmp_path / "run" / FOLDER).iterdir():
        path.unlink()
    assert counts(go(checked))[MEAN].kept == 12


def test_a_store_that_takes_no_notice_of_the_condition_is_told_of_once(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: Objects, path: str, data: Any) -> bool:
        self.put(path, data)
        return True

    monkeypatch.setattr(Objects, "create", careless)
    run = Storage(s3_url % tmp_path.name)
    told: list[str] = []
    with lease.scope("ugaf run", notify=told.append), lease.held(run, "ugaf run"):
        assert not run.create(f"{FOLDER}/000001.json", b"no")
        with lease.held(run, "ugaf run"):
            pass
    assert [line for line in told if "If-None-Match" in line] == told[:1]


def test_without_its_client_a_store_is_written_to_all_the_same(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any) -> Objects:
        raise UnavailableError("obstore is not installed")

    monkeypatch.setattr(store, "open_objects", absent)
    make_photos(tmp_path / "in", 3)
    url = s3_url % tmp_path.name
    told: list[str] = []
    with lease.scope("ugaf run", notify=told.append):
        assert counts(go(pipeline(tmp_path / "in", url, [MEAN])))[MEAN].kept == 3
    assert [line for line in told if "obstore is not installed" in line] == told
    assert [name for name in Storage(url).files() if "tmp" in name] == []


def test_two_commands_that_add_photographs_at_once_lose_none(tmp_path: Path) -> None:
    make_photos(tmp_path / "a", 6)
    make_photos(tmp_path / "b", 6, start=50)
    document = (
        f"name: two\noutput: {tmp_path}/run\nfragment_rows: 2\nengine: {{executor: inline}}\n"
        "inputs: [none]\nstages: [{engine_stages:Mean: {}}]\n"
    )
    (tmp_path / "two.yaml").write_text(document)
    command = [sys.executable, "-m", "ugaf", "run", str(tmp_path / "two.yaml"), "--no-export", "--wait", "--input"]
    both = [subprocess.Popen([*command, str(tmp_path / name)], env=ENVIRONMENT, cwd=tmp_path) for name in "ab"]
    assert [process.wait(120) for process in both] == [0, 0]
    storage = Storage(str(tmp_path / "run"))
    assert len(Columns(storage, pipeline(tmp_path / "a", tmp_path / "run", [MEAN])).fragments()) == 6
    assert counts(go(pipeline(tmp_path / "a", tmp_path / "run", [MEAN], name="two")))[MEAN].kept == 12


def test_two_drivers_of_one_run_on_an_object_store_lose_nothing(tmp_path: Path, s3_url: str) -> None:
    url = s3_url % tmp_path.name
    for name, start in (("a", 0), ("b", 50)):
        make_photos(tmp_path / name, 3, start=start)

    def work(name: str) -> None:
        with lease.scope("ugaf run", wait=True, notify=lambda _: None):
            go(pipeline(tmp_path / name, url, [MEAN], fragment_rows=1))

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, "ab"))
    view = go(pipeline(tmp_path / "a", url, [MEAN], fragment_rows=1))
    assert len(view.fragments) == counts(view)[MEAN].kept == 6


def test_the_command_refuses_a_held_run_and_leaves_it_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_photos(tmp_path / "in", 3)
    go(pipeline(tmp_path / "in", tmp_path / "run", [MEAN]))
    before = tree(tmp_path / "run")
    command = ["export", str(tmp_path / "run"), "--trust", "engine_stages"]
    with lease.held(Storage(str(tmp_path / "run")), "ugaf run"):
        assert elsewhere(lambda: cli.main(command)) == 75
        assert "works in this run" in capsys.readouterr().err
        assert elsewhere(lambda: cli.main(["status", *command[1:]])) == 0
    assert tree(tmp_path / "run") == before


def test_a_small_file_is_one_request(tmp_path: Path, s3_url: str) -> None:
    with faulty(s3_url % tmp_path.name) as (proxy, url):
        run = Storage(url)
        run.exists("x")
        for write in (run.write, run.create):
            proxy.asked.clear()
            write(f"{write.__name__}.bin", b"x" * 1000)
            assert [method for method, _ in proxy.asked] == ["PUT"]
        proxy.asked.clear()
        with run.open_output("stream.bin") as stream:
            stream.write(b"x" * 1000)
        assert [method for method, _ in proxy.asked] == ["PUT"]
