"""Golden values: what every stage writes for made pictures, beside the fingerprint that its columns have.

A stage's fingerprint covers its version, its settings and the fingerprints of what it reads, but no code. So a formula
that changed and kept its `version` would put two measures into one column. Here the two are held together: columns that
moved under an unchanged fingerprint fail the test. Whoever changes a formula raises the `version` of the stage (or of
the engine whose formula it is) and writes the values anew:

    python tests/golden.py

which refuses to where a version was not raised. `--libraries` is for the other reason why values move: another version
of OpenCV or numpy, and not a line of ours.

Values are kept, not hashes, and compared with a tolerance: processors differ in the last digits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here.parent), str(here / "support")]

import golden_pictures
from engine_tools import go

from ugaf.imaging import images
from ugaf.pipeline import config
from ugaf.pipeline.config import Pipeline
from ugaf.pipeline.spec import INGEST
from ugaf.wording import asks

VALUES = Path(__file__).with_name("golden")
COMMAND = "python tests/golden.py"
DIGITS = 5
RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Numbers that differ by no more are the same: two processors' noise stays below, a formula's change does not."""
EDITED = 0.01
"""The same, relative, for what is measured of pictures that were drawn here: a level more or less adds up."""
BYTES_OFF, SHARE_OFF = 2, 0.02
"""Signatures are the same if no more than this share of their bytes is off by more than so many."""
GRID = 6
"""A picture is compared by the means of so many by so many tiles, in levels."""
LEVELS = 1.0

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Stored:
    """What one stage wrote: its columns, each value simplified, rows in the order of their ids."""

    fingerprint: str
    columns: Columns


# ---- the cases


def _open(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A stage that keeps every row, so that all that come after it are measured too."""
    return {name: {"keep": dict.fromkeys(config.stage_class(name).keep), **(settings or {})}}


def _pipeline(name: str, folder: Path, inputs: list[str], stages: list[Any]) -> Pipeline:
    run = {"output": str(folder / "run"), "engine": {"executor": "inline"}, "fragment_rows": 8}
    return config.parse({"name": name, "inputs": [str(folder / given) for given in inputs], "stages": stages, **run})


CURATION = ("resolution", "photometric", "validity", "signature", "near_duplicates")
TASKS = tuple(asks.WEIGHTS)
REFINEMENT = ("change_mask", "rgb_entropy", "verify", "score", "likeness", "same_pairs")


def photographs(folder: Path) -> Pipeline:
    """Curation."""
    golden_pictures.write(folder / "photos", golden_pictures.photographs())
    return _pipeline("photographs", folder, ["photos"], [_open(f"curation.{name}") for name in CURATION])


def objects(folder: Path) -> Pipeline:
    """Proposals: of things that nobody can miss, and of photographs."""
    pictures = golden_pictures.photographs()
    chosen = {name: pictures[name] for name in ("shapes-2", "astronaut", "coffee")}
    golden_pictures.write(folder / "photos", chosen)
    return _pipeline("objects", folder, ["photos"], [_open("annotation.detect")])


def declaring(folder: Path) -> Pipeline:
    """What files say of themselves."""
    (folder / "photos").mkdir()
    for name, data in golden_pictures.declaring().items():
        (folder / "photos" / f"{name}.png").write_bytes(data)
    return _pipeline("declaring", folder, ["photos"], [_open("curation.provenance")])


def edits(folder: Path) -> Pipeline:
    """Every task of the engines without weights, from the writer to the last stage."""
    pictures = {"0": golden_pictures.shapes(0), "1": golden_pictures.shapes(1), "large": golden_pictures.large()}
    golden_pictures.write(folder / "photos", pictures)
    stages = [
        _open("annotation.detect"),
        _open("annotation.instruct", {"edits_per_image": 10, "tasks": dict.fromkeys(TASKS, 1)}),
        _open("annotation.screen"),
        _open("generation.edit"),
        *(_open(f"refinement.{name}") for name in REFINEMENT),
    ]
    return _pipeline("edits", folder, ["photos"], stages)


def pairs(folder: Path) -> Pipeline:
    """Pairs that somebody else made."""
    lines = []
    for number, (name, (source, edited, said)) in enumerate(golden_pictures.pairs().items()):
        golden_pictures.write(folder, {f"{number}-source": source, f"{number}-edited": edited})
        place = {"source": f"{number}-source.bmp", "edited": f"{number}-edited.bmp"}
        lines.append(json.dumps({**place, "instruction": name, **said}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return _pipeline("pairs", folder, ["pairs.jsonl"], [_open(f"refinement.{name}") for name in REFINEMENT])


CASES: dict[str, Callable[[Path], Pipeline]] = {
    case.__name__: case for case in (photographs, declaring, objects, edits, pairs)
}
NOT_HERE = {
    "curation.embed": "an encoder's weights: tests/models/",
    "curation.predict": "an encoder's weights: tests/models/",
    "curation.text": "a reader's weights: tests/models/",
}
"""Stages without a case here, and where their values are."""


# ---- values


def measured(case: str, folder: Path) -> dict[str, Stored]:
    """Runs a case in an empty folder: what ingest and each stage wrote, in the pipeline's order."""
    view = go(CASES[case](folder))
    pipeline = view.pipeline
    ingested = [name for name in pipeline.ingest_schema.names if name not in ("id", "sources")]
    levels = {INGEST: pipeline.base_level}
    written = {INGEST: (pipeline.ingest_fingerprint, ingested)}
    for spec in pipeline.stages:
        levels[spec.name] = "edit" if spec.cls.fans_out else spec.level
        written[spec.name] = (spec.fingerprint, list(spec.cls.schema.names))
    found = {}
    for name, (fingerprint, columns) in written.items():
        rows = [row for part in view.rows(levels[name], columns) for row in part.to_pylist()]
        rows.sort(key=lambda row: row["id"])
        assert not any(row["status"] == "pending" for row in rows), case
        values = {column: [simple(row[column]) for row in rows] for column in columns}
        failures = [
            row["reason"]["message"] if row["status"] == "failed" and row["stage"] == name else "" for row in rows
        ]
        values |= {"failure": failures} if any(failures) else {}
        found[name] = Stored(fingerprint, {"id": [row["id"][:8] for row in rows], **values})
    return found


def simple(value: Any) -> Any:
    """A column's value as plain data of few characters: rounded, pictures as the means of their tiles."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [simple(item) for item in value]
    if isinstance(value, dict):
        return {key: simple(item) for key, item in value.items()}
    if isinstance(value, str) and value[:1] in ("{", "["):
        return simple(json.loads(value))
    if isinstance(value, bytes):
        return _simple_bytes(value)
    return value


def _simple_bytes(data: bytes) -> dict[str, Any]:
    try:
        pixels = images.decode(data)
    except images.ImageError:
        return {"bytes": data.hex()}
    height, width = pixels.shape[:2]
    y, x = (np.linspace(0, side, GRID + 1).astype(int) for side in (height, width))
    tiles = [[pixels[top:bottom, left:right].mean() for left, right in pairwise(x)] for top, bottom in pairwise(y)]
    return {"size": [width, height], "tiles": np.rint(tiles).astype(int).tolist()}


def differ(stored: Any, found: Any, relative: float = RELATIVE, absolute: float = ABSOLUTE) -> bool:
    """Whether two simplified values say different things."""
    if isinstance(stored, str) and isinstance(found, str):
        return _texts_differ(stored, found, relative)
    if isinstance(stored, bool | str) or stored is None or isinstance(found, bool | str) or found is None:
        return stored is not found if isinstance(stored, bool) or isinstance(found, bool) else stored != found
    if isinstance(stored, int | float) and isinstance(found, int | float):
        return abs(stored - found) > max(absolute, relative * max(abs(stored), abs(found)))
    if isinstance(stored, list) and isinstance(found, list):
        pairs = zip(stored, found, strict=False)
        return len(stored) != len(found) or any(differ(a, b, relative, absolute) for a, b in pairs)
    if isinstance(stored, dict) and isinstance(found, dict):
        if stored.keys() != found.keys():
            return True
        if "bytes" in stored:
            return _bytes_differ(bytes.fromhex(stored["bytes"]), bytes.fromhex(found["bytes"]))
        return any(differ(stored[key], found[key], relative, LEVELS if key == "tiles" else absolute) for key in stored)
    return True


def _texts_differ(stored: str, found: str, relative: float) -> bool:
    """Numbers in a text may differ by one in their last digit."""
    number = r"-?\d+(?:\.\d+)?"
    if re.split(number, stored) != re.split(number, found):
        return True
    for a, b in zip(re.findall(number, stored), re.findall(number, found), strict=True):
        last = 10.0 ** -len(a.partition(".")[2])
        if differ(float(a), float(b), relative, 1.01 * last if "." in a else ABSOLUTE):
            return True
    return False


def _bytes_differ(stored: bytes, found: bytes) -> bool:
    if len(stored) != len(found):
        return True
    off = np.frombuffer(stored, np.uint8) - np.frombuffer(found, np.uint8)
    return bool((np.minimum(off, -off) > BYTES_OFF).mean() > SHARE_OFF)


# ---- the files


def kept(case: str) -> dict[str, Stored]:
    """The values that are committed, {} if there are none yet."""
    path = VALUES / f"{case}.json"
    if not path.exists():
        return {}
    return {name: Stored(**entry) for name, entry in json.loads(path.read_text("utf-8")).items()}


def keep(case: str, found: Mapping[str, Stored]) -> None:
    """One line a column, so that two changes of two stages merge."""
    stages = []
    for name, stored in found.items():
        lines = (
            f"   {json.dumps(key)}: {json.dumps(values, ensure_ascii=False)}" for key, values in stored.columns.items()
        )
        columns = ",\n".join(lines)
        head = f' {json.dumps(name)}: {{\n  "fingerprint": {json.dumps(stored.fingerprint)},\n  "columns": {{\n'
        stages.append(f"{head}{columns}\n  }}\n }}")
    VALUES.mkdir(exist_ok=True)
    (VALUES / f"{case}.json").write_text("{\n" + ",\n".join(stages) + "\n}\n", encoding="utf-8")


@dataclass(frozen=True)
class Wrong:
    """unraised: columns moved and the version did not. Otherwise the version was raised and the values are old ones."""

    unraised: bool
    message: str


def compare(case: str, before: Mapping[str, Stored], now: Mapping[str, Stored]) -> Wrong | None:
    """The first stage in the pipeline's order that does not agree with its stored values; those after it may follow."""
    for name, found in now.items():
        stored = before.get(name)
        if stored is None or stored.fingerprint != found.fingerprint:
            return Wrong(False, f"{case}: {name} has another version, other settings or other inputs: run {COMMAND}")
        relative = EDITED if case == edits.__name__ else RELATIVE
        moved = list(_moved(stored.columns, found.columns, relative))
        if moved:
            return Wrong(
                True,
                f"{case}: {name} writes other values under the same version ({'; '.join(moved[:4])}). Raise `version` "
                f"of the stage, or of the engine whose formula changed (VERSION of ugaf.ingest), then run {COMMAND}",
            )
    extra = [name for name in before if name not in now]
    return Wrong(False, f"{case}: {', '.join(extra)} is no stage of it any more: run {COMMAND}") if extra else None


def _moved(before: Columns, now: Columns, relative: float) -> Iterator[str]:
    if before.keys() != now.keys():
        yield f"columns {sorted(before.keys() ^ now.keys())}"
    for column in before.keys() & now.keys():
        both = enumerate(zip(before[column], now[column], strict=False))
        rows = [row for row, pair in both if differ(*pair, relative)]
        if rows:
            first = rows[0]
            was, is_now = (json.dumps(values[column][first], ensure_ascii=False)[:80] for values in (before, now))
            yield f"{column} of {len(rows)} rows, e.g. {was} became {is_now}"
        elif len(before[column]) != len(now[column]):
            yield f"{len(now[column])} rows, not {len(before[column])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", action="store_true", help="values moved with OpenCV or numpy, not with our code")
    by_libraries = parser.parse_args().libraries
    refused = 0
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(case, Path(folder))
        before = kept(case)
        wrong = compare(case, before, found)
        if wrong is not None and wrong.unraised and not by_libraries:
            print(wrong.message, file=sys.stderr)
            refused = 1
        elif wrong is not None:
            keep(case, found)
            print(f"{case}: written")
    return refused


if __name__ == "__main__":
    sys.exit(main())
