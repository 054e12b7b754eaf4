"""What all photometric descriptors cost beside the four that the papers name, decode included.

    python benchmarks/descriptors.py [--images 60] [--repeats 15] [--side 256] [--folder DIR]

`curation.photometric` as a pipeline runs it, on 1024 px JPEGs, with `descriptors: [rgb_entropy, saturation, clarity,
brightness]` and with all of them. Both, and a decode alone, take the same photograph directly after each other, in an
order that changes, and a repeat is one pass over all photographs: what else the machine does then falls on all alike.
Printed are milliseconds a photograph, of process CPU time and of the clock, and the median of the repeats' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
os.environ["OMP_NUM_THREADS"] = "1"

FOUR = ["rgb_entropy", "saturation", "clarity", "brightness"]
TARGET = 1.6


def main() -> None:
    import cv2

    from benchmarks import photographs

    cv2.setNumThreads(1)
    options = _options()
    with tempfile.TemporaryDirectory(prefix="ugaf-bench-") as temporary:
        folder = Path(options.folder or temporary)
        photographs.make(folder, options.images)
        files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[: options.images]]
    print(f"{len(files)} JPEGs of {photographs.SIDE} px, {statistics.mean(map(len, files)) / 1000:.0f} kB each")
    contenders = _contenders(options.side)
    _pass(contenders, files[:5], 0)
    passes = [_pass(contenders, files, repeat) for repeat in range(options.repeats)]
    for clock, name in enumerate(("CPU time", "wall time")):
        for contender in contenders:
            times = [seconds[contender][clock] / len(files) * 1000 for seconds in passes]
            print(f"{name}, {contender}: {statistics.median(times):.2f} ms (best {min(times):.2f})")
        ratios = [seconds["all descriptors"][clock] / seconds["four descriptors"][clock] for seconds in passes]
        print(
            f"{name}, all / four: {statistics.median(ratios):.2f} "
            f"(of {min(ratios):.2f}..{max(ratios):.2f}; target <= {TARGET})"
        )


def _contenders(side: int) -> dict[str, Callable[[bytes], object]]:
    from ugaf.stages.curation.photometric import Photometric

    from ugaf.imaging import images
    from ugaf.stage import Failure, Row

    def curate(**settings: object) -> Callable[[bytes], object]:
        stage = Photometric("curation.photometric", Photometric.Settings(working_side=side, **settings))

        def work(data: bytes) -> object:
            (outcome,) = stage([Row("0" * 32, {"image": data})])
            if isinstance(outcome, Failure):
                raise SystemExit(f"a photograph failed: {outcome}")
            return outcome

        return work

    return {
        "decode alone": lambda data: images.decode(data, side),
        "four descriptors": curate(descriptors=FOUR),
        "all descriptors": curate(),
    }


def _pass(
    contenders: dict[str, Callable[[bytes], object]], files: Sequence[bytes], first: int
) -> dict[str, tuple[float, float]]:
    """Seconds of each contender for all files: (CPU time, wall time)."""
    names = list(contenders)
    seconds = dict.fromkeys(names, (0.0, 0.0))
    for number, data in enumerate(files, start=first):
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            cpu, wall = time.process_time(), time.perf_counter()
            contenders[name](data)
            before = seconds[name]
            seconds[name] = (before[0] + time.process_time() - cpu, before[1] + time.perf_counter() - wall)
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=60, help="photographs of a repeat")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--side", type=int, default=256, help="the stage's working_side")
    parser.add_argument("--folder", help="where to make the photographs, and leave them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
