"""What it costs to know that a picture was read to its end.

    python benchmarks/decode.py [--images 40] [--repeats 11] [--folder DIR]

`images.decode` of 1024 px JPEGs, whole and reduced to 256 px, beside the road that it took before: OpenCV, which says
nothing of what libjpeg had to guess. And of the same pictures as PNG, beside Pillow, which looks at no checksum. Both
take the same file directly after each other, in an order that changes. Printed are milliseconds of process CPU time and
the median of the repeats' ratios.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
os.environ["OMP_NUM_THREADS"] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import photographs  # noqa: E402
from ugaf.imaging import images  # noqa: E402

TARGET = 1.1
_IMPOSSIBLE = re.compile(rb"\xff[^\x00\xc4\xd0-\xef\xfe\xff]")


def by_opencv(data: bytes, side: int | None) -> np.ndarray:
    """The former road, for 1024 px JPEGs without EXIF: a look at the markers, then OpenCV at full size or a quarter."""
    with Image.open(io.BytesIO(data)) as image:
        image.getexif()
    scan = data.find(b"\xff\xda")
    assert data.rfind(b"\xff\xd9", scan) != -1
    assert _IMPOSSIBLE.search(data, scan) is None
    flag = cv2.IMREAD_COLOR_RGB if side is None else cv2.IMREAD_REDUCED_COLOR_4
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    return pixels if side is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def by_pillow(data: bytes, _: int | None) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--folder", help="photographs that are there already")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="ugaf-bench-") as temporary:
        folder = Path(options.folder or temporary)
        photographs.make(folder, options.images)
        jpegs = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[: options.images]]
    pngs = [images.encode(images.decode(data)) for data in jpegs[:10]]
    print(f"{len(jpegs)} JPEGs of {photographs.SIDE} px, {statistics.mean(map(len, jpegs)) / 1000:.0f} kB each")
    for name, files, side, before in (
        ("JPEG", jpegs, None, by_opencv),
        ("JPEG to 256 px", jpegs, 256, by_opencv),
        ("PNG", pngs, None, by_pillow),
    ):
        roads = (before, images.decode)
        passes = [_pass(roads, files, side, repeat) for repeat in range(options.repeats + 1)][1:]
        old, new = (statistics.median(seconds[n] for seconds in passes) / len(files) * 1000 for n in (0, 1))
        ratios = [seconds[1] / seconds[0] for seconds in passes]
        print(
            f"{name}: before {old:.2f} ms, now {new:.2f} ms, ratio {statistics.median(ratios):.2f} "
            f"(of {min(ratios):.2f}..{max(ratios):.2f}{f'; target <= {TARGET}' if files is jpegs else ''})"
        )


def _pass(
    roads: tuple[Callable[[bytes, int | None], np.ndarray], ...], files: list[bytes], side: int | None, repeat: int
) -> list[float]:
    """Seconds of CPU time that each road took for all files."""
    spent = [0.0] * len(roads)
    for number, data in enumerate(files):
        order = list(range(len(roads)))
        for road in order if (number + repeat) % 2 else reversed(order):
            begin = time.process_time()
            roads[road](data, side)
            spent[road] += time.process_time() - begin
    return spent


if __name__ == "__main__":
    main()
