"""Near-duplicates: what is found of transformed photographs, what is linked wrongly, and what it costs.

    python benchmarks/dedup.py [--bases 500] [--copies 40] [--photos DIR] [--hashes 10000 100000 1000000]

(a) Quality: `bases` distinct pictures (dead-leaves scenes and crops of scikit-image's photographs), `copies` of each
    by the transforms of `benchmarks/scenes.py`, every one encoded as JPEG and decoded as the stage does it. Recall: the
    share of a transform's copies that are linked directly to their base. Precision: of all linked pairs, those of one
    base; the same of all pairs in one cluster (links joined by union-find), where one wrong link counts most.
(b) Hard negatives: distinct pictures of one kind (skies, portraits on white, pages of text, nights, gradients, plain
    ones), and the photographs below --photos: how many pairs are linked.
(c) Cost: random signatures, a tenth of them with a planted copy, searched as the stage does it, each size in a process
    of its own: seconds of CPU, peak memory, planted copies found.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from benchmarks import scenes  # noqa: E402
from ugaf.dedup import grid  # noqa: E402
from ugaf.dedup.links import Links  # noqa: E402
from ugaf.imaging import images  # noqa: E402
from ugaf.measures import signatures  # noqa: E402

DEFAULT = 0.9
"""The similarity from which the stage's default rule takes one of two."""
BOUNDS = (0.8, 0.85, 0.9, 0.92, 0.95, 0.98)
MEASURED = ("crop", "crop_area", "resize", "jpeg", "colour", "text")
HARD = 60


def main() -> None:
    parser = argparse.ArgumentParser(description="precision, recall and cost of near-duplicate search")
    parser.add_argument("--bases", type=int, default=500)
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--photos", help="a folder of distinct photographs to check too")
    parser.add_argument("--hashes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--memory-mb", type=int, default=1024)
    options = parser.parse_args()
    if options.bases:
        quality(options.bases, options.copies)
        hard(options.photos)
    for count in options.hashes:
        process = multiprocessing.get_context("spawn").Process(target=cost, args=(count, options.memory_mb))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the search of {count} signatures ended with exit code {process.exitcode}")


class Rows:
    """Rows in memory, as a stage of the whole run sees those of a run: `ugaf.stage.whole.RunRows`."""

    def __init__(self, values: np.ndarray, per_fragment: int = 10_000) -> None:
        self.values, self.per_fragment = values, per_fragment

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        starts = range(0, len(self.values), self.per_fragment)
        return {f"{start:09d}": (len(self._part(start)),) * 2 for start in starts}

    def has(self, column: str) -> bool:
        return column == "signature"

    def table(self, fragment: str, columns: Sequence[str]) -> pa.Table:  # noqa: ARG002
        part = self._part(int(fragment))
        values = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(signatures.BYTES), len(part), [None, pa.py_buffer(np.ascontiguousarray(part))]
        )
        return pa.table({"pending": pa.array(np.ones(len(part), bool)), "signature": values.cast(pa.binary())})

    def map(self, function: Callable[[Any, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return (function(self, item) for item in items)

    def _part(self, start: int) -> np.ndarray:
        return self.values[start : start + self.per_fragment]


def quality(bases: int, copies: int) -> None:
    """(a)"""
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        made = pool.starmap(_family, ((number, copies) for number in range(bases)), chunksize=4)
    values = np.concatenate([packed for packed, _ in made])
    kinds = np.concatenate([kind for _, kind in made])
    base = np.repeat(np.arange(bases), copies + 1)
    print(f"(a) {bases} bases, {len(values) - bases} copies, made in {time.perf_counter() - began:.0f} s", flush=True)
    upright = np.flatnonzero(kinds != "flip")
    _table("copies", _search(values[upright]), base[upright], kinds[upright], MEASURED)
    mirrored = np.flatnonzero(np.isin(kinds, ("base", "flip")))
    _table("with `flips: true`", _search(values[mirrored], flips=True), base[mirrored], kinds[mirrored], ("flip",))


def hard(folder: str | None) -> None:
    """(b)"""
    kinds = {name: [_encoded(make(seed)) for seed in range(HARD)] for name, make in scenes.HARD.items()}
    if folder:
        kinds["real photographs"] = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()]
    print(f"(b) linked pairs of distinct pictures, at similarity {BOUNDS}")
    for name, pictures in kinds.items():
        links = _search(np.stack([_signature(data) for data in pictures]))
        counts = [int((links.measures["similarity"] >= bound).sum()) for bound in BOUNDS]
        print(f"    {name:18} {counts} of {len(pictures) * (len(pictures) - 1) // 2}", flush=True)


def cost(count: int, memory_mb: int) -> None:
    """(c), in a process of its own."""
    values, planted = random_signatures(count)
    _forget_peak()
    before = _memory("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    wanted = grid.Search("signature", DEFAULT, memory_mb=memory_mb)
    links = grid.find(Rows(values), wanted)  # type: ignore[arg-type]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    found = set(zip(links.a.tolist(), links.b.tolist(), strict=True))
    recall = np.mean([pair in found for pair in planted])
    peak = _memory("VmHWM")
    blocks = -(-count // grid.rows_in(wanted, 0))
    own = values.nbytes / 1e6
    print(
        f"(c) {count:>9} rows in {blocks} blocks: {cpu:.0f} s of CPU ({1e6 * cpu / count:.0f} us a row), {wall:.0f} s; "
        f"peak without the benchmark's own rows {peak - own:.0f} MB of {memory_mb}, {before - own:.0f} of it before it "
        f"began; planted copies found {recall:.4f}, other links {len(found - planted)}",
        flush=True,
    )


def _memory(name: str) -> float:
    """A line of /proc/self/status, MB: VmRSS is what the process has now, VmHWM the most since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def _forget_peak() -> None:
    """Making the rows took more memory than they do, and is no part of the search."""
    Path("/proc/self/clear_refs").write_text("5")


def random_signatures(count: int, seed: int = 0) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Signatures uint8 (count, 264) of a 1/f spectrum, and which pairs (a < b) of them are planted copies: windows of
    92 % and more with a little noise, of a tenth of the rows."""
    rng = np.random.default_rng(seed)
    amplitudes = 100 / np.maximum(signatures.whitening(), 1)
    values = np.empty((count, signatures.BYTES), np.uint8)
    originals = count - count // 11
    for start in range(0, originals, 50_000):
        rows = slice(start, min(start + 50_000, originals))
        values[rows] = pack(rng.normal(0, 1, (rows.stop - start, 256)).astype(np.float32) * amplitudes)
    source = rng.permutation(originals)[: count - originals]
    for start in range(0, len(source), 5_000):
        chosen = source[start : start + 5_000]
        edges = rng.integers(0, 5, (2, 2)) / 100
        spans = tuple((float(near), 1 - float(far)) for near, far in edges)
        copies = signatures.cropped(signatures.unpack_array(values[chosen]), *spans)
        copies += rng.normal(0, 0.05, copies.shape).astype(np.float32) * amplitudes
        values[originals + start : originals + start + len(chosen)] = pack(copies)
    return values, {(int(a), originals + b) for b, a in enumerate(source)}


def pack(coefficients: np.ndarray) -> np.ndarray:
    """Signatures uint8 (n, 264) of coefficients float32 (n, 256), with a mean luma of 120."""
    peak = np.abs(coefficients[:, 1:]).max(axis=1, keepdims=True)
    codes = np.rint(127 * np.sign(coefficients) * np.sqrt(np.minimum(np.abs(coefficients) / peak, 1))).astype(np.int8)
    codes[:, 0] = signatures.FORMAT
    numbers = np.concatenate([np.full_like(peak, 120), peak], axis=1).astype("<f4")
    return np.concatenate([codes.view(np.uint8), numbers.view(np.uint8)], axis=1)


def _search(values: np.ndarray, flips: bool = False) -> Links:
    """All links from the least similarity that the stage stores, without a limit for each row."""
    wanted = grid.Search("signature", BOUNDS[0], flips=flips, most=len(values))
    began = time.process_time()
    links = grid.find(Rows(values), wanted)  # type: ignore[arg-type]
    print(f"    {len(values)} searched in {time.process_time() - began:.1f} s of CPU: {len(links)} links", flush=True)
    return links


def _table(title: str, links: Links, base: np.ndarray, kinds: np.ndarray, measured: Sequence[str]) -> None:
    first = {int(base[row]): row for row in np.flatnonzero(kinds == "base")}
    print(
        f"    {title:>18}  " + " ".join(f"{name:>9}" for name in measured) + "  precision  of clusters  mixed clusters"
    )
    for bound in BOUNDS:
        chosen = links.take(links.measures["similarity"] >= bound)
        pairs = set(zip(chosen.a.tolist(), chosen.b.tolist(), strict=True))
        recalls = []
        for name in measured:
            rows = np.flatnonzero(kinds == name)
            recalls.append(np.mean([tuple(sorted((first[int(base[row])], row))) in pairs for row in rows]))
        right = float((base[chosen.a] == base[chosen.b]).mean()) if len(chosen) else float("nan")
        clustered, mixed = _clusters(chosen, base)
        row = " ".join(f"{recall:9.4f}" for recall in recalls)
        print(f"    similarity >= {bound:.2f}  {row}  {right:9.5f}  {clustered:11.5f}  {mixed}", flush=True)


def _clusters(links: Links, base: np.ndarray) -> tuple[float, int]:
    """Of all pairs in one cluster the share that has one base, and the number of clusters with several."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links)), (links.a, links.b)), shape=(len(base), len(base)))
    count, labels = connected_components(graph, directed=False)
    sizes = np.bincount(labels, minlength=count)
    together = np.unique(labels.astype(np.int64) * (base.max() + 1) + base, return_counts=True)
    mixed = np.bincount(together[0] // (base.max() + 1), minlength=count) > 1
    pairs, right = (sizes * (sizes - 1) // 2).sum(), (together[1] * (together[1] - 1) // 2).sum()
    return float(right / pairs) if pairs else float("nan"), int(mixed.sum())


def _family(number: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Signatures of a base and of its copies, and their kinds."""
    cv2.setNumThreads(1)
    crops = _photograph_crops()
    picture = crops[number] if number < len(crops) else scenes.scene(number)
    names = list(scenes.TRANSFORMS)
    files: set[bytes] = set()
    made: Mapping[str, list[np.ndarray]] = {"value": [_signature(_encoded(picture))], "kind": [np.array("base")]}
    for copy in range(copies):
        name = names[copy % len(names)]
        changed = scenes.TRANSFORMS[name](picture, np.random.default_rng([number, copy]))
        # Each repetition is stored at a quality of its own. JPEG 50 and flip draw nothing at random, and equal files
        # are one row in a run: they would be counted here as copies that are not linked with their base.
        data = _encoded(changed, 97 - copy // len(names))
        digest = hashlib.sha256(data).digest()
        if digest in files:
            raise SystemExit(f"copy {copy} of base {number} is the same file as another: change the qualities")
        files.add(digest)
        made["value"].append(_signature(data))
        made["kind"].append(np.array(name))
    return np.stack(made["value"]), np.array(made["kind"], dtype="U9")


_CROPS: list[np.ndarray] = []


def _photograph_crops() -> list[np.ndarray]:
    if not _CROPS:
        _CROPS.extend(scenes.photograph_crops())
    return _CROPS


def _encoded(picture: np.ndarray, quality: int = 92) -> bytes:
    return images.encode(picture, "jpeg", quality)


def _signature(data: bytes) -> np.ndarray:
    small = images.decode(data, 256)
    return np.frombuffer(signatures.signature(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)), np.uint8)


if __name__ == "__main__":
    main()
