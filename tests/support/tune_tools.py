"""Runs whose columns are written by hand, for tests and measurements of tuning: any values, nothing computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ugaf.columns import record
from ugaf.columns.parts import CHILDREN, SOURCES, Columns
from ugaf.columns.view import RunView
from ugaf.imaging import images
from ugaf.ingest import SourceRef
from ugaf.ingest.produce import image_id
from ugaf.pipeline import config
from ugaf.pipeline.config import Pipeline
from ugaf.storage import Storage
from ugaf.storage.store import parquet_bytes

FIRST, SECOND, FAN, LAST, ALIKE = (f"tune_stages:{name}" for name in ("First", "Second", "Fan", "Last", "Alike"))


def row_id(*parts: Any) -> str:
    """An id as ugaf's are: 32 hexadecimal digits."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def pictures(count: int, side: int = 24) -> list[bytes]:
    """Small JPEGs, each of its own colour."""
    colours = np.random.default_rng(0).integers(0, 255, (count, 3))
    return [images.encode(np.full((side, side, 3), colour, np.uint8), "jpeg", 80) for colour in colours]


def named(jpeg: bytes, *parts: Any) -> bytes:
    """The same picture with a comment that no other has, so that its id is its own."""
    text = "/".join(map(str, parts)).encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + jpeg[2:]


def photographs_of(made: Iterable[bytes]) -> dict[str, bytes]:
    """By id, as it is checked when they are read."""
    return {image_id(data): data for data in made}


class Written:
    """A run's folder that gets its rows from the caller."""

    def __init__(self, folder: Path | str, stages: list[Any], **top: Any) -> None:
        document = {
            "name": "test",
            "inputs": [{"path": str(folder), "kind": "images"}],
            "output": str(folder),
            "engine": {"executor": "inline"},
            "stages": stages,
            **top,
        }
        self.pipeline: Pipeline = config.parse(document)
        self.columns = Columns(Storage(str(folder)), self.pipeline)

    def fragment(
        self,
        number: int,
        ids: list[str | None],
        image: Mapping[str, bytes],
        broken: Mapping[str, str] | None = None,
    ) -> str:
        """Photographs of one fragment; None is a source that has not been read, `broken` those that could not be."""
        name = f"{number:06d}"
        refs = [SourceRef(f"/{name}/{place}.jpg", "", "1", "image", "{}") for place in range(len(ids))]
        self.columns.storage.write(f"{SOURCES}/{name}.parquet", parquet_bytes(SourceRef.to_table(refs)))
        rows = [
            {"id": key, "image": image.get(key), "width": 24, "height": 24, "sources": [refs[place].key]}
            | {"refs": [place], "error": (broken or {}).get(key)}
            for place, key in enumerate(ids)
            if key is not None
        ]
        self.columns.write("ingest", name, rows, 1.0)
        return name

    def stage(self, stage: str, fragment: str, rows: list[dict[str, Any]]) -> None:
        """A stage's rows: its columns, or `error`."""
        if rows:
            self.columns.write(stage, fragment, rows, 1.0)

    def view(self) -> RunView:
        """The run, read as it is recorded."""
        view = RunView(self.pipeline.output, self.pipeline)
        record.save(self.columns, view.fits)
        return RunView(self.pipeline.output)


def number(rng: np.random.Generator, spread: float = 1.0, odd: float = 0.1) -> float | None:
    """A value, now and then null, NaN or infinite."""
    draw = rng.random()
    if draw < odd:
        return [None, float("nan"), float("inf"), float("-inf")][int(rng.integers(4))]
    # Some values stand more than once, so that thresholds fall on them.
    return round(float(rng.normal(0.5, spread)), 1 if rng.random() < 0.5 else 6)


def varied_run(
    folder: Path, seed: int = 0, photographs: int = 60, fragments: int = 3, complete: bool = False, **keep: Any
) -> Written:
    """A run of four stages with rows of every kind: failed, not measured, null, NaN, without an edit.

    complete: every stage has measured every row, and nothing failed.
    """
    rng = np.random.default_rng(seed)
    stages = [{name: {"keep": keep.get(name, {})}} for name in (FIRST, SECOND, FAN, LAST)]
    stages[2] = FAN
    run = Written(folder, stages)
    blobs = pictures(8)
    lost, wrong = (0.0, 0.0) if complete else (0.06, 0.05)

    def measured(keys: list[str], columns: Any) -> list[dict[str, Any]]:
        rows = []
        for key in keys:
            if rng.random() < lost:
                continue
            rows.append({"id": key, "error": "ValueError: no"} if rng.random() < wrong else {"id": key, **columns(key)})
        return rows

    for fragment in range(fragments):
        places = range(photographs // fragments)
        image = photographs_of(named(blobs[int(rng.integers(len(blobs)))], seed, fragment, place) for place in places)
        ids = list(image)
        listed: list[str | None] = [*ids] if complete else [*ids, None]
        name = run.fragment(fragment, listed, image, {} if complete else {ids[0]: "OSError: broken"})
        run.stage(
            FIRST,
            name,
            measured(
                ids,
                lambda _: {
                    "a": number(rng),
                    "b": number(rng),
                    "n": int(rng.integers(0, 12)) if rng.random() > 0.1 else None,
                    "word": ["fine", "<script>alert(1)</script>", None][int(rng.choice(3, p=[0.8, 0.1, 0.1]))],
                    "free": number(rng),
                },
            ),
        )
        run.stage(SECOND, name, measured(ids, lambda _: {"d": number(rng, 4), "e": int(rng.integers(-5, 5))}))
        edits = {key: [row_id(key, edit) for edit in range(int(rng.integers(0, 4)))] for key in ids}
        made_of = {key: [{"id": edit, "task": "x"} for edit in of] for key, of in edits.items()}
        fan = measured(ids, lambda key, made_of=made_of: {CHILDREN: made_of[key]})
        run.stage(FAN, name, fan)
        made = [child["id"] for row in fan for child in row.get(CHILDREN) or ()]
        run.stage(LAST, name, measured(made, lambda _: {"s": number(rng, 0.5), "t": int(rng.integers(-1, 9))}))
    return run


def linked_run(folder: Path, seed: int = 0, photographs: int = 90) -> Written:
    """A run in which photographs resemble each other: First, then Alike, all measured."""
    rng = np.random.default_rng(seed)
    run = Written(folder, [FIRST, ALIKE])
    (blob,) = pictures(1)
    image = photographs_of(named(blob, seed, place) for place in range(photographs))
    ids = sorted(image)
    links: dict[str, dict[str, float]] = {key: {} for key in ids}
    for _ in range(photographs):
        one, other = rng.choice(ids, 2, replace=False)
        # Stored at one end or at both, as the stage that found it happened to have them.
        links[one][other] = float(np.float32(rng.random()))
        if rng.random() < 0.5:
            links[other][one] = links[one][other]
    for fragment in range(3):
        here = ids[fragment::3]
        name = run.fragment(fragment, list(here), image)
        first = [{"id": key, "a": number(rng), "n": int(rng.integers(2, 12)), "word": "fine"} for key in here]
        run.stage(FIRST, name, first)
        near = {key: [{"id": other, "similarity": s} for other, s in links[key].items()] for key in here}
        run.stage(ALIKE, name, [{"id": key, "near": near[key], "width_seen": int(rng.integers(1, 9))} for key in here])
    return run


def thresholds(rng: np.random.Generator, spread: float = 1.0) -> float:
    """A number to compare with: often one that rows have."""
    return round(float(rng.normal(0.5, spread)), 1 if rng.random() < 0.6 else 5)


def random_bounds(data: Any, rng: np.random.Generator, spread: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Any numeric rules, present ones (quantiles too) left in half of the cases."""
    bounds: dict[str, Any] = {}
    for stage in data.stages:
        of = bounds[stage.name] = {}
        for name in stage.columns:
            kinds = dict(data.present.get(stage.name, {}).get(name, {})) if rng.random() < 0.5 else {}
            for side in ("min", "max"):
                if rng.random() < 0.3:
                    kinds.pop(f"{side}_quantile", None)
                    kinds[side] = thresholds(rng, (spread or {}).get(name, 1.0)) + (-1 if side == "min" else 1)
            for low, high in (("min", "max"), ("min_quantile", "max_quantile")):
                if low in kinds and high in kinds:
                    kinds[low], kinds[high] = sorted((kinds[low], kinds[high]))
            if kinds:
                of[name] = kinds
    return bounds


def with_bounds(view: RunView, bounds: Mapping[str, Mapping[str, Mapping[str, float]]]) -> RunView:
    """The run as it reads with these numeric rules in its pipeline; all other rules as they are."""
    document = view.pipeline.document
    for entry in document["stages"]:
        ((name, options),) = entry.items()
        spec = view.pipeline.stage(name)
        kinds = ("min", "max", "min_quantile", "max_quantile")
        keep: dict[str, Any] = {}
        for column in dict.fromkeys([*spec.keep, *bounds.get(name, {})]):
            others = {kind: bound for kind, bound in (spec.keep.get(column) or {}).items() if kind not in kinds}
            numbers = dict(bounds.get(name, {}).get(column, {}))
            for side in {kind.removesuffix("_quantile") for kind in spec.cls.keep.get(column, {})} & {"min", "max"}:
                if not any(kind.startswith(side) for kind in numbers):
                    numbers[side] = None
            keep[column] = {**numbers, **others}
        options["keep"] = keep
    return RunView(view.path, config.parse(document))


def as_funnel(found: Any) -> list[tuple[Any, ...]]:
    """A predicted funnel's numbers, comparable with `run_funnel`."""
    out = []
    for one in found:
        reasons = sorted((column, kind.split("_")[0], n) for (column, kind), n in one.rejected.items())
        out.append((one.name, one.given, one.kept, one.failed, one.pending, reasons))
    return out


def run_funnel(view: RunView) -> list[tuple[Any, ...]]:
    """What the run's own verdicts say, rule by rule, ingest left out."""
    out = {spec.name: [0, 0, 0, 0, {}] for spec in view.pipeline.stages}
    for fragment in view.verdicts():
        for given in fragment.stages[1:]:
            counts = out[given.stage]
            counts[0] += len(given.ids)
            for place, code in enumerate((0, 2, 3), 1):
                counts[place] += int(np.sum(given.code == code))
            for number in given.rule[given.code == 1]:
                rule = given.rules[number] if number >= 0 else None
                key = (rule.column, rule.kind.split("_")[0]) if rule is not None else ("", "")
                counts[4][key] = counts[4].get(key, 0) + 1
    return [(name, *counts[:4], sorted((*key, n) for key, n in counts[4].items())) for name, counts in out.items()]
