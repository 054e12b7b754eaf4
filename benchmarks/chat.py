"""How much of a server a worker that asks it keeps busy: requests a second against in_flight / latency.

    python benchmarks/chat.py [--latency 2] [--images 1024] [--fragment 64] [--in-flight 64] [--repeats 3]

A server of fixed latency (tests/support/chat_server.py, a process of its own) answers a question with a picture for
each photograph. The whole engine runs on Ray, over many small fragments, so that their borders count. Throughput is in
steady state: images / (time for 2 N - time for N), so that start-up does not count. Server and client share the
machine's cores: on a small machine the ratio falls where both cannot keep up, which the CPU time a request shows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
STAGE = "benchmarks.asking_stage:Ask"


def main() -> None:
    options = _options()
    from benchmarks import photographs

    folder = Path(tempfile.mkdtemp(prefix="ugaf-bench-"))
    photographs.make(folder / "photos", 2 * options.images)
    command = [sys.executable, str(ROOT / "tests" / "support" / "chat_server.py"), "--latency", str(options.latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    ideal = options.in_flight / options.latency
    ratios = []
    try:
        for repeat in range(options.repeats):
            times = [_seconds(folder, count, url, options, repeat) for count in (options.images, 2 * options.images)]
            rate = options.images / (times[1] - times[0])
            ratios.append(rate / ideal)
            print(
                f"repeat {repeat + 1}: {rate:.1f} requests/s of {ideal:.1f} "
                f"({options.images} in {times[0]:.1f} s, {2 * options.images} in {times[1]:.1f} s)",
                flush=True,
            )
    finally:
        server.terminate()
        server.wait()
    listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(
        f"latency {options.latency:g} s, {options.in_flight} in flight, fragments of {options.fragment}, "
        f"{os.cpu_count()} cores: {statistics.median(ratios):.3f} of the ideal (of {listed}; target >= 0.9)"
    )


def _seconds(folder: Path, count: int, url: str, options: argparse.Namespace, repeat: int) -> float:
    """Seconds from the first question of a run to its end: ingest is done before."""
    from ugaf.engine import runner
    from ugaf.pipeline import config

    entry = {"model": "test-model", "endpoints": [url], "in_flight": options.in_flight}
    checked = config.parse(
        {
            "name": "chat",
            "inputs": [{"path": str(folder / "photos"), "limit": count}],
            "output": str(folder / f"run-{repeat}-{count}"),
            "fragment_rows": options.fragment,
            "models": {"judge": entry},
            "stages": [STAGE],
        }
    )
    runner.run(checked, runner.RunOptions(last="ingest"), lambda _: None, lambda _: None)
    began = time.perf_counter()
    runner.run(checked, runner.RunOptions(), lambda _: None, lambda _: None)
    return time.perf_counter() - began


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=2.0, help="of every answer, in seconds")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--fragment", type=int, default=64, help="photographs a fragment")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
