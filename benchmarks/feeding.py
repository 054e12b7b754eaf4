"""Whether the trainer's data keep up with its GPUs, and what buckets waste.

    python benchmarks/feeding.py [--samples 256] [--seconds 20] [--workers 2] [--folder DIR]

Four parts, each printed as it is measured:

- *waste*: what is cropped of a realistic mix of sizes by the buckets, and by one square; and what a square pads.
- *plan*: the time to go on after ten million samples.
- *cached*: samples/s out of a feature cache of the full-size model at 1024 x 1024: three latents of 16 x 128 x 128 and
  a text of 512 x 3584, bfloat16, 5.2 MB a sample. The step that it is compared with is one of 8 GPUs, 0.5 s at batch 8:
  taken as 8 samples a step, 16 samples/s; and as 8 on each GPU, 128 samples/s. Five times the former is the target.
- *images*: samples/s decoded from pairs of 1024 x 768, a JPEG and a PNG.

Memory is the process's own (private pages and what it shares with its workers), after each quarter of an epoch.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

STEP_SECONDS, BATCH, GPUS, FACTOR = 0.5, 8, 8, 5
MIX = {1.0: 0.12, 4 / 3: 0.28, 3 / 2: 0.36, 16 / 9: 0.16, 5 / 4: 0.05, 2.39: 0.03}
"""Aspect ratios of photographs and their shares; a tenth of the images is cropped to any ratio up to 3, and a third
stands upright."""


def main() -> None:
    options = _options()
    waste()
    replay(options.plan)
    with tempfile.TemporaryDirectory(prefix="ugaf-feeding-", dir=options.folder) as folder:
        cached(Path(folder), options)
        decoded(Path(folder), options)


def waste() -> None:
    import numpy as np

    from ugaf.trainer.data.geometry import Bucket, buckets_for, cropped

    widths, heights = sizes(200_000)
    square = [Bucket(1024, 1024)]
    padded = 1 - np.minimum(widths, heights) / np.maximum(widths, heights)
    crops = cropped(widths, heights, buckets_for()).mean()
    print(f"waste of {len(widths)} sizes: {len(buckets_for())} buckets crop {crops:.2%} and pad nothing;")
    print(f"  a square crops {cropped(widths, heights, square).mean():.2%}, or pads {padded.mean():.2%}")


def sizes(count: int) -> tuple[Any, Any]:
    """Widths and heights of the mix."""
    import numpy as np

    rng = np.random.default_rng(0)
    ratios = rng.choice(list(MIX), count, p=list(MIX.values()))
    free = rng.random(count) < 0.1
    ratios[free] = np.exp(rng.uniform(0, np.log(3), int(free.sum())))
    ratios = np.where(rng.random(count) < 0.35, 1 / ratios, ratios)
    area = rng.uniform(0.5e6, 12e6, count)
    return np.sqrt(area * ratios).round().astype(int), np.sqrt(area / ratios).round().astype(int)


def replay(samples: int) -> None:
    import numpy as np

    from ugaf.trainer.data.geometry import buckets_for
    from ugaf.trainer.data.index import Index
    from ugaf.trainer.data.plan import Plan
    from ugaf.trainer.data.settings import DataSettings
    from ugaf.trainer.data.shards import Chunk, LeftOut, Shard

    widths, heights = sizes(samples)
    rows, none = 64, np.zeros(samples, dtype=np.uint8)
    firsts = np.arange(0, samples, rows)
    index = Index(
        np.arange(samples, dtype=np.uint64), widths.astype(np.int32), heights.astype(np.int32), none, none,
        (np.arange(samples) % rows).astype(np.int32), (Shard("", "none.parquet"),),
        tuple(Chunk(0, n, 32 * 10**6) for n in range(len(firsts))), firsts, np.minimum(rows, samples - firsts),
        tuple(buckets_for()), samples, LeftOut(),
    )  # fmt: skip
    for tokens in (None, 4 * 8192):
        settings = DataSettings(shards=["none"], tokens=tokens)
        start = samples // settings.lanes // (1 if tokens is None else 4) - 1000
        began = time.perf_counter()
        step = next(Plan(index, settings, 0).steps(start))
        print(
            f"plan: step {start} of {samples} samples, tokens {tokens}: found in {time.perf_counter() - began:.1f} s "
            f"({sum(map(len, step))} samples a step)"
        )


def cached(folder: Path, options: argparse.Namespace) -> None:
    from ugaf.trainer.data import Loader, Plan, open_index, write_cache

    settings = _settings(shards(folder / "small", options.samples, 64, 64), tokens=BATCH * 2 * 4096)
    index = open_index(settings)
    write_cache(settings, index, _Random, str(folder / "cache"), encoder="random", batch=8, inline=True)
    size = sum(path.stat().st_size for path in (folder / "cache/parts").iterdir())
    print(f"cached: {len(index)} samples, {size / 1e9:.2f} GB, {size / len(index) / 1e6:.2f} MB each")
    for workers in sorted({0, 1, options.workers}):
        changed = settings.model_copy(update={"cache": str(folder / "cache"), "workers": workers})
        loader = Loader(Plan(index, changed, 0))
        rate = _rate(loader, options.seconds, len(index), f"cached, {workers} threads")
        loader.close()
        for name, batch in (("8 samples a step", BATCH), ("8 on each GPU", BATCH * GPUS)):
            wanted = batch / STEP_SECONDS
            print(f"  {rate / wanted:.1f} x the rate of a step of {STEP_SECONDS} s, {name} ({wanted:.0f}/s)")
        if workers == options.workers:
            met = "met" if rate >= FACTOR * BATCH / STEP_SECONDS else "missed"
            print(f"  target {FACTOR} x {BATCH / STEP_SECONDS:.0f}/s: {met}")


def decoded(folder: Path, options: argparse.Namespace) -> None:
    from ugaf.trainer.data import Loader, Plan, open_index

    settings = _settings(shards(folder / "full", min(64, options.samples), 1024, 768))
    for workers in sorted({0, options.workers}):
        changed = settings.model_copy(update={"workers": workers})
        loader = Loader(Plan(open_index(changed), changed, 0))
        _rate(loader, options.seconds, len(loader.plan.index), f"images, {workers} processes")
        loader.close()


def _rate(loader: Any, seconds: float, epoch: int, name: str) -> float:
    """Samples/s once it runs, and memory by quarters of an epoch."""
    steps: Iterator[Any] = iter(loader)
    for _ in islice(steps, 4):
        pass
    began, cpu, samples, memory = time.perf_counter(), time.process_time(), 0, []
    for _, batches in steps:
        samples += sum(len(batch) for batch in batches)
        if samples * 4 >= (len(memory) + 1) * epoch and len(memory) < 8:
            memory.append(_memory())
        if time.perf_counter() - began > seconds:
            break
    rate = samples / (time.perf_counter() - began)
    shown = " ".join(f"{value / 1e6:.0f}" for value in memory)
    busy = (time.process_time() - cpu) / samples * 1000
    print(f"{name}: {rate:.0f} samples/s ({busy:.1f} ms of this process's CPU each)")
    print(f"  MB by quarters of an epoch: {shown}")
    return rate


def _memory() -> int:
    """Bytes of this process and its children that are not pages of mapped files."""
    total = 0
    for status in [Path("/proc/self/status"), *(Path(f"/proc/{pid}/status") for pid in _children())]:
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except FileNotFoundError:
            continue
        total += sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
    return total


def _children() -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process().children(recursive=True)]


class _Random:
    """An encoder that gives noise of the full-size model's shapes."""

    def images(self, batch: Any) -> dict[str, Any]:
        import torch

        names = ("source_latents", "edited_latents", "masked_latents")
        shape = (len(batch), 16, batch.bucket.height // 8, batch.bucket.width // 8)
        return {name: torch.randn(shape).to(torch.bfloat16) for name in names}

    def text(self, batch: Any) -> list[Any]:
        import torch

        return [torch.randn((512, 3584)).to(torch.bfloat16) for _ in range(len(batch))]


def _settings(shards: Path, **changes: Any) -> Any:
    from ugaf.trainer.data import DataSettings

    return DataSettings.model_validate({"shards": [str(shards)], "instructions": {"languages": {"en": 1}}, **changes})


def shards(folder: Path, count: int, width: int, height: int) -> Path:
    """Pairs as an export has them: a JPEG, and a PNG with a rectangle of another colour."""
    import cv2
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ugaf.export.columns import CORE, schema
    from ugaf.imaging import images

    rows = []
    for number in range(count):
        rng = np.random.default_rng(number % 16)
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
        source = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        edited = source.copy()
        edited[8:24, 8:24] = 255 - edited[8:24, 8:24]
        row: dict[str, Any] = {column.name: None for column in CORE}
        row |= {"id": f"{number:032x}", "width": width, "height": height, "split": "train", "boxes": [[8, 8, 24, 24]]}
        row |= {"instruction": "Invert the square.", "register": "concise"}
        row["source"] = {"bytes": images.encode(source, "jpeg"), "path": "s.jpg"}
        row["edited"] = {"bytes": images.encode(edited), "path": "e.png"}
        rows.append(row)
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=schema(CORE))
    pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=16, compression="NONE")
    return folder


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=256, help="in the cache; 5.2 MB each")
    parser.add_argument("--plan", type=int, default=10_000_000, help="samples of the plan that is run through")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where shards and cache are made, and removed; default: the system's own")
    return parser.parse_args()


if __name__ == "__main__":
    main()
