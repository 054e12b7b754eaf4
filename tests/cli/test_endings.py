"""How a command ends, as schedulers see it: exit statuses, signals, and no traceback for what a user can mend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from engine_tools import make_photos
from places import PATHS

from ugaf import cli
from ugaf.base.errors import ConfigError
from ugaf.cli import endings

FAILING = "failing_stages:Failing"


def command(tmp_path: Path, photos: int = 12, **stage: object) -> list[str]:
    make_photos(tmp_path / "photos", photos)
    document = {
        "name": "ends",
        "inputs": [str(tmp_path / "photos")],
        "output": str(tmp_path / "run"),
        "engine": {"executor": "inline", "stop_after_alike": 0},
        "stages": [{FAILING: stage}],
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return ["run", str(tmp_path / "pipeline.yaml"), "--no-export"]


def started(arguments: list[str], stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """The command as a process of its own, which finds our stages."""
    root = Path(cli.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), PATHS])}
    return subprocess.Popen(
        [sys.executable, "-m", "ugaf", *arguments],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("good", "most", "status"),
    [(12, "0", 0), (11, "0.05", 3), (11, "1", 0), (11, "10%", 0), (11, "0", 3), (0, "100%", 4)],
)
def test_the_status_says_whether_too_much_failed_or_nothing_was_kept(
    good: int, most: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command(tmp_path, good=good, how="row"), "--max-failed", most]) == status
    said = capsys.readouterr().out
    assert ("--max-failed" in said) == (status == 3)
    assert ("nothing was kept" in said) == (status == 4)


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "150%", "nan", ""])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--max-failed"):
        endings.max_failed(text)


def test_sigterm_ends_a_run_that_goes_on_later(tmp_path: Path) -> None:
    arguments = command(tmp_path, 40, wait_s=0.4, good=40)
    process = started(arguments)
    log = tmp_path / "run" / "log.txt"
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("ingest*/*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "SIGTERM" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert "exit code 75" in log.read_text()
    assert cli.main([*arguments, "--set", f"{FAILING}.wait_s=0"]) == 0


@pytest.mark.own_ray
@pytest.mark.parametrize("after_s", [0.0, 0.4, 1.0, 2.0, 3.0])
def test_sigterm_while_ray_starts_ends_the_run_like_any_other(after_s: float, tmp_path: Path) -> None:
    process = started([*command(tmp_path, 2, good=2), "--set", "engine.executor=ray"])
    assert process.stdout is not None
    for line in process.stdout:
        if "starting Ray" in line:
            break
    time.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=90)
    if process.returncode == 0:
        pytest.skip("the run was done before")
    assert process.returncode == 75
    assert "SIGTERM" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    assert cli.main(command(tmp_path, good=12)) == 0
    reader, writer = os.pipe()
    os.close(reader)
    process = started(["status", str(tmp_path / "run"), "--trust", "failing_stages"], stdout=writer)
    os.close(writer)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    assert process.returncode == endings.READER_GONE


@pytest.mark.parametrize("kind", ["file", "below a file", "no permission"])
def test_an_output_that_cannot_be_written_is_named_without_a_traceback(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(tmp_path)
    place = tmp_path / "taken"
    if kind == "no permission":
        # Root may write everywhere but in the kernel's own file system.
        place = Path("/sys/taken") if os.geteuid() == 0 else place / "run"
        if os.geteuid():
            place.parent.mkdir(mode=0o500)
    else:
        place.write_text("a file")
        place /= "run" if kind == "below a file" else ""
    assert cli.main([*arguments, "--output", str(place)]) in (2, 75)
    said = capsys.readouterr().err
    assert (str(place) if kind == "no permission" else str(tmp_path / "taken")) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, endings.Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_comes_in_a_finalizer_is_not_lost(number: int, error: type[BaseException]) -> None:
    class Told:
        def __del__(self) -> None:
            signal.raise_signal(number)
            time.sleep(0)

    def told() -> None:
        Told()
        time.sleep(20)

    with pytest.raises(error), endings.ended_by_signals():
        told()


def test_a_program_ends_with_its_status_and_all_that_it_said_whatever_its_threads_do() -> None:
    code = (
        "import atexit, sys, threading, time\n"
        "from ugaf import cli\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "atexit.register(print, 'the end')\n"
        "sys.argv[1:] = ['status', 'nowhere']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert done.stdout == "the end\n"
    assert "nowhere" in done.stderr
