"""What a command costs on a run of many fragments: CPU seconds, wall and memory, each in a process of its own.

    python benchmarks/many_fragments.py [--fragments 2000] [--rows 256] [--folder DIR]

Writes a run's folder of so many fragments (no image in it: ids and measures are drawn at random, every row measured by
every stage), then asks of it, one command after the other: `run` with no snapshot, `status`, `run` with nothing to do
and with one photograph more, `status` after it, `explain` by id and by name, `plan`. The stages are those of curation
that look at one photograph at a time, with quantile rules, so that each photograph moves every bound. A folder that is
there already is grown to the size asked for. To see how a command grows where millions of files would take hours to
write, `--hollow 23438` adds fragments whose files are empty: packs say of them what they say of the real ones.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pat
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from ugaf.columns import keys, origins, packing, packs  # noqa: E402
from ugaf.columns.origins import Origin  # noqa: E402
from ugaf.columns.packs import FOLDER  # noqa: E402
from ugaf.columns.parts import REFS, SOURCES, Columns, heavy_columns, part_schema  # noqa: E402
from ugaf.columns.snapshot import Snapshots  # noqa: E402
from ugaf.imaging import images  # noqa: E402
from ugaf.ingest import SourceRef  # noqa: E402
from ugaf.pipeline import config  # noqa: E402
from ugaf.pipeline.config import INGEST, Pipeline  # noqa: E402
from ugaf.storage import Storage  # noqa: E402

QUANTILES: dict[str, Any] = {
    "rgb_entropy": {"min_quantile": 0.02},
    "saturation": {"min_quantile": 0.02, "max_quantile": 0.99},
    "clarity": {"min_quantile": 0.05},
    "brightness": {"min_quantile": 0.01, "max_quantile": 0.99},
    "contrast": {"min_quantile": 0.02},
    "noise_level": {"max_quantile": 0.98},
    "sharpness": {"min": 0.01},
    "texture": None,
    "colourfulness": None,
    **{name: {"max": 0.99} for name in ("clipped_dark", "clipped_bright", "border", "grey_share")},
}
VALID: dict[str, Any] = {**{name: {"max": 0.99} for name in ("code_area", "collage", "frame")}, "rotation": None}
STAGES: list[Any] = [
    {"curation.resolution": {"keep": {"short_side": {"min": 0.01}}}},
    "curation.provenance",
    {"curation.photometric": {"keep": QUANTILES}},
    {"curation.validity": {"keep": VALID}},
    "curation.signature",
]
PHOTOGRAPHS = "/photographs"
QUIET = ("--no-export", "--progress", "none")


def document(folder: Path) -> dict[str, Any]:
    return {
        "name": "many",
        "inputs": [str(folder / "more")],
        "output": str(folder / "run"),
        "engine": {"executor": "inline"},
        "stages": STAGES,
    }


def template(pipeline: Pipeline, stage: str, rows: int) -> pa.Table:
    """A stage's columns but for the ids: the same in every fragment."""
    rng = np.random.default_rng(len(stage))
    schema = part_schema(pipeline, stage)
    out: dict[str, Any] = {}
    for field in schema:
        if pat.is_floating(field.type):
            out[field.name] = pa.array(rng.random(rows)).cast(field.type)
        elif pat.is_integer(field.type):
            out[field.name] = pa.array(rng.integers(100, 120, rows)).cast(field.type)
        elif pat.is_boolean(field.type):
            out[field.name] = pa.array([False] * rows)
        elif field.name == REFS:
            out[field.name] = pa.array([[place] for place in range(rows)], field.type)
        elif pat.is_string(field.type) and field.name not in ("id", "error"):
            out[field.name] = pa.array(["jpeg"] * rows)
        else:
            out[field.name] = pa.nulls(rows, field.type)
    return pa.table(out, schema=schema)


def write(jobs: tuple[Path, int, range]) -> None:
    folder, rows, numbers = jobs
    pipeline = config.parse(document(folder))
    columns = Columns(Storage(pipeline.output), pipeline)
    stages = [INGEST, *(spec.name for spec in pipeline.stages)]
    templates = {stage: template(pipeline, stage, rows) for stage in stages}
    origin = Origin(PHOTOGRAPHS, PHOTOGRAPHS)
    for number in numbers:
        name = f"{number:06d}"
        ids = sorted(hashlib.blake2b(f"{number}/{place}".encode(), digest_size=16).hexdigest() for place in range(rows))
        called = [f"{PHOTOGRAPHS}/{number % 1000:03d}/{key[:12]}.jpg" for key in ids]
        for stage in stages:
            table = templates[stage].set_column(0, templates[stage].schema.field(0), pa.array(ids))
            if stage == INGEST:
                place = table.schema.get_field_index(SOURCES)
                table = table.set_column(place, table.schema.field(place), pa.array([[one] for one in called]))
            digest = hashlib.sha256("".join(ids).encode()).hexdigest()[:16]
            path = Path(pipeline.output, columns.folder(stage), name, f"part-000-{digest}.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            light = [one for one in table.column_names if one not in heavy_columns(table.schema)]
            facts = {"ugaf.seconds": "1.000", "ugaf.rows": str(rows)}
            pq.write_table(
                table.replace_schema_metadata(facts), path, compression="ZSTD", use_dictionary=light,
                write_statistics=light, write_page_checksum=True,
            )  # fmt: skip
        refs = [SourceRef(one, "", "1", "image", "{}") for one in called]
        sources = SourceRef.to_table(refs).replace_schema_metadata(origins.metadata([origin] * rows))
        place = Path(pipeline.output, SOURCES)
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(sources, place / f".tmp-{name}", compression="ZSTD")
        os.replace(place / f".tmp-{name}", place / f"{name}.parquet")


def make(folder: Path, fragments: int, rows: int) -> None:
    """Let the folder have so many fragments."""
    there = {path.stem for path in (folder / "run" / SOURCES).glob("*.parquet")}
    missing = [number for number in range(fragments) if f"{number:06d}" not in there]
    chunks = [(folder, rows, range(part[0], part[-1] + 1)) for part in _split(missing)]
    with get_context("spawn").Pool(2) as pool:
        list(pool.imap_unordered(write, chunks))


def hollow(folder: Path, fragments: int, real: int) -> None:
    """Let the folder have so many fragments by ones whose files are empty, and are never opened: packs say of them what
    they say of the real ones, with other ids."""
    pipeline = config.parse(document(folder))
    columns = Columns(Storage(pipeline.output), pipeline)
    known = Snapshots(columns)
    assert known.now() is not None
    kinds = {stage: columns.folder(stage) for stage in known.shelves}
    for kind in kinds.values():
        for number in range(real, fragments):
            place = Path(pipeline.output, kind, f"{number:06d}")
            place.mkdir(exist_ok=True)
            (place / "part-000-hollow.parquet").touch()
    for number in range(real, fragments):
        Path(pipeline.output, SOURCES, f"{number:06d}.parquet").touch()
    now = known.states()
    shelves = {SOURCES: known.sources, **known.shelves}
    known_facts = {
        kind: {name: shelf.fact(name)[: packs.FRAGMENTS] for name in shelf_facts(shelf)}
        for kind, shelf in shelves.items()
    }
    for copy, start in enumerate(range(real, fragments, packs.FRAGMENTS), 1):
        names = [f"{number:06d}" for number in range(start, min(fragments, start + packs.FRAGMENTS))]
        of = [f"{number:06d}" for number in range(len(names))]
        for kind, shelf in shelves.items():
            sections = {}
            for section in [packing.ROWS] + [packing.NAMES] * (kind == INGEST):
                table = shelf.rows(section, of)
                for place, name in enumerate(table.column_names):
                    if name in ("id", "digest"):
                        ids = keys.of_column(table.column(name))
                        other = keys.Keys((ids.high & ~np.uint64(0xFFFF)) | np.uint64(copy), ids.low)
                        table = table.set_column(place, name, other.column())
                sections[section] = table.combine_chunks()
            columns_of = {name: some[: len(names)] for name, some in known_facts[kind].items()}
            facts = pa.table(
                {
                    "fragment": names,
                    "state": pa.array([now[kind][name] for name in names], pa.binary(16)),
                    **columns_of,
                    **{f"rows {section}": shelf.counts(section, of) for section in sections},
                }
            )
            shelf._save(packs.Pack(shelf.columns, facts, sections=sections))


def shelf_facts(shelf: packs.Shelf) -> list[str]:
    pack = next(iter(shelf._live.values()))[0]
    return [name for name in pack.facts.column_names if name not in ("fragment", "state") and name[:5] != "rows "]


def _split(numbers: list[int]) -> list[list[int]]:
    """Runs of neighbours, of at most 200."""
    out: list[list[int]] = []
    for number in numbers:
        if out and out[-1][-1] == number - 1 and len(out[-1]) < 200:
            out[-1].append(number)
        else:
            out.append([number])
    return out


def photograph(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 255, (64, 80, 3)).astype(np.uint8)
    (folder / "more").mkdir(parents=True, exist_ok=True)
    (folder / "more" / f"{number}.jpg").write_bytes(images.encode(pixels, "jpeg", 90))


def measure(label: str, fragments: int, arguments: list[str]) -> None:
    """Run a command, and print what it took."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "ugaf", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
    each = 1000 * cpu / fragments
    print(
        f"{label:34} {cpu:8.1f} s CPU {wall:8.1f} s {used.ru_maxrss / 1024:7.0f} MB {each:7.2f} ms a fragment",
        flush=True,
    )
    if status:
        print(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fragments", type=int, default=2000)
    parser.add_argument("--hollow", type=int, default=0, metavar="N", help="so many by fragments that packs alone know")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/many_fragments"))
    options = parser.parse_args()
    folder, fragments = options.folder.resolve(), options.fragments
    began = time.perf_counter()
    make(folder, fragments, options.rows)
    if not options.hollow:
        shutil.rmtree(folder / "run" / FOLDER, ignore_errors=True)
    for old in (folder / "more").glob("*.jpg"):
        old.unlink()
    photograph(folder, time.time_ns() % 1_000_000)
    pipeline = folder / "many.yaml"
    pipeline.write_text(yaml.safe_dump(document(folder), sort_keys=False))
    if options.hollow:
        (folder / "run" / "run.yaml").exists() or measure(
            "run, to begin with", fragments, ["run", str(pipeline), *QUIET]
        )
        hollow(folder, options.hollow, fragments)
        fragments = options.hollow
    print(f"{fragments:,} fragments of {options.rows} rows, made in {time.perf_counter() - began:.0f} s", flush=True)
    run = str(folder / "run")
    again = ["run", str(pipeline), *QUIET]
    if not options.hollow:
        measure("run, no snapshot yet", fragments, again)
    measure("status", fragments, ["status", run])
    measure("run, nothing to do", fragments, again)
    photograph(folder, time.time_ns() % 1_000_000 + 1_000_000)
    measure("run, one photograph more", fragments, again)
    measure("status after it", fragments, ["status", run])
    key = hashlib.blake2b(f"{options.fragments // 2}/0".encode(), digest_size=16).hexdigest()
    measure("explain, by id", fragments, ["explain", key, "--run", run])
    measure("explain, by the name of a file", fragments, ["explain", f"{key[:12]}.jpg", "--run", run])
    measure("plan", fragments, ["plan", str(pipeline)])


if __name__ == "__main__":
    main()
