"""How benchmarks/curation.py starts each engine, and reads what it answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from benchmarks.peers.job import COLUMNS, PROCESSES

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = "shipped"
"""Our own stage in the place of a kernel."""


@dataclass(frozen=True)
class Run:
    """One run of an engine: how many photographs, what is measured, in which of its forms, who catches errors."""

    count: int
    kernel: str = "ours"
    variant: str = ""
    raising: bool = False


class Engine(Protocol):
    """An engine that measures photographs in a process of its own."""

    @property
    def name(self) -> str: ...

    def command(self, run: Run) -> list[str]:
        """What to start; earlier results of it are removed."""
        ...

    def answered(self, run: Run) -> set[int]:
        """Numbers of the photographs that have numbers after the run."""
        ...


@dataclass(frozen=True)
class Program:
    """A program of this package, by the interpreter that has its engine."""

    name: str
    module: str
    python: str
    photos: Path
    results: Path

    def command(self, run: Run) -> list[str]:
        shutil.rmtree(self._output(), ignore_errors=True)
        options = ["--count", str(run.count), "--kernel", run.kernel]
        options += ["--variant", run.variant] if run.variant else []
        options += ["--raising"] if run.raising else []
        return [
            self.python,
            "-m",
            f"benchmarks.peers.{self.module}",
            str(self.photos),
            str(self._output()),
            *options,
        ]

    def answered(self, run: Run) -> set[int]:  # noqa: ARG002
        return {int(id) for part in self._output().rglob("*.parquet") for id in _measured(pq.read_table(part))}

    def _output(self) -> Path:
        return self.results / self.module


@dataclass
class Ours:
    """`python -m ugaf.run` on runs that have ingested the photographs."""

    photos: Path
    results: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of curation.photometric, as a run of SHIPPED has it."""
    name: str = "ugaf"

    def command(self, run: Run) -> list[str]:
        pipeline = self._pipeline(run)
        if not self._folder(run).exists():
            start(_ugaf(pipeline, "--until", "ingest"), self.results / "ingest.log")
        for old in self._folder(run).glob("*@*"):
            if not old.name.startswith("ingest@"):
                shutil.rmtree(old)
        return _ugaf(pipeline)

    def answered(self, run: Run) -> set[int]:
        names: dict[str, str] = {}
        for part in self._folder(run).glob("ingest@*/*/part-*.parquet"):
            for row in pq.read_table(part, columns=["id", "sources"]).to_pylist():
                names[row["id"]] = row["sources"][0]
        parts = [part for part in self._folder(run).glob("*@*/*/part-*.parquet") if "ingest@" not in str(part)]
        return {int(Path(names[id]).stem) for part in parts for id in _measured(pq.read_table(part))}

    def _folder(self, run: Run) -> Path:
        return self.results / f"run-{run.count}"

    def _pipeline(self, run: Run) -> Path:
        if run.kernel == SHIPPED:
            stage = {"curation.photometric": dict(self.settings)}
        else:
            stage = {"benchmarks.peers.kernel_stage:Kernel": {"kernel": run.kernel}}
        document = {
            "name": "bench",
            "inputs": [{"path": str(self.photos / "files"), "limit": run.count}],
            "output": str(self._folder(run)),
            "stages": [stage],
            "engine": {"workers": PROCESSES},
        }
        path = self.results / f"pipeline-{run.count}-{run.kernel}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path


def start(command: Sequence[str], log: Path) -> float:
    """Run a command to its end. Returns its seconds; raises SystemExit with the end of its output if it fails."""
    began = time.perf_counter()
    _finish(_open(command, log), log)
    return time.perf_counter() - began


def peak_memory(command: Sequence[str], log: Path) -> float:
    """Peak bytes of a command and all processes below it, shared pages counted once (proportional set size)."""
    process, peak, done = _open(command, log), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, _proportional(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        _finish(process, log)
    finally:
        done.set()
        thread.join()
    return peak


def versions(python: str, packages: Sequence[str]) -> str:
    """The versions of packages in the environment of an interpreter."""
    program = (
        "import sys; from importlib.metadata import version; "
        "print(*(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ')"
    )
    return subprocess.run([python, "-c", program, *packages], check=True, capture_output=True, text=True).stdout.strip()


def _ugaf(pipeline: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ugaf.run", str(pipeline), "--no-export", *arguments]


def _open(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    # There are as many workers as cores: no library of theirs starts threads of its own.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        return subprocess.Popen(list(command), env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)


def _finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait():
        end = log.read_bytes()[-4000:].decode(errors="replace")
        raise SystemExit(f"{process.args!r}\nfailed ({process.returncode}), see {log}:\n{end}")


def _measured(table: pa.Table) -> list[str]:
    # Neither null nor NaN, which is what a float column of Ray Data makes of it.
    return table.filter(pc.is_finite(table.column(COLUMNS[0]))).column("id").to_pylist()


def _proportional(pid: int) -> float:
    total = 0.0
    try:
        members = (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return total
    for member in members:
        try:
            with open(f"/proc/{member.pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError, StopIteration):
            continue  # it has ended meanwhile
    return total
