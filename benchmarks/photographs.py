"""Makes JPEGs for benchmarks: photograph-like, 1024 x 1024, about 200 kB, no two files alike, some of them broken.

They lie in shards of 100: a folder of files, and beside it a Parquet file with the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIDE = 1024
SHARD = 100
DISTINCT = 200
"""Pictures that are really different; the other files differ from one of them in a JPEG comment, which costs a
decoder nothing and gives every file content of its own."""
BROKEN_EVERY = 50
"""One file in so many is broken, where broken ones are asked for."""
WAYS = ("truncated", "empty", "text", "header", "overwritten")
"""How a file is broken, in turn: its second half is missing; no bytes; not an image; all before the coded pixels and
nothing of them; random bytes in the place of its middle third, which only some decoders take for an error."""


def make(folder: Path, count: int, broken: bool = False, tables: bool = False) -> None:
    """Write `count` JPEGs as `folder`/files/SHARD/NUMBER.jpg, whole shards; those that are there are left alone.

    Args:
        broken: whether one in BROKEN_EVERY is broken.
        tables: also write them as `folder`/tables/SHARD.parquet, columns `id` (the number) and `image` (bytes).
    """
    encoded: list[bytes] = []
    for shard in range(-(-count // SHARD)):
        files, table = files_of(folder, shard), table_of(folder, shard)
        if len(list(files.glob("*.jpg"))) == SHARD and (table.exists() or not tables):
            continue
        encoded = encoded or [_picture(seed) for seed in range(min(DISTINCT, count))]
        numbers = range(shard * SHARD, (shard + 1) * SHARD)
        data = [_file(encoded[number % len(encoded)], number, broken) for number in numbers]
        files.mkdir(parents=True, exist_ok=True)
        for number, content in zip(numbers, data, strict=True):
            file_of(folder, number).write_bytes(content)
        if tables:
            table.parent.mkdir(exist_ok=True)
            columns = {"id": [f"{number:07d}" for number in numbers], "image": pa.array(data, pa.binary())}
            pq.write_table(pa.table(columns), table, compression={"id": "ZSTD", "image": "NONE"})


def files_of(folder: Path, shard: int) -> Path:
    return folder / "files" / f"{shard:04d}"


def file_of(folder: Path, number: int) -> Path:
    return files_of(folder, number // SHARD) / f"{number:07d}.jpg"


def table_of(folder: Path, shard: int) -> Path:
    return folder / "tables" / f"{shard:04d}.parquet"


def way_broken(number: int) -> str | None:
    """How the file of this number is broken (one of WAYS), or None if it is good."""
    turn, place = divmod(number, BROKEN_EVERY)
    return WAYS[turn % len(WAYS)] if place == BROKEN_EVERY // 2 else None


def _file(encoded: bytes, number: int, broken: bool) -> bytes:
    comment = f"{number:016d}".encode()
    # A COM segment directly after the start-of-image marker.
    data = encoded[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + encoded[2:]
    way = way_broken(number) if broken else None
    if way is None:
        return data
    third = len(data) // 3
    noise = np.random.default_rng(number).bytes(third)
    return {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "text": f"this is no photograph: number {number}\n".encode(),
        # Up to the start-of-scan marker, behind which the coded pixels lie.
        "header": data[: data.index(b"\xff\xda")],
        "overwritten": data[:third] + noise + data[2 * third :],
    }[way]


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
