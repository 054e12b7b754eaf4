"""The engine on Ray Data, and what happens when its processes are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from engine_stages import executions
from engine_tools import counts, go, make_photos, pipeline, table
from places import PATHS

from ugaf.columns.view import RunView
from ugaf.engine import plan_watch

MEAN, DOUBLE, HALVES, FLIP = (f"engine_stages:{name}" for name in ("Mean", "Double", "Halves", "Flip"))
FRAGMENT = 50


def write_pipeline(folder: Path, stages: list, inputs: Path, executor: str = "ray") -> Path:
    path = folder / "pipeline.yaml"
    document = {"name": "killed", "inputs": [str(inputs)], "output": str(folder / "run"), "fragment_rows": FRAGMENT}
    path.write_text(yaml.safe_dump({**document, "engine": {"executor": executor, "workers": 1}, "stages": stages}))
    return path


def start(pipeline_file: Path, own_ray: bool = False) -> subprocess.Popen[bytes]:
    """The driver as a user starts it, in a session of its own: on the Ray of the tests, or on one that it starts."""
    path = os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])
    address = {} if own_ray else {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen(
        [sys.executable, "-m", "ugaf.run", str(pipeline_file), "--no-export"],
        env={**os.environ, "PYTHONPATH": path, **address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_until(condition, process: subprocess.Popen[bytes], seconds: float = 300) -> bool:
    """True once the condition holds, False if the process ended before."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the run made no progress: {process.communicate()[0].decode()}")


@pytest.mark.ray
def test_streams_through_pools_of_their_own(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 30)
    stages = [MEAN, {DOUBLE: {"resources": {"cpus": 0.3}}}, HALVES, {FLIP: {"resources": {"cpus": 0.3, "workers": 1}}}]
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, list(context.custom_execution_callback_classes)
    on_ray = go(pipeline(tmp_path / "photos", tmp_path / "ray", stages, engine={"executor": "ray"}))
    # Another data set of this process is read as before.
    assert (context.target_max_block_size, list(context.custom_execution_callback_classes)) == before
    inline = go(pipeline(tmp_path / "photos", tmp_path / "inline", stages))
    columns = ["mean", "double", "side", "half_mean", "donor", "edited_image", "draw"]
    assert table(on_ray, "edit", columns) == table(inline, "edit", columns)
    assert counts(on_ray)[FLIP].kept == 60


@pytest.mark.timeout(600)
@pytest.mark.ray
@pytest.mark.parametrize(
    ("executor", "photos", "kills"), [("ray", 800, 3), ("inline", 1000, 10)], ids=["three on ray", "ten inline"]
)
def test_kills_of_the_driver_lose_and_double_nothing(executor: str, photos: int, kills: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    make_photos(tmp_path / "photos", photos)
    stages = [{MEAN: {"trace": str(trace), "sleep": 0.01}}, {DOUBLE: {"trace": str(trace)}}]
    pipeline_file = write_pipeline(tmp_path, stages, tmp_path / "photos", executor)
    chance = random.Random(7)
    for number in range(kills):
        # The first with a Ray of its own, which its end leaves behind, the others on one that stays.
        process = start(pipeline_file, own_ray=not number)
        goal = len(executions(trace, "mean")) + chance.randrange(1, photos // (kills + 1))
        assert wait_until(lambda goal=goal: len(executions(trace, "mean")) >= goal, process), "it ended before its kill"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(pipeline_file)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output.decode()
    view = RunView(str(tmp_path / "run"))
    result = counts(view)
    assert (result["ingest"].given, result[MEAN].kept, result[DOUBLE].kept) == (photos, photos, photos)
    assert len(table(view, "image", ["double"])) == photos
    # A kill costs at most the fragment that each of the workers had in hand (one on each core).
    done_again = len(executions(trace, "mean")) - photos
    assert done_again <= kills * (os.cpu_count() or 1) * FRAGMENT
    verdicts = Counter(row["status"] for row in table(view, "image", []).values())
    assert verdicts == {"kept": photos}


@pytest.mark.timeout(600)
@pytest.mark.ray
def test_a_killed_worker_is_replaced_and_the_run_ends_by_itself(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    make_photos(tmp_path / "photos", 400)
    stages = [{MEAN: {"trace": str(trace), "sleep": 0.01}}]
    process = start(write_pipeline(tmp_path, stages, tmp_path / "photos"))
    assert wait_until(lambda: len(executions(trace, "mean")) > 60, process)
    workers = [p for p in psutil.Process().children(recursive=True) if "MapWorker" in " ".join(p.cmdline())]
    assert workers
    os.kill(workers[0].pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output.decode()
    result = counts(RunView(str(tmp_path / "run")))
    assert (result[MEAN].kept, result[MEAN].failed) == (400, 0)


@pytest.mark.timeout(600)
@pytest.mark.ray
def test_a_row_that_aborts_its_process_ends_as_one_failed_row(tmp_path: Path) -> None:
    import hashlib

    trace = tmp_path / "trace"
    trace.mkdir()
    photos = make_photos(tmp_path / "photos", 120)
    killer = hashlib.sha256(photos[70].read_bytes()).hexdigest()[:32]
    stages = [{MEAN: {"trace": str(trace), "abort_id": killer}}, DOUBLE]
    process = start(write_pipeline(tmp_path, stages, tmp_path / "photos"))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output.decode()
    view = RunView(str(tmp_path / "run"))
    result = counts(view)
    assert (result[MEAN].kept, result[MEAN].failed, result[DOUBLE].kept) == (119, 1, 119)
    row = table(view, "image", [])[killer]
    assert row["status"] == "failed"
    assert row["reason"].startswith("WorkerDied: ")
    assert executions(trace, "mean").count(killer) <= 4


@pytest.mark.ray
def test_a_plan_that_is_given_up_is_followed_by_one_that_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch ends plans when some rows are done; nothing is lost, and what was committed is not done again."""
    trace = tmp_path / "trace"
    trace.mkdir()
    make_photos(tmp_path / "photos", 20)
    own = {"workers": 1, "cpus": 0.3}
    stages = [{MEAN: {"resources": own, "sleep": 0.1, "trace": str(trace)}}, {DOUBLE: {"resources": own}}]
    ended = list[int]()

    def look(*_: object) -> None:
        done = len(executions(trace, "mean"))
        if len(ended) < 2 and done >= 5 * (len(ended) + 1):
            ended.append(done)
            raise plan_watch.Replan("the test ends it")

    monkeypatch.setattr(plan_watch.PlanWatch, "look", look)
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages, engine={"executor": "ray", "workers": 1}))
    assert len(ended) == 2
    assert (counts(view)[MEAN].kept, counts(view)[DOUBLE].kept, counts(view)[DOUBLE].pending) == (20, 20, 0)
    # Once more at most: the unit that was in hand when the plan ended.
    again = Counter(executions(trace, "mean"))
    assert len(again) == 20
    assert sum(again.values()) <= 20 + 2 * 4


@pytest.mark.ray
def test_a_worker_that_grows_is_renewed_and_no_row_fails_for_it(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 8)
    stages = [{"engine_stages:Hoarder": {"resources": {"workers": 1, "cpus": 0.3, "batch_rows": 1}}}]
    engine = {"executor": "ray", "workers": 1, "worker_mb": 500}
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages, engine=engine))
    assert counts(view)["engine_stages:Hoarder"].kept == 8
    rows = Counter(row["process"] for row in table(view, "image", ["process"]).values())
    # 8 rows take 800 MB; a process begins with some 230.
    assert len(rows) >= 2


def test_a_plan_that_does_not_fit_says_what_is_missing(tmp_path: Path) -> None:
    from ugaf.engine.costs import Known, loads
    from ugaf.engine.layout import laid_out
    from ugaf.engine.plan import FitError, Machine, segments

    make_photos(tmp_path / "photos", 1)

    def plan(resources: dict, machine: Machine):
        checked = pipeline(tmp_path / "photos", tmp_path / "run", [{MEAN: {"resources": resources}}])
        groups = segments(checked)[0]
        return laid_out(checked, groups, [], machine, loads(checked, groups, Known(), {})).pools

    laptop = Machine(2, 0, 2, 0)
    with pytest.raises(FitError, match="Mean: each worker needs 1 CPUs and 1 GPUs on one node"):
        plan({"gpus": 1}, laptop)
    with pytest.raises(FitError, match="leave no CPU of 2 for the rest"):
        plan({"cpus": 1, "workers": 2}, laptop)
    with pytest.raises(FitError, match="need 16 GPUs, and there are 8"):
        plan({"gpus": 1, "workers": 16, "cpus": 0.1}, Machine(64, 8, 64, 8))
    pools = plan({"gpus": 1}, Machine(64, 8, 32, 4))
    assert [pool.workers for pool in pools if pool.gpus] == [8]
    assert sum(pool.workers * pool.cpus for pool in plan({}, laptop)) < 2
