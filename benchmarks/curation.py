"""The engine's own cost, on the curation stages: throughput, memory, start-up.

    python benchmarks/curation.py [--images 5000] [--repeats 3] [--memory] [--folder DIR]

Side by side in one run, on two cores each, the median of the repeats:

(a) the curation stages through the engine, against a plain loop of two processes that does the same work on the files;
(b) the same, against a loop of two processes that only decodes the JPEGs fully (cv2.imdecode);
(c) with --memory: peak memory (proportional set size of all processes) at 4 x the images against 1 x;
(d) start-up: from the start of the process to the first committed rows.

Engine throughput is in steady state: images / (time for 2 N - time for N), so that start-up does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
os.environ["OMP_NUM_THREADS"] = "1"

STAGES = ["curation.resolution", "curation.photometric"]
PROCESSES = 2


def main() -> None:
    options = _options()
    from benchmarks import photographs

    folder = Path(options.folder or tempfile.mkdtemp(prefix="ugaf-bench-"))
    largest = options.images * (4 if options.memory else 2)
    print(f"making {largest} JPEGs of {photographs.SIDE} px in {folder}", flush=True)
    photographs.make(folder / "photos", largest)
    files = sorted((folder / "photos").rglob("*.jpg"))
    print(f"{statistics.mean(f.stat().st_size for f in files[:200]) / 1000:.0f} kB each; {os.cpu_count()} cores")

    runs = {n: _ingest(folder, files, n) for n in (options.images, 2 * options.images)}
    _loops_and_engine(runs, files[: options.images], options.repeats)
    if options.memory:
        runs[4 * options.images] = _ingest(folder, files, 4 * options.images)
        _memory(runs[options.images], runs[4 * options.images], options.repeats)
    if not options.folder:
        shutil.rmtree(folder)


def _loops_and_engine(runs: dict[int, Path], files: Sequence[Path], repeats: int) -> None:
    small, large = sorted(runs)
    engine, loop, decoding, starts = [], [], [], []
    for repeat in range(repeats):
        short, first = _curate(runs[small])
        long, _ = _curate(runs[large])
        engine.append((large - small) / (long - short))
        loop.append(len(files) / _in_processes(_measure, files))
        decoding.append(len(files) / _in_processes(_decode, files))
        starts.append(first)
        print(
            f"repeat {repeat + 1}: engine {engine[-1]:.0f} images/s ({small} in {short:.1f} s, {large} in {long:.1f}), "
            f"plain loop {loop[-1]:.0f}, full decode alone {decoding[-1]:.0f}; first rows {first:.1f} s",
            flush=True,
        )
    _report("(a) engine / plain loop of the same work", [e / p for e, p in zip(engine, loop, strict=True)], ">= 0.85")
    _report("(b) engine / full decode alone", [e / p for e, p in zip(engine, decoding, strict=True)], ">= 1.2")
    _report("(d) start-up until the first rows, s", starts, "<= 10")


def _memory(small: Path, large: Path, repeats: int) -> None:
    ratios = []
    for repeat in range(repeats):
        peaks = [_peak(lambda run=run: _start(run)) for run in (small, large)]
        ratios.append(peaks[1] / peaks[0])
        print(f"repeat {repeat + 1}: peak {peaks[0] / 1e6:.0f} MB at N, {peaks[1] / 1e6:.0f} MB at 4 N", flush=True)
    _report("(c) peak memory at 4 N / at N", ratios, "<= 1.15")


def _report(name: str, values: list[float], target: str) -> None:
    listed = ", ".join(f"{value:.2f}" for value in values)
    print(f"{name}: {statistics.median(values):.2f}  (of {listed}; target {target})", flush=True)


def _ingest(folder: Path, files: Sequence[Path], count: int) -> Path:
    """A run that has taken in the first `count` photographs, ready to be curated. Returns its pipeline file."""
    chosen = folder / f"inputs-{count}"
    if not chosen.exists():
        for file in files[:count]:
            link = chosen / file.parent.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    pipeline = folder / f"pipeline-{count}.yaml"
    document = {"name": "bench", "inputs": [str(chosen)], "output": str(folder / f"run-{count}"), "stages": STAGES}
    pipeline.write_text(yaml.safe_dump({**document, "engine": {"workers": PROCESSES}}))
    _finish(_start(pipeline, "--until", "ingest"))
    return pipeline


def _curate(pipeline: Path) -> tuple[float, float]:
    """Seconds of a run of the curation stages from nothing, and until its first rows were committed."""
    run = Path(yaml.safe_load(pipeline.read_text())["output"])
    for old in run.glob("curation.*"):
        shutil.rmtree(old)
    began = time.perf_counter()
    process = _start(pipeline)
    first = 0.0
    while process.poll() is None:
        if not first and next(run.glob("curation.*/*/part-*"), None):
            first = time.perf_counter() - began
        time.sleep(0.02)
    _finish(process)
    return time.perf_counter() - began, first


def _start(pipeline: Path, *arguments: str) -> subprocess.Popen[str]:
    for old in Path(yaml.safe_load(pipeline.read_text())["output"]).glob("curation.*"):
        shutil.rmtree(old)
    command = [sys.executable, "-m", "ugaf.run", str(pipeline), "--no-export", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed:\n{output}")


def _in_processes(work: Callable[[Sequence[Path]], int], files: Sequence[Path]) -> float:
    """Seconds that PROCESSES processes need for the files, start-up not counted."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES) as pool:
        shares = [files[i::PROCESSES] for i in range(PROCESSES)]
        pool.map(work, [share[:20] for share in shares], chunksize=1)
        began = time.perf_counter()
        done = pool.map(work, shares, chunksize=1)
        seconds = time.perf_counter() - began
    if sum(done) != len(files):
        raise SystemExit(f"the loop did {sum(done)} of {len(files)} files")
    return seconds


def _measure(files: Sequence[Path]) -> int:
    """The engine's curation in a plain loop: the same functions, on files."""
    import cv2

    from stages.curation.photometric import Photometric
    from ugaf import images, photometry

    cv2.setNumThreads(1)
    side = Photometric.Settings().working_side
    return len([photometry.measure(images.decode(file.read_bytes(), side)) for file in files])


def _decode(files: Sequence[Path]) -> int:
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    sizes = [cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR).shape for file in files]
    return len(sizes)


def _peak(start: Callable[[], subprocess.Popen[str]]) -> float:
    """Peak bytes of a process and all below it, shared pages counted once (proportional set size)."""
    process = start()
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, _proportional(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    _finish(process)
    done.set()
    thread.join()
    return peak


def _proportional(pid: int) -> float:
    total = 0.0
    try:
        for member in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with open(f"/proc/{member.pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, StopIteration):
        return total
    return total


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="N: photographs of the smaller run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="also (c), on 4 N photographs")
    parser.add_argument("--folder", help="where to make the photographs and runs, and leave them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
