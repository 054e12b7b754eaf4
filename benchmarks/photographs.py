"""Makes JPEGs for benchmarks: photograph-like, 1024 x 1024, about 230 kB, no two files alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIDE = 1024
DISTINCT = 200
"""Pictures that are really different; the other files differ from one of them in a JPEG comment, which costs a
decoder nothing and gives every file content of its own."""


def make(folder: Path, count: int) -> None:
    """Write `count` JPEGs below `folder` (those that are there are left alone), 1,000 a subfolder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded: list[bytes] = []
    for number in range(count):
        path = folder / f"{number // 1000:04d}" / f"{number:07d}.jpg"
        if path.exists():
            continue
        if not encoded:
            encoded = [_picture(seed) for seed in range(min(DISTINCT, count))]
        path.parent.mkdir(exist_ok=True)
        data, comment = encoded[number % len(encoded)], f"{number:016d}".encode()
        # A COM segment directly after the start-of-image marker.
        path.write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])


def _picture(seed: int) -> bytes:
    """A random crop of a real photograph, turned, enlarged to size, with the fine grain that enlarging took away."""
    from skimage import data

    rng = np.random.default_rng(seed)
    photographs = (data.astronaut, data.chelsea, data.coffee, data.rocket, lambda: data.stereo_motorcycle()[0])
    photo = np.asarray(photographs[seed % len(photographs)]())
    side = int(rng.integers(200, min(photo.shape[:2])))
    y, x = (int(rng.integers(0, extent - side + 1)) for extent in photo.shape[:2])
    crop = np.rot90(photo[y : y + side, x : x + side], int(rng.integers(4)))
    large = cv2.resize(np.ascontiguousarray(crop), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = cv2.GaussianBlur(rng.normal(0, 14, large.shape).astype(np.float32), (0, 0), 0.7)
    pixels = np.clip(large + grain, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 86])[1].tobytes()
