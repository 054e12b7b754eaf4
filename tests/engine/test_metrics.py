"""What Prometheus reads of a run is what its funnel says."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray.util.metrics
from places import ROOT
from ray_heads import started_head

from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.engine.alike import FailedRow
from ugaf.engine.metrics import RunMetrics
from ugaf.engine.monitor import AT_WORK, KINDS, MOST_KINDS, ONWARD, Monitor
from ugaf.pipeline import config

Told = dict[tuple[str, ...], float]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What counters and gauges of Ray were told, by name and the values of their tags but the run's."""
    values: Told = {}

    class Metric:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            self.info, self._keys = {"name": name}, tag_keys

        def key(self, tags: Mapping[str, str]) -> tuple[str, ...]:
            assert set(tags) == set(self._keys)
            return (self.info["name"], *(tags[key] for key in self._keys if key != "run"))

        def inc(self, value: float, tags: Mapping[str, str]) -> None:
            assert value > 0
            values[self.key(tags)] = values.get(self.key(tags), 0) + value

        def set(self, value: float, tags: Mapping[str, str]) -> None:
            values[self.key(tags)] = value

    monkeypatch.setattr(ray.util.metrics, "Counter", Metric)
    monkeypatch.setattr(ray.util.metrics, "Gauge", Metric)
    return values


def test_totals_become_increments_and_a_monitor_that_began_anew_takes_none_back(told: Told) -> None:
    metrics = RunMetrics("mine", ["ingest", "a"])
    metrics.update({"a": {"kept": 3, "seconds": 1.5, KINDS: {"OSError": 1}}})
    metrics.update({"a": {"kept": 5, "seconds": 2.5, KINDS: {"OSError": 1}}})
    metrics.update({})
    metrics.update({"a": {"kept": 2, "seconds": 0.5}})
    assert told["ugaf_rows", "a", "kept"] == 7
    assert told["ugaf_stage_seconds", "a"] == 3
    assert told["ugaf_failures", "a", "OSError"] == 1


def test_what_waits_is_what_was_there_and_what_the_stage_before_handed_on(told: Told) -> None:
    metrics = RunMetrics("mine", ["ingest", "a", "b"])
    metrics.segment({"ingest": 10, "a": 2})
    metrics.update({"ingest": {"kept": 4, "merged": 1, ONWARD: 4, AT_WORK: 1}, "a": {"kept": 3, ONWARD: 3}})
    assert [told["ugaf_rows_waiting", name] for name in ("ingest", "a", "b")] == [5, 3, 0]
    assert told["ugaf_units_at_work", "ingest"] == 1
    metrics.segment({})
    assert [told["ugaf_rows_waiting", name] for name in ("ingest", "a", "b")] == [0, 0, 0]
    assert told["ugaf_units_at_work", "ingest"] == 0
    # In another segment b waits for what it was given, not for what was handed on before.
    metrics.segment({"b": 5})
    assert told["ugaf_rows_waiting", "b"] == 5


def test_the_monitor_counts_failures_by_kind_and_what_is_in_hand() -> None:
    monitor = Monitor()
    for number in range(MOST_KINDS + 5):
        monitor.progress("a", {"failed": 1}, 0.0, [FailedRow("000000", str(number), f"Error{number}: of its own")])
    kinds = monitor.snapshot()["a"][KINDS]
    assert len(kinds) == MOST_KINDS + 1
    assert kinds["others"] == 5
    monitor.enter("b+c", "000000")
    monitor.enter("b+c", "000001")
    monitor.enter("d[lane]", "000000")
    monitor.leave("b+c", "000000")
    assert monitor.snapshot()["b"] == {AT_WORK: 1}
    assert monitor.snapshot()["d"] == {AT_WORK: 1}


def test_without_ray_there_are_no_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("an inline run has no Ray")

    monkeypatch.setattr(runner, "RunMetrics", never)
    changes = ["inputs=[sample://coffee]", f"output={tmp_path / 'run'}", "engine.executor=inline"]
    pipeline = config.load("curate", changes)
    runner.run(pipeline, runner.RunOptions(last="curation.resolution"), lambda _: None, lambda _: None)


def scraped(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The values of ugaf at Ray's endpoint, by name and the tags that are ugaf's."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    found = {}
    for name, tags, value in re.findall(r"^ray_(ugaf_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        own = [tag for tag in re.findall(r'(\w+)="([^"]*)"', tags) if tag[0] in ("run", "stage", "verdict", "kind")]
        found[name, frozenset(own)] = float(value)
    return found


@pytest.mark.timeout(300)
@pytest.mark.own_ray
def test_the_endpoint_of_ray_has_the_numbers_of_the_funnel(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    (tmp_path / "tiny.yaml").write_text(
        f"name: tiny\ninputs: [sample://coffee, sample://astronaut, sample://rocket, {tmp_path / 'photos'}]\n"
        f"output: {tmp_path / 'run'}\nstages:\n  - curation.resolution: {{keep: {{short_side: {{min: 450}}}}}}\n"
    )
    with started_head(tmp_path, {"PYTHONPATH": str(ROOT)}) as head:
        command = [sys.executable, "-m", "ugaf", "run", "tiny.yaml", "--no-export", "--max-failed", "1",
                   "--address", head.address]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, env=head.environment, capture_output=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        found = scraped(head.metrics)
    funnel = RunView(str(tmp_path / "run")).funnel()
    assert [(stage.kept, stage.rejected.total(), stage.failed) for stage in funnel] == [(3, 0, 1), (1, 2, 0)]
    wanted = {
        ("ugaf_rows_total", frozenset({("run", "tiny"), ("stage", stage.name), ("verdict", verdict)})): count
        for stage in funnel
        for verdict, count in (("kept", stage.kept), ("rejected", stage.rejected.total()), ("failed", stage.failed))
        if count
    }
    assert {key: value for key, value in found.items() if key[0] == "ugaf_rows_total"} == wanted
    (kind,) = funnel[0].errors
    assert found["ugaf_failures_total", frozenset({("run", "tiny"), ("stage", "ingest"), ("kind", kind)})] == 1
    assert found["ugaf_stage_seconds_total", frozenset({("run", "tiny"), ("stage", "ingest")})] > 0
    assert found["ugaf_rows_waiting", frozenset({("run", "tiny"), ("stage", "ingest")})] == 0
