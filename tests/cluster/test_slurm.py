"""The batch files of Slurm, run with a `srun` and a `scontrol` of one machine: the nodes of Ray are real."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from places import ROOT

from ugaf.columns.view import RunView

CLUSTERS = ROOT / "clusters"
JOB = str(os.getpid())

SRUN = """#!/usr/bin/env bash
echo "$*" >> "$ASKED/srun"
while [[ ${1:-} == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$ASKED/scontrol"
[ "$1" = show ] && printf 'node1\\nnode2\\n'
exit 0
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "RAY", "PYTHON"))}
    return {
        **environment,
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), environment["PATH"]]),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
        "ASKED": str(tmp_path),
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "4",
        "SLURM_ARRAY_TASK_MIN": "3",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }


def started(name: str, *arguments: str, environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(CLUSTERS / name), *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Whatever a test that failed has left of its nodes is no other test's."""
    yield
    for process in psutil.process_iter(["cmdline"]):
        if f"/ray-{JOB}-" in " ".join(process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def left_over(session: str) -> list[str]:
    """Processes that name this session of Ray, or none."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if session in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line[:200])
    return found


def fake_python(environment: dict[str, str], status: int, folder: Path) -> dict[str, str]:
    """With a `python` that notes its arguments and ends so; the first argument -c is for the real one."""
    path = folder / "tools" / "python"
    path.write_text(
        f'#!/usr/bin/env bash\necho "$*" >> "$ASKED/python"\n[ -z "$WAITS" ] || exec sleep "$WAITS"\nexit {status}\n'
    )
    path.chmod(0o755)
    return {"WAITS": "", **environment}


@pytest.mark.timeout(600)
@pytest.mark.own_ray
def test_a_job_starts_its_nodes_runs_over_both_and_leaves_nothing(slurm: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = started(
        "slurm.sbatch", "--input", "sample://coffee", "--output", str(output), "--until", "curation.resolution",
        "--no-export", environment=slurm, folder=tmp_path,
    )  # fmt: skip
    said, _ = process.communicate(timeout=350)
    assert process.returncode == 0, said
    funnel = {stage.name: stage.kept for stage in RunView(str(output)).funnel()}
    assert funnel["curation.resolution"] == 1
    # `python -m ugaf.run` stands there as it would be typed.
    assert "  ugaf run --address " in (output / "log.txt").read_text()
    asked = sorted((tmp_path / "srun").read_text().splitlines(), key=lambda line: "--exclude" in line)
    assert len(asked) == 2
    assert "--nodelist=node1" in asked[0]
    assert "ray start --head" in asked[0]
    assert "--exclude=node1" in asked[1]
    assert "requeue" not in (tmp_path / "scontrol").read_text()
    assert left_over(f"/ray-{JOB}-") == []
    assert not Path(f"/tmp/ray-{JOB}-0").exists()


@pytest.mark.timeout(600)
@pytest.mark.own_ray
def test_before_its_time_is_up_a_job_ends_the_run_and_asks_for_another_turn(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "slow.yaml").write_text(
        "name: slow\ninputs: [sample://coffee]\nstages:\n  - engine_stages:Mean: {sleep: 200.0}\n"
    )
    output = tmp_path / "run"
    slurm["SLURM_RESTART_COUNT"] = "1"
    process = started("slurm.sbatch", "slow.yaml", "--output", str(output), environment=slurm, folder=tmp_path)
    log = output / "log.txt"
    limit = time.monotonic() + 330
    while not (log.exists() and "ingest done" in log.read_text()):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < limit
        time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "stopped (limit): in the queue again" in said
    assert "exit code 75" in log.read_text().splitlines()[-1]
    assert (tmp_path / "scontrol").read_text().splitlines()[-1] == f"requeue {JOB}"
    assert left_over(f"/ray-{JOB}-") == []


def array(environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    (folder / "inputs.txt").write_text("# inputs\na\nb\n\nc c\nd\n")
    return started("slurm-array.sbatch", "inputs.txt", "/parts", "curate", environment=environment, folder=folder)


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"), [(0, 0, False), (75, 0, True), (75, 50, False), (2, 0, False), (3, 0, False)]
)
def test_a_part_is_every_nth_line_and_is_tried_again_for_75_alone(
    slurm: dict[str, str], tmp_path: Path, status: int, restarts: int, requeued: bool
) -> None:
    process = array(fake_python({**slurm, "SLURM_RESTART_COUNT": str(restarts)}, status, tmp_path), tmp_path)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert (tmp_path / "python").read_text().startswith("-m ugaf.run curate --input b --input d --output /parts/0004 ")
    asked = tmp_path / "scontrol"
    assert (asked.exists() and asked.read_text() == "requeue 77_4\n") == requeued


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_part_that_is_cancelled_stays_away(
    slurm: dict[str, str], tmp_path: Path, number: signal.Signals, requeued: bool
) -> None:
    process = array(fake_python({**slurm, "WAITS": "60"}, 0, tmp_path), tmp_path)
    limit = time.monotonic() + 30
    while not (tmp_path / "python").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert (tmp_path / "scontrol").exists() == requeued


def test_no_file_ends_the_ray_of_somebody_else() -> None:
    for file in (CLUSTERS / "slurm.sbatch", CLUSTERS / "slurm-array.sbatch", CLUSTERS / "again.sh"):
        done = subprocess.run(["bash", "-n", str(file)], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        code = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert not [line for line in code if "ray stop" in line or "pkill" in line or "killall" in line]
