"""What the engine does for stages that use models: lanes, waiting, stops, servers, fingerprints and the plan."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_stages import executions
from engine_tools import counts, go, make_photos, pipeline, table
from hypothesis import given
from hypothesis import strategies as st
from places import PATHS, SUPPORT

from ugaf import cli
from ugaf.base.errors import ConfigError, StopRun
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.engine.allotment import packs
from ugaf.engine.costs import Known, loads
from ugaf.engine.layout import laid_out
from ugaf.engine.plan import FitError, Machine, segments, servers_during, size_pools
from ugaf.engine.running_servers import RunningServers
from ugaf.engine.turns import Turns
from ugaf.pipeline import config
from ugaf.stage import engines

ASSIGN, LANES, WAITS, STOPS = (f"model_stages:{name}" for name in ("Assign", "Lanes", "Waits", "Stops"))
DETECT = "annotation.detect"
ON_RAY = {"executor": "ray", "workers": 1}
EXECUTORS = ["inline", pytest.param("ray", marks=pytest.mark.ray)]
SERVED = {"detector": {"engine": "model_stages:ServedEngine", "server": "eyes"}}
EYES = {"model": "org/eyes", "endpoints": ["http://127.0.0.1:9/v1"]}


def built(stages: list[Any], **top: Any) -> config.Pipeline:
    return pipeline([{"path": "sample://"}], "runs/none", stages, **top)


def fingerprint(stages: list[Any], name: str, **top: Any) -> str:
    return built(stages, **top).stage(name).fingerprint


# Lanes


@pytest.mark.parametrize(
    ("executor", "killed"), [("inline", None), pytest.param("ray", 4, marks=pytest.mark.ray)], ids=["inline", "killed"]
)
def test_each_lane_does_its_own_rows_and_one_that_kills_it_costs_no_other(
    tmp_path: Path, executor: str, killed: int | None
) -> None:
    photos = make_photos(tmp_path / "photos", 23)
    victim = "" if killed is None else hashlib.sha256(photos[killed].read_bytes()).hexdigest()[:32]
    trace = tmp_path / "trace"
    trace.mkdir()
    stages = [ASSIGN, {LANES: {"trace": str(trace), "abort_id": victim}}]
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages, engine={"executor": executor, "workers": 1}))
    rows = table(view, "image", ["engine", "done_by", "process"])
    assert {key for key, row in rows.items() if row["status"] == "failed"} == {victim} - {""}
    done = {key: row for key, row in rows.items() if key != victim}
    assert len(done) == (23 if killed is None else 22)
    assert all(row["done_by"] == row["engine"] for row in done.values())
    assert len({row["engine"] for row in done.values()}) == 2
    by_lane = {lane: {row["process"] for row in done.values() if row["done_by"] == lane} for lane in "ab"}
    assert executor == "inline" or not by_lane["a"] & by_lane["b"]
    tried = Counter(executions(trace, "lanes"))
    assert set(tried) == set(rows)
    assert victim or set(tried.values()) == {1}


def test_a_row_that_names_no_lane_is_answered_for_by_the_first(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 24)
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", [{ASSIGN: {"names": ["a", "unknown", "b"]}}, LANES]))
    stage = counts(view)[LANES]
    lost = [r for r in table(view, "image", ["engine"]).values() if r["engine"] == "unknown"]
    assert stage.failed == len(lost) > 0
    assert stage.kept + stage.failed == 24
    assert stage.pending == 0


def test_an_editor_that_nobody_runs_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"gives edits to 'bb', which is not .*Lanes; did you mean 'b'"):
        built([{ASSIGN: {"names": ["a", "bb"]}}, LANES])
    with pytest.raises(ConfigError, match="column 'engine', which no stage before it writes"):
        built([LANES])
    with pytest.raises(ConfigError, match="no editor 'c'"):
        built([ASSIGN, {LANES: {"resources": {"workers": {"c": 2}}}}])


def test_workers_are_given_by_lane() -> None:
    checked = built([ASSIGN, {LANES: {"resources": {"gpus": 1, "workers": {"b": 3}}}}])
    groups = segments(checked)[0]
    pools = laid_out(checked, groups, [], Machine(32, 8, 32, 8), loads(checked, groups, Known(), {})).pools
    assert {p.group.lane: p.workers for p in pools if p.group.lane} == {"a": 5, "b": 3}


# Waiting for servers


@pytest.mark.ray
def test_a_worker_that_waits_takes_several_fragments_at_once(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 30)
    stages = [{WAITS: {"meet": 3}}]
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages, engine=ON_RAY))
    together = [row["together"] for row in table(view, "image", ["together"]).values()]
    assert len(together) == 30
    assert max(together) == 3


@pytest.mark.ray
def test_a_killer_among_rows_that_wait_together_is_found_and_costs_no_other(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 14)
    victim = hashlib.sha256(photos[9].read_bytes()).hexdigest()[:32]
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", [{WAITS: {"abort_id": victim}}], engine=ON_RAY))
    assert (counts(view)[WAITS].kept, counts(view)[WAITS].failed) == (13, 1)
    assert counts(view)[WAITS].errors == {"WorkerDied": 1}


def test_alone_means_that_nobody_shares() -> None:
    turns, inside, seen = Turns(), [], []

    def share(number: int) -> None:
        for _ in range(200):
            with turns.shared():
                inside.append(number)
                inside.remove(number)

    def alone() -> None:
        for _ in range(100):
            with turns.alone():
                seen.append(len(inside))

    threads = [threading.Thread(target=share, args=(n,)) for n in range(3)] + [threading.Thread(target=alone)]
    threads += [threading.Thread(target=alone)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [0] * 200


# A fault that is no row's


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_stop_leaves_its_rows_pending_and_the_run_goes_on_later(tmp_path: Path, executor: str) -> None:
    make_photos(tmp_path / "photos", 12)
    trace = tmp_path / "trace"
    trace.mkdir()
    stages = [{STOPS: {"folder": str(trace)}}]
    checked = pipeline(
        tmp_path / "photos", tmp_path / "run", stages, engine={"executor": executor, "workers": 1, "flush_s": 0}
    )
    with pytest.raises(StopRun, match="the server is gone"):
        go(checked)
    stage = counts(RunView(checked.output, checked))[STOPS]
    assert stage.failed == 0
    assert stage.kept >= 1
    assert stage.kept + stage.pending == stage.given
    (trace / "back").touch()
    assert counts(go(checked))[STOPS].kept == 12


def test_a_stop_is_not_taken_for_a_row_s_error() -> None:
    from ugaf.engine.outcomes import call
    from ugaf.stage import Row, Stage

    class Gone(Stage):
        def process(self, row: Row) -> Any:  # noqa: ARG002
            raise StopRun("gone")

    for rows in ([Row("1", {})], [Row("1", {}), Row("2", {})]):
        with pytest.raises(StopRun, match="gone"):
            call(Gone("gone"), rows)


# Servers that the pipeline starts

FAKE = [sys.executable, str(SUPPORT / "fake_model_server.py"), "--host", "{host}", "--port", "{port}"]


def served(folder: Path, executor: str, *options: str, **entry: Any) -> config.Pipeline:
    server = {"model": "fake", "serve": "command", "command": [*FAKE, *options], "gpus": 0, "cpus": 0.1, **entry}
    engine = {"executor": executor, "workers": 1, "flush_s": 0}
    return pipeline(folder / "photos", folder / "run", ["model_stages:Asks"], models={"echo": server}, engine=engine)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_server_that_dies_in_the_middle_comes_back_and_the_run_ends_complete(tmp_path: Path, executor: str) -> None:
    """It ends itself after every 15 answers, so that it dies twice within 40 rows."""
    make_photos(tmp_path / "photos", 40)
    lines: list[str] = []
    checked = served(tmp_path, executor, "--die-after", "15", in_flight=4, restarts=5)
    runner.run(checked, runner.RunOptions(), lambda _: None, lines.append)
    view = RunView(checked.output, checked)
    rows = table(view, "image", ["echo"])
    assert counts(view)["model_stages:Asks"].kept == 40
    assert all(row["echo"] == f"echo: {key}" for key, row in rows.items())
    assert any("echo" in line for line in lines)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_server_that_cannot_start_fails_the_run_at_once_with_the_end_of_its_log(
    tmp_path: Path, executor: str
) -> None:
    make_photos(tmp_path / "photos", 3)
    checked = served(tmp_path, executor, "--fail-at-start", "no such checkpoint: weights.bin")
    with pytest.raises(StopRun, match=r"(?s)models\.echo.*no such checkpoint: weights\.bin"):
        go(checked)
    stage = counts(RunView(checked.output, checked))["model_stages:Asks"]
    assert (stage.failed, stage.kept, stage.pending) == (0, 0, 3 if stage.given else 0)


def test_servers_that_were_started_together_stop_one_by_one() -> None:
    fake = {"model": "fake", "serve": "command", "command": FAKE, "gpus": 0}
    checked = built(["curation.resolution"], models={"one": fake, "two": fake})

    def answers(url: str) -> bool:
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    with RunningServers(checked, False, lambda _: None) as servers:
        links = servers.need(["one", "two"], on_ray=False)
        urls = {name: link.urls[0] for name, link in links.items()}
        assert all(answers(url) for url in urls.values())
        assert servers.need(["two"], on_ray=False)["two"] is links["two"]
        servers.keep_only(["two"])
        assert servers.names == ["two"]
        assert (answers(urls["one"]), answers(urls["two"])) == (False, True)
    assert not answers(urls["two"])


def test_a_server_stays_while_it_is_needed_and_makes_room_for_the_next_model() -> None:
    detect, gpu = {DETECT: SERVED}, {"resources": {"gpus": 1}}
    stages = [detect, "annotation.instruct", {"generation.edit": gpu}, {"model_stages:Asks": {}}]
    models = {"eyes": {"model": "m", "serve": "vllm"}, "echo": {"model": "m", "serve": "vllm"}}
    apart = segments(built(stages, models=models, engine={"streaming": False}))
    running = [servers_during(apart, number, False) for number in range(len(apart))]
    users = [[name for group in part for name in group.stages if group.spec] for part in apart]
    assert [r for r, u in zip(running, users, strict=True) if u] == [["eyes"], [], ["echo"]]
    quantile = {"n_objects": {"min_quantile": 0.1}}
    together = segments(built([{DETECT: {**SERVED, "keep": quantile}}, *stages[1:]], models=models))
    assert [servers_during(together, number, True) for number in range(2)] == [["eyes"], ["echo"]]


# Fingerprints


def test_a_fingerprint_knows_the_model_and_the_prompts_but_not_how_they_are_run() -> None:
    def of(options: dict[str, Any], eyes: dict[str, Any] = EYES) -> str:
        detector = {"engine": "model_stages:ServedEngine", "server": "eyes", **options}
        return fingerprint([{DETECT: {"detector": detector}}], DETECT, models={"eyes": eyes})

    same = of({})
    moved = {"endpoints": ["http://10.0.0.1:9/v1"], "in_flight": 3, "timeout_s": 5}
    assert of({}, {**EYES, **moved}) == same
    assert of({}, {"model": "org/eyes", "serve": "vllm", "replicas": 4}) == same
    assert of({}, {**EYES, "model": "org/ears"}) != same
    assert of({}, {**EYES, "revision": "abc"}) != same
    assert of({"size": 2}) != same

    def local(**options: Any) -> str:
        return fingerprint([{DETECT: {"detector": {"engine": "model_stages:FakeEngine", **options}}}], DETECT)

    assert local(device="cpu") == local(device="cuda")
    assert local(prompt="see") != local()
    two = {"first": EYES, "second": EYES}
    by_name = [
        fingerprint(
            [{DETECT: {"detector": {"engine": "model_stages:ServedEngine", "server": name}}}], DETECT, models=two
        )
        for name in two
    ]
    assert by_name[0] == by_name[1]


def test_a_server_that_is_not_there_is_named_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"annotation.detect: server 'eyes' is not among .*did you mean 'eye'"):
        built([{DETECT: SERVED}], models={"eye": EYES})
    with pytest.raises(ConfigError, match=r"pipeline.models.eyes.endpoint: unknown setting; did you mean 'endpoints'"):
        built([{DETECT: SERVED}], models={"eyes": {**EYES, "endpoint": "x"}})
    with pytest.raises(ConfigError, match="looks like a secret"):
        built([{DETECT: SERVED}], models={"eyes": {"model": "m", "serve": "vllm", "env": {"HF_TOKEN": "x"}}})
    with pytest.raises(ConfigError, match="must not hold a password"):
        built([{DETECT: SERVED}], models={"eyes": {**EYES, "endpoints": ["http://me:secret@host/v1"]}})
    with pytest.raises(ConfigError, match="say where it is"):
        built([{DETECT: SERVED}], models={"eyes": {"model": "m"}})


# The plan


def test_without_a_gpu_the_plan_says_what_to_set() -> None:
    checked = built([{DETECT: {"detector": {"engine": "model_stages:FakeEngine"}}}])
    with pytest.raises(FitError, match=r"detect: each worker needs .* --set annotation.detect.detector.device"):
        size_pools(segments(checked)[0], Machine(2, 0, 2, 0), None)


def test_without_streaming_each_model_has_the_gpus_to_itself() -> None:
    stages = [
        {DETECT: {"resources": {"gpus": 1}}},
        "annotation.instruct",
        {"generation.edit": {"resources": {"gpus": 1}}},
    ]
    laptop = Machine(8, 1, 8, 1)
    together = segments(built(stages))
    assert len(together) == 1
    with pytest.raises(FitError, match="need 2 GPUs, and there are 1"):
        size_pools(together[0], laptop, None)
    apart = segments(built(stages, engine={"streaming": False}))
    assert [[g.name for g in groups if g.spec] for groups in apart if any(g.spec for g in groups)] == [
        [DETECT],
        ["generation.edit"],
    ]
    assert [name for groups in apart for g in groups for name in g.stages] == [
        name for groups in together for g in groups for name in g.stages
    ]
    for groups in apart:
        size_pools(groups, laptop, None)


def test_a_missing_library_is_named_with_its_extra_before_any_work(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    stages = ["curation.resolution", {DETECT: {"detector": {"engine": "model_stages:FakeEngine", "device": "cpu"}}}]
    checked = pipeline(tmp_path / "photos", tmp_path / "run", stages)
    with pytest.raises(ConfigError, match=r"that_is_not_there is not installed: pip install '\.\[transformers\]'"):
        go(checked)
    assert not list((tmp_path / "run").glob("curation*"))


def test_plan_shows_models_gpus_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_photos(tmp_path / "photos", 2)
    text = f"""
name: planned
inputs: [{tmp_path / "photos"}]
output: {tmp_path / "run"}
models:
  eyes: {{model: org/eyes, serve: vllm, gpus: 2, args: {{tp: 2}}, replicas: 2, api_key_env: UGAF_NO_SUCH_KEY}}
stages:
  - annotation.detect:
      detector: {{engine: "model_stages:ServedEngine", server: eyes}}
"""
    (tmp_path / "planned.yaml").write_text(text)
    assert cli.main(["plan", str(tmp_path / "planned.yaml")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "annotation.detect model_stages:ServedEngine org/eyes models.eyes" in shown
    assert "models.eyes vllm org/eyes 2 x (1 CPU, 2 GPU)" in shown
    assert "UGAF_NO_SUCH_KEY is not set" in shown
    assert "4 GPUs at least" in shown
    assert not (tmp_path / "run").exists()


# Work that a kill costs


def test_what_a_slow_stage_has_done_is_committed_soon(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 60)
    trace = tmp_path / "trace"
    trace.mkdir()
    slow = {"model_stages:Slow": {"trace": str(trace), "seconds": 0.02}}
    checked = pipeline(
        tmp_path / "photos", tmp_path / "run", [slow], fragment_rows=60, engine={"executor": "inline", "flush_s": 0}
    )
    code = (
        "import sys, yaml; from ugaf.engine import runner; from ugaf.pipeline import config\n"
        "runner.run(config.parse(yaml.safe_load(sys.stdin)), runner.RunOptions(), print, print)"
    )
    path = PATHS
    for kills in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert process.stdin is not None
        process.stdin.write(yaml.safe_dump(checked.document).encode())
        process.stdin.close()
        goal = 10 * (kills + 1)
        while process.poll() is None and len(executions(trace, "slow")) < goal:
            time.sleep(0.01)
        process.kill()
        process.wait()
    done = go(checked)
    assert counts(done)["model_stages:Slow"].kept == 60
    again = Counter(executions(trace, "slow"))
    assert set(again) == set(table(done, "image", ["slow"]))
    # A kill costs at most the call that was in hand.
    assert sum(again.values()) - 60 <= 3 * 2


# The pipelines that ship


@pytest.mark.parametrize("name", ["fineedit", "fineedit-small"])
def test_servers_that_ship_take_as_many_pictures_as_are_sent(name: str) -> None:
    """A hybrid edit sends the photograph and the crops of two boxes; verification and EditScore send a pair."""
    shipped = config.load(name, ["inputs=[sample://]"])
    for spec in shipped.stages:
        for interface, _, chosen in engines.engines_in(spec.settings):
            for server in engines.needs(interface, chosen).servers:
                limit = shipped.settings.models[server].args.get("limit-mm-per-prompt")
                sends = {"writer": 3, "verifier": 2, "scorer": 2}.get(interface, 1)
                assert limit is None or limit["image"] >= sends, (spec.name, server)


@given(st.lists(st.sampled_from([0.25, 0.3, 0.5, 0.6, 1.0, 2.0]), max_size=7), st.integers(0, 4))
def test_workers_that_are_said_to_have_room_have_it(shares: list[float], gpus: int) -> None:
    """Against trying every way to lay the fractions on GPUs."""
    whole = int(sum(share for share in shares if share >= 1))
    parts = [share for share in shares if share < 1]
    free = gpus - whole
    ways = itertools.product(range(max(free, 0)), repeat=len(parts))
    room = free >= 0 and any(
        all(sum(p for p, at in zip(parts, way, strict=True) if at == n) <= 1 + 1e-9 for n in range(free))
        for way in ways
    )
    if packs(Counter(shares), [gpus]):
        assert room
    elif room:
        # First fit may miss a way that exists; it must not do so for the plain cases.
        assert len(set(parts)) > 1
