"""Whether GPUs that are paid for are at work, on GPUs that are not there.

    python benchmarks/fake_gpus.py [--gpus 8] [--scale 100] [--photographs 100] [--folder DIR]

A Ray of its own that says it has so many GPUs runs a pipeline in the shape of `fineedit`: stages that sleep for the
published seconds of its models, divided by `--scale`. Servers are stood in for by workers with a GPU (two for the
writer). Prints the plan, hours that were planned and measured (both without the start of processes, scaled back), the
share of its GPUs' time in which each pool was at work between its first row and its last, the editors' together between
the first edit and the last, and when the first pair had its score.

Sleeping takes no CPU, but the engine does: with few CPUs take fewer GPUs or a smaller `--scale`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from ugaf import stage  # noqa: E402
from ugaf.base.needs import Needs  # noqa: E402

LANES = {"qwen": (0.6, 27.1), "kontext": (0.4, 12.0)}
"""Share of the edits, and seconds each (docs/costs.md)."""


class Sleeping(stage.Settings):
    """seconds: of a row. trace: a folder, into which every worker writes when it was at work."""

    seconds: float = 0.0
    trace: str = ""


class _Sleeps(stage.Stage):
    """Sleeps, and notes from when to when."""

    version = 1
    of_gpu: ClassVar[float] = 1.0
    settings: Sleeping

    class Settings(Sleeping):
        pass

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:  # noqa: ARG003
        return Needs(own_pool=True, cpus=0.01, gpus=cls.of_gpu, batch_rows=1)

    def rest(self, seconds: float) -> None:
        began = time.time()
        time.sleep(seconds)
        name = f"{type(self).__name__}{f'[{self.lane}]' if self.lane else ''}"
        with open(f"{self.settings.trace}/{name}.{os.getpid()}", "a", encoding="utf-8") as file:
            file.write(json.dumps([began, time.time()]) + "\n")


class Detect(_Sleeps):
    of_gpu = 0.25
    reads = ("width",)
    writes: ClassVar = {"found": stage.Column(float)}

    def process(self, row: stage.Row) -> Mapping[str, Any]:  # noqa: ARG002
        self.rest(self.settings.seconds)
        return {"found": 1.0}


class Write(_Sleeps):
    """Four edits of each photograph; which editor makes them is a matter of their number."""

    of_gpu = 2.0
    reads = ("found",)
    writes: ClassVar = {"number": stage.Column(int), "engine": stage.Column(str)}
    identity = ("number",)

    class Settings(Sleeping):
        engines: dict[str, float] = {lane: share for lane, (share, _) in LANES.items()}  # noqa: RUF012

    def process(self, row: stage.Row) -> Sequence[Mapping[str, Any]]:
        self.rest(self.settings.seconds)
        first = int(row.id[:6], 16)
        return [{"number": n, "engine": "qwen" if (first + 7 * n) % 10 < 6 else "kontext"} for n in range(4)]


class Screen(_Sleeps):
    reads = ("number",)
    writes: ClassVar = {"sensible": stage.Column(float)}

    def process(self, row: stage.Row) -> Mapping[str, Any]:  # noqa: ARG002
        self.rest(self.settings.seconds)
        return {"sensible": 1.0}


class Edit(_Sleeps):
    reads = ("sensible", "engine")
    writes: ClassVar = {"edited": stage.Column(float)}
    lane_column = "engine"

    class Settings(Sleeping):
        scale: float = 1.0

    @classmethod
    def lanes(cls, settings: Any) -> tuple[str, ...]:  # noqa: ARG003
        return tuple(LANES)

    def process(self, row: stage.Row) -> Mapping[str, Any]:
        self.rest(LANES[row["engine"]][1] / self.settings.scale)
        return {"edited": 1.0}


class Verify(_Sleeps):
    reads = ("edited",)
    writes: ClassVar = {"right": stage.Column(float)}

    def process(self, row: stage.Row) -> Mapping[str, Any]:  # noqa: ARG002
        self.rest(self.settings.seconds)
        return {"right": 1.0}


class Score(_Sleeps):
    reads = ("right",)
    writes: ClassVar = {"quality": stage.Column(float)}

    def process(self, row: stage.Row) -> Mapping[str, Any]:  # noqa: ARG002
        self.rest(self.settings.seconds)
        return {"quality": 1.0}


SECONDS = {"Detect": 0.1, "Write": 2.875, "Screen": 0.7225, "Verify": 1.471, "Score": 1.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--scale", type=float, default=100.0, help="the published seconds are divided by this")
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--streaming", default="auto", choices=["auto", "true", "false"])
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ugaf-gpus-", dir=options.folder) as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    import ray
    from engine_tools import make_photos

    from ugaf.engine import costs, layout, plan, runner
    from ugaf.pipeline import config

    make_photos(folder / "photos", options.photographs)
    (folder / "trace").mkdir()
    trace = str(folder / "trace")
    stages = [
        {f"fake_gpus:{name}": {"trace": trace, "seconds": SECONDS.get(name, 0.0) / options.scale}}
        for name in ("Detect", "Write", "Screen", "Edit", "Verify", "Score")
    ]
    stages[3]["fake_gpus:Edit"] = {"trace": trace, "scale": options.scale}
    streaming = {"auto": "auto", "true": True, "false": False}[options.streaming]
    checked = config.parse(
        {
            "name": "fake",
            "inputs": [str(folder / "photos")],
            "output": str(folder / "run"),
            "engine": {"workers": 1, "streaming": streaming, "flush_s": 1},
            "stages": stages,
        }
    )
    known = costs.Known({}, {}, {}, {"ingest": options.photographs})
    usual = costs.cost_of

    def cost_of(pipeline: Any, name: str, lane: str | None = None, rates: Any = None) -> costs.Cost:
        """What a run knows after its first rows, or from the published figures of its models."""
        seconds = LANES[lane][1] if lane is not None else SECONDS.get(name.removeprefix("fake_gpus:"))
        if seconds is None:
            return usual(pipeline, name, lane, rates)
        return costs.Cost(seconds / options.scale, "published", "docs/costs.md")

    costs.cost_of = cost_of
    layout.TABLE["start_s"] = costs.TABLE["start_s"] / options.scale
    layout.TABLE["kept"]["other"] = layout.TABLE["kept"]["ingest"] = 1.0
    machine = plan.Machine(max(4, os.cpu_count() or 1), options.gpus, 4, options.gpus)
    parts = layout.waves(checked, plan.segments(checked), machine, known)
    layouts = layout.check(checked, parts, machine, known)
    for found in layouts:
        print(", ".join(f"{pool.group.name.replace('fake_gpus:', '')} x {pool.workers}" for pool in found.pools))
    planned = sum(found.seconds for found in layouts)
    start_ray(options.gpus)
    began = time.time()
    runner.run(checked, runner.RunOptions(), lambda _: None, print)
    ended = time.time()
    ray.shutdown()
    told(Path(trace), planned, began, ended, options)


def start_ray(gpus: int) -> None:
    """Once more where the machine is too busy for Ray's own patience."""
    import ray

    os.environ.setdefault("RAY_enable_worker_prestart", "0")
    resources: dict[str, Any] = {"num_gpus": gpus, "num_cpus": max(4, os.cpu_count() or 1)}
    for tries in range(3):
        try:
            ray.init("local", include_dashboard=False, log_to_driver=False, object_store_memory=160 << 20, **resources)
            return
        except Exception:
            ray.shutdown()
            if tries == 2:
                raise


def told(trace: Path, planned: float, began: float, ended: float, options: argparse.Namespace) -> None:
    spans: dict[str, list[tuple[float, float]]] = {}
    pids: dict[str, set[str]] = {}
    for path in trace.iterdir():
        name, _, pid = path.name.rpartition(".")
        spans.setdefault(name, []).extend(tuple(json.loads(line)) for line in path.read_text().splitlines())
        pids.setdefault(name, set()).add(pid)
    scale = options.scale
    for name, some in sorted(spans.items(), key=lambda item: min(item[1])):
        first, last = min(a for a, _ in some), max(b for _, b in some)
        busy = sum(b - a for a, b in some) / (len(pids[name]) * (last - first))
        print(
            f"{name:15s} {len(pids[name]):3d} workers, {len(some):6d} rows, busy {busy:4.0%} of {last - first:6.1f} s"
        )
    edits = [span for name, some in spans.items() if name.startswith("Edit") for span in some]
    first, last = min(a for a, _ in edits), max(b for _, b in edits)
    workers = sum(len(pids[name]) for name in pids if name.startswith("Edit"))
    busy = sum(b - a for a, b in edits) / (workers * (last - first))
    print(f"editors together: busy {busy:.0%} between the first edit and the last")
    at_work = sum(max(b for _, b in s) - min(a for a, _ in s) for s in waves_of(spans))
    print(f"planned {planned * scale / 3600:.2f} h, measured {at_work * scale / 3600:.2f} h at work", end="; ")
    print(f"{ended - began:.0f} s with the start of {sum(map(len, pids.values()))} processes")
    print(f"first scored pair after {(min(b for _, b in spans['Score']) - began):.1f} s of {ended - began:.1f} s")


def waves_of(spans: Mapping[str, list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    """Spans of pools that were at work at the same time, together."""
    found: list[list[tuple[float, float]]] = []
    for some in sorted(spans.values(), key=min):
        if found and min(some)[0] < max(b for _, b in found[-1]):
            found[-1] += some
        else:
            found.append(list(some))
    return found


if __name__ == "__main__":
    # Stages are found by the name of their module.
    import fake_gpus

    fake_gpus.main()
