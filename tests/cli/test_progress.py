"""What a run tells while it works: rows of those known, rates and times by value; lines, log and progress file as the
user of a command finds them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from engine_tools import make_photos, pipeline
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from rich.console import Console

from ugaf.base.errors import UgafError
from ugaf.cli.progress import files, live, shown
from ugaf.cli.progress.files import RunLog
from ugaf.cli.progress.live import Call
from ugaf.cli.progress.tracker import Tracker
from ugaf.cli.status import last_call_text
from ugaf.storage import Storage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(kept: int, onward: int | None = None, **others: int) -> dict[str, int]:
    return {"kept": kept, "onward": kept if onward is None else onward, **others}


def test_known_rows_rate_of_now_and_time_left() -> None:
    clock = Clock()
    tracker = Tracker(["ingest", "detect", "edit"], clock)
    tracker.doing("segment 1 of 1", {"ingest": 100, "detect": 10, "edit": 0})
    # Two rows a second for 100 s, then one in two seconds for another 100: the rate of now is the latter.
    for second in range(1, 201):
        clock.now += 1
        done = 2 * min(second, 40) + max(0, second - 100) // 5
        tracker.counts({"ingest": counted(done), "detect": counted(done // 2, onward=done // 2 * 3, failed=1)})
    ingest, detect, edit = tracker.state().stages
    assert (ingest.done, ingest.known, ingest.expected) == (100, 100, 100)
    assert ingest.state == "done"
    assert (detect.done, detect.known, detect.failed) == (51, 110, 1)
    assert detect.rate == pytest.approx(6 / 60, rel=0.2)
    assert detect.average == pytest.approx(51 / 199, rel=0.05)
    assert detect.left_s == pytest.approx(59 / detect.rate)
    # detect handed on 150 of 51 rows: so will the 59 that are left.
    assert (edit.known, edit.expected) == (150, 150 + round(59 * 150 / 51))
    assert edit.state == "running"


def test_the_stage_whose_rows_take_longest_bounds_the_run() -> None:
    clock = Clock()
    tracker = Tracker(["ingest", "fast", "slow"], clock)
    tracker.doing("segment 1 of 1", {"ingest": 1000, "fast": 0, "slow": 0})
    for second in range(1, 61):
        clock.now += 1
        tracker.counts({"ingest": counted(10 * second), "fast": counted(9 * second), "slow": counted(second)})
    state = tracker.state()
    assert state.bounds == "slow"
    assert state.left_s == pytest.approx(940, rel=0.05)
    line = shown.line(state)
    assert line.startswith("slow 60 of ~1,000 (6 %), 1.0 rows/s now, 16 min left, 0 failed")
    assert "bounds the 2 others at work" in line


def test_a_later_segment_counts_what_is_stored_and_nothing_twice() -> None:
    clock = Clock()
    tracker = Tracker(["ingest", "whole", "edit"], clock)
    tracker.doing("segment 1 of 2", {"ingest": 20})
    clock.now += 10
    tracker.counts({"ingest": counted(19, merged=1)})
    tracker.doing("segment 2 of 2", {"whole": 19})
    clock.now += 5
    stages = {stage.name: stage for stage in tracker.state().stages}
    assert stages["ingest"].state == "done"
    assert stages["ingest"].done == 20
    assert (stages["whole"].known, stages["whole"].expected, stages["whole"].left_s) == (19, 19, None)
    assert shown.line(tracker.state()) == "whole 0 of 19 (0 %), no row yet after 5 s, 0 failed"


@given(
    st.lists(
        st.tuples(st.floats(0, 500), st.integers(0, 30), st.integers(0, 30), st.integers(0, 4)), min_size=1, max_size=40
    ),
    st.integers(0, 50),
)
def test_no_count_is_below_another_whatever_comes(steps: list[tuple[float, int, int, int]], waiting: int) -> None:
    clock = Clock()
    tracker = Tracker(["one", "two"], clock)
    tracker.doing("segment 1 of 1", {"one": waiting, "two": 0})
    one = two = 0
    for seconds, more, later, share in steps:
        clock.now += seconds
        one, two = one + more, two + later
        tracker.counts({"one": counted(one, onward=one * share), "two": counted(two)})
        for stage in tracker.state().stages:
            assert 0 <= stage.done <= stage.known <= stage.expected
            assert stage.rate >= 0
            assert stage.left_s is None or stage.left_s > 0
        assert shown.line(tracker.state())
        json.dumps(shown.document(tracker.state()), allow_nan=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5940, "99 min"),
        (12000, "3 h 20 min"),
        (7200, "2 h"),
        (187200, "2 d 4 h"),
    ],
)
def test_times_are_minutes_and_hours(seconds: float, text: str) -> None:
    assert shown.duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(250, "250 rows/s"), (4.12, "4.1 rows/s"), (0.5, "30.0 rows/min"), (0.001, "3.6 rows/h")]
)
def test_slow_rates_are_by_the_minute_or_hour(rate: float, text: str) -> None:
    assert shown.pace(rate) == text


def call_in(folder: Path, mode: str) -> tuple[Call, io.StringIO]:
    written = io.StringIO()
    checked = pipeline(folder / "photos", folder / "run", ["curation.resolution"])
    return Call(checked, Console(file=written, width=200), mode, "ugaf run s3://bucket/x?token=abc"), written


@pytest.mark.parametrize("what", ["starting Ray", "listing the inputs", "writing the report"])
def test_nothing_is_silent_for_long(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LINE_S", 0.1)
    monkeypatch.setattr(live, "_TICK_S", 0.02)
    call, written = call_in(tmp_path, "plain")
    with call:
        call.doing(what)
        deadline = time.monotonic() + 10
        while written.getvalue().count(what) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        call.finish(0)
    lines = written.getvalue().splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  {what}", lines[0])
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  {what}, for \d+ s so far", lines[1])
    assert len(lines) >= 3


def refuse(call: Call, why: str, accepted: bool = False) -> None:
    with call:
        call.note("something")
        if accepted:
            call.accepted()
        raise UgafError(why)


def test_a_call_that_was_refused_leaves_no_file(tmp_path: Path) -> None:
    call, _ = call_in(tmp_path, "none")
    with pytest.raises(UgafError):
        refuse(call, "no such input")
    assert not (tmp_path / "run").exists()


def test_how_a_call_ended_is_in_both_files_without_secrets(tmp_path: Path) -> None:
    call, _ = call_in(tmp_path, "none")
    with pytest.raises(UgafError):
        refuse(call, "s3://me:secret@bucket/x?X-Amz-Signature=12ab is gone", accepted=True)
    log = (tmp_path / "run" / "log.txt").read_text()
    said = json.loads((tmp_path / "run" / "progress.json").read_text())
    assert (said["state"], said["exit_code"]) == ("stopped", 2)
    assert "exit code 2: s3://" in log
    assert "bucket/x" in log
    for text in (log, json.dumps(said)):
        assert not re.search("secret|12ab|abc", text)
    assert re.search(r"stopped \d+ s ago, exit code 2", last_call_text(Storage(str(tmp_path / "run"))))


def test_a_folder_that_cannot_be_written_does_not_end_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    call, _ = call_in(tmp_path, "none")
    with call:
        call.accepted()
        call.note("still here")
        call.finish(0)
    assert "log.txt and progress.json cannot be written" in capsys.readouterr().err


@given(st.lists(st.text(max_size=300), max_size=30), st.integers(200, 2000))
def test_the_log_is_bounded_and_keeps_its_newest_lines(texts: list[str], limit: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "LOG_BYTES", limit)
        patch.setattr(files, "MESSAGE_CHARACTERS", 20)
        for text in [*texts, "the last"]:
            log = RunLog(Storage(folder))
            log.add(text)
            log.flush()
        written = Path(folder, "log.txt").read_bytes()
        assert len(written) <= limit + 200
        assert written.endswith(b"  the last\n")


def test_a_log_on_an_object_store_is_appended_to() -> None:
    for number in range(3):
        log = RunLog(Storage("memory://logs/run"))
        log.add(f"line {number}")
        log.flush()
    text = Storage("memory://logs/run").read("log.txt").decode()
    assert re.findall(r"line \d", text) == ["line 0", "line 1", "line 2"]


def test_what_is_logged_while_the_log_is_written_is_written_next() -> None:
    class Meanwhile(Storage):
        def write(self, path: str, data: Any) -> None:
            log.add("meanwhile")
            super().write(path, data)

    log = RunLog(Meanwhile("memory://logs/meanwhile"))
    log.add("first")
    log.flush()
    log.flush()
    text = Storage("memory://logs/meanwhile").read("log.txt").decode()
    assert re.findall("first|meanwhile", text) == ["first", "meanwhile"]


def start(*arguments: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "ugaf", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


RUN = ["run", "curate", "--input", "photos", "--output", "out", "--no-export", "--set", "engine.executor=inline"]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run in out/, and what the command printed."""
    folder = tmp_path_factory.mktemp("curated")
    make_photos(folder / "photos", 6, side=520)
    output, errors = start(*RUN, folder=folder).communicate(timeout=120)
    assert not errors
    return folder, output.decode()


def test_without_a_terminal_every_stage_says_when_it_is_done(curated: tuple[Path, str]) -> None:
    folder, output = curated
    assert re.search(r"^\d\d:\d\d:\d\d  listing the inputs$", output, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d  segment 1 of \d", output, re.MULTILINE)
    for stage in ("ingest", "curation.resolution", "curation.photometric"):
        assert re.search(rf"^\d\d:\d\d:\d\d  {stage} done: \d+ rows?", output, re.MULTILINE), output
    log = (folder / "out" / "log.txt").read_text()
    assert "ugaf run curate --input photos" in log
    assert "6 new sources" in log
    assert "ingest done: 6 rows" in log
    assert log.rstrip().endswith("exit code 0")
    said = json.loads((folder / "out" / "progress.json").read_text())
    assert (said["state"], said["exit_code"], said["failed"]) == ("done", 0, 0)
    assert {s["name"]: s["done"] for s in said["stages"]}["ingest"] == 6


def test_json_progress_is_json_alone_and_ends_with_the_status(curated: tuple[Path, str]) -> None:
    folder, _ = curated
    output, errors = start(*RUN, "--progress", "json", folder=folder).communicate(timeout=120)
    lines = [json.loads(line) for line in output.decode().splitlines()]
    assert not errors
    assert lines[0]["line"] == "listing the inputs"
    assert lines[-1]["name"]
    assert lines[-1]["stages"][0]["name"] == "ingest"
    assert (folder / "out" / "log.txt").read_text().count("exit code 0") >= 2


def test_status_tells_of_a_call_at_work_and_of_one_that_was_killed(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 40, side=700)
    process = start(*RUN, folder=tmp_path)
    try:
        storage, deadline = Storage(str(tmp_path / "out")), time.monotonic() + 60
        while not (files.last_call(storage) and storage.exists("run.yaml")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)  # it holds still while it is looked at
        status = json.loads(start("status", "out", "--json", folder=tmp_path).communicate(timeout=60)[0])
        assert status["state"] == "running"
        assert status["call"]["pid"] == process.pid
        assert status["path"] == "out"
    finally:
        process.kill()
        process.communicate()
    printed = start("status", "out", folder=tmp_path).communicate(timeout=60)[0].decode()
    assert f"the last call ended without a word: process {process.pid} on " in printed
    assert json.loads(start("status", "out", "--json", folder=tmp_path).communicate(timeout=60)[0])["state"] == "lost"
