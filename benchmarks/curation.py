"""The engine's own cost on curation, beside Daft, data-juicer, bare Ray Data and a plain loop.

    python benchmarks/curation.py [--images 5000] [--repeats 2] [--folder DIR]
        [--peers PYTHON] [--trial] [--only one-kernel,shipped,memory,errors]

On two CPUs each, JPEGs of 1024 pixels of which 2 % are broken; images/s in steady state is (2 N - N) / (time for 2 N -
time for N), so that start-up does not count. Every engine is a program of its own (benchmarks/peers), and a ratio is of
two engines in the same repeat; the median of the repeats is shown.

one-kernel: one and the same function in every engine: the engine's own cost, and the start-up.
shipped: our stage with four descriptors, beside the loop that one writes with OpenCV, and beside each engine with the
    function that its user writes with Pillow and numpy (on N / 2: it is slow).
memory: peak of all processes (proportional set size) at N; of ours at 2 N against N / 2, too.
errors: rows that are lost where the function raises for a broken file, and the engine is told to go on.

Daft and data-juicer are in an environment of their own, whose interpreter --peers names; without it they are left out:

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/peers/requirements.txt
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import photographs  # noqa: E402
from benchmarks.peers.engines import SHIPPED, Engine, Ours, Program, Run, peak_memory, start, versions  # noqa: E402
from benchmarks.peers.job import COLUMNS  # noqa: E402
from benchmarks.peers.kernels import KERNELS  # noqa: E402

PARTS = ("one-kernel", "shipped", "memory", "errors")
TRIED = {
    "Daft": ("batches-threads", "rows-threads", "rows-processes", "batches-processes"),
    "Ray Data": ("tasks-100", "tasks-16", "actors-100", "actors-16"),
    "data-juicer": ("batches", "rows"),
}
"""Each peer's forms; the usual one is the first in its program's VARIANTS."""
TARGETS = {"Daft": 0.9, "Ray Data": 1.3, "data-juicer": 1.5, "plain loop": 0.85}
"""Least ratio of ours to each, with one and the same kernel."""


def main() -> None:
    options = _options()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="ugaf-bench-"))
    count = -(-options.images // photographs.SHARD) * photographs.SHARD
    print(f"making {2 * count} JPEGs of {photographs.SIDE} px in {folder}; {os.cpu_count()} cores", flush=True)
    photographs.make(folder / "photos", 2 * count, broken=True, tables=True)

    def program(name: str, module: str, python: str) -> Program:
        return Program(name, module, python, folder / "photos", folder)

    peers = [program("plain loop", "plain_loop", sys.executable), program("Ray Data", "with_ray_data", sys.executable)]
    if options.peers:
        print(versions(options.peers, ("daft", "py-data-juicer", "pyarrow", "pillow")))
        peers += [
            program("Daft", "with_daft", options.peers),
            program("data-juicer", "with_data_juicer", options.peers),
        ]
    bench = Bench(folder, count, Ours(folder / "photos", folder, {"descriptors": list(COLUMNS)}), peers)
    forms = bench.trial() if options.trial else {}
    if "one-kernel" in options.only:
        bench.one_kernel(options.repeats, forms)
    if "shipped" in options.only:
        bench.shipped(options.repeats, forms)
    if "memory" in options.only:
        bench.memory(forms)
    if "errors" in options.only:
        bench.errors()
    if not options.folder:
        shutil.rmtree(folder)


class Bench:
    """The parts, on N = `count` photographs; `forms` are the variants that a trial found best, by peer."""

    def __init__(self, folder: Path, count: int, ours: Engine, peers: Sequence[Engine]) -> None:
        self.photos = folder / "photos"
        self.log = folder / "run.log"
        self.count = count
        self.ours = ours
        self.peers = peers

    def trial(self) -> dict[str, str]:
        """Each peer's fastest form at N, one run of each."""
        best: dict[str, str] = {}
        for peer in self.peers:
            times = {form: self._seconds(peer, Run(self.count, variant=form)) for form in TRIED.get(peer.name, ())}
            if times:
                best[peer.name] = min(times, key=lambda form: times[form])
                print(f"{peer.name}: " + ", ".join(f"{form} {seconds:.1f} s" for form, seconds in times.items()))
        return best

    def one_kernel(self, repeats: int, forms: Mapping[str, str]) -> None:
        """One function in every engine: throughput, start-up, and the rows that came back."""
        engines = [self.ours, *self.peers]
        rates: dict[str, list[float]] = {engine.name: [] for engine in engines}
        starts: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for repeat in range(repeats):
            for engine in engines:
                variant = forms.get(engine.name, "")
                starts[engine.name].append(self._seconds(engine, Run(photographs.SHARD, variant=variant)))
                rates[engine.name].append(self._rate(engine, Run(self.count, variant=variant), repeat))
        print("\none and the same kernel")
        self._table(rates, TARGETS)
        for name, seconds in starts.items():
            target = " (target <= 10)" if name == self.ours.name else ""
            first = f"{statistics.median(seconds):5.1f} s for the first {photographs.SHARD} photographs"
            print(f"  {name:12} {first}{target}, start and end of the process with it", flush=True)

    def shipped(self, repeats: int, forms: Mapping[str, str]) -> None:
        """Our stage against OpenCV's full decode, and against each peer with Pillow and numpy."""
        few = Run(max(self.count // 2 // photographs.SHARD, 1) * photographs.SHARD, "pillow")
        loop = self.peers[0]
        rates: dict[str, list[float]] = {}
        for repeat in range(repeats):
            runs = [(self.ours, Run(self.count, SHIPPED)), (loop, Run(self.count, "opencv"))]
            runs += [(peer, replace(few, variant=forms.get(peer.name, ""))) for peer in self.peers]
            for engine, run in runs:
                name = self.ours.name if engine is self.ours else f"{engine.name}, {run.kernel}"
                rates.setdefault(name, []).append(self._rate(engine, run, repeat))
        print("\nour stage with four descriptors, as it ships")
        self._table(rates, {f"{loop.name}, opencv": 1.5, **{f"{peer.name}, pillow": 3.0 for peer in self.peers[1:]}})
        self._kernels()

    def memory(self, forms: Mapping[str, str]) -> None:
        """Peak memory at N, and how that of ours grows."""
        print("\npeak memory of all processes, proportional set size")
        for engine in [self.ours, *self.peers]:
            peak = peak_memory(engine.command(Run(self.count, variant=forms.get(engine.name, ""))), self.log)
            print(f"  {engine.name:12} {peak / 1e6:6.0f} MB at {self.count}", flush=True)
        peaks = [peak_memory(self.ours.command(Run(count)), self.log) for count in (self.count // 2, 2 * self.count)]
        print(f"  {self.ours.name} at 2 N / at N / 2: {peaks[1] / peaks[0]:.2f} (target <= 1.15)", flush=True)

    def errors(self) -> None:
        """What each engine does with the rows beside a broken one, where the function raises."""
        count = min(self.count, 1000)
        broken = {number for number in range(count) if photographs.way_broken(number)}
        print(f"\nthe function raises, of {count - len(broken)} good photographs and {len(broken)} broken ones:")
        for engine in [self.ours, *self.peers[1:]]:
            for variant in TRIED.get(engine.name, ("",)):
                run = Run(count, variant=variant, raising=True)
                start(engine.command(run), self.log)
                answered = engine.answered(run)
                lost = count - len(broken) - len(answered - broken)
                print(
                    f"  {engine.name:12} {variant:18} {lost:5} good lost, {len(answered & broken):3} broken taken",
                    flush=True,
                )

    def _rate(self, engine: Engine, run: Run, repeat: int) -> float:
        """Images a second in steady state; every good photograph must have got its numbers."""
        short, long = (self._seconds(engine, replace(run, count=count)) for count in (run.count, 2 * run.count))
        rate = run.count / (long - short) if long > short else float("nan")  # too few for a machine so noisy
        form = f", {run.variant}" if run.variant else ""
        times = f"{run.count} in {short:.1f} s, {2 * run.count} in {long:.1f} s"
        print(f"repeat {repeat + 1}: {engine.name}, {run.kernel}{form}: {rate:.0f} images/s ({times})", flush=True)
        return rate

    def _seconds(self, engine: Engine, run: Run) -> float:
        seconds = start(engine.command(run), self.log)
        good = {number for number in range(run.count) if not photographs.way_broken(number)}
        lost = good - engine.answered(run)
        if lost:
            raise SystemExit(f"{engine.name} lost {len(lost)} good photographs of {run}, such as {min(lost)}")
        return seconds

    def _table(self, rates: Mapping[str, Sequence[float]], targets: Mapping[str, float]) -> None:
        ours = rates[self.ours.name]
        for name, values in rates.items():
            ratios = [mine / its for mine, its in zip(ours, values, strict=True)]
            listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            target = f"; target >= {targets[name]}" if name in targets else ""
            print(f"  {name:22} {statistics.median(values):5.0f} images/s", end="" if name != self.ours.name else "\n")
            if name != self.ours.name:
                print(f"; ours / it {statistics.median(ratios):.2f} (of {listed}{target})", flush=True)

    def _kernels(self) -> None:
        """CPU time of each function, here and now."""
        import cv2

        cv2.setNumThreads(1)
        good = [number for number in range(photographs.SHARD) if not photographs.way_broken(number)]
        data = [photographs.file_of(self.photos, number).read_bytes() for number in good]
        for name, kernel in KERNELS.items():
            began = time.process_time()
            for image in data:
                kernel(image)
            milliseconds = (time.process_time() - began) / len(data) * 1000
            print(f"  {name}: {milliseconds:.2f} ms of CPU a photograph", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="N: photographs of the smaller run")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter that has Daft and data-juicer")
    parser.add_argument("--trial", action="store_true", help="first find each peer's fastest form")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="parts, by comma")
    parser.add_argument("--folder", help="where to make the photographs and runs, and leave them")
    options = parser.parse_args()
    unknown = set(options.only) - set(PARTS)
    if unknown:
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    main()
