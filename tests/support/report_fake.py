"""A run view over in-memory tables, for tests of what reads runs: the same methods as `ugaf.columns.view.RunView`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import skimage.data

from ugaf.columns.reasons import TYPE, Reason
from ugaf.imaging import images

EVIL = "<script>alert(1)</script> & \"paint\" the 'cat' \u2028 </script><img src=x onerror=alert(2)>"
VERDICT = ["id", "parent", "status", "stage", "reason"]
BOXES = pa.list_(pa.list_(pa.int32()))
TASKS = ("recolor", "remove", "add", "style", "tone", "text")


def broken(column: str, limit: str, value: object) -> dict[str, str]:
    """The reason of a row that breaks a rule."""
    return Reason(f"{column} {limit}", column, str(value), limit)._asdict()


def failed(error: str) -> dict[str, str]:
    """The reason of a row that failed."""
    return Reason.failed(error)._asdict()


@dataclass
class FakeStage:
    name: str
    level: str
    columns: list[str]
    measures: list[str] = field(default_factory=list)
    keep: dict[str, dict[str, Any]] = field(default_factory=dict)
    fingerprint: str = "0123456789abcdef"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeStorage:
    files: dict[str, bytes] = field(default_factory=dict)
    writes: int = 0

    def exists(self, path: str) -> bool:
        return path in self.files

    def read(self, path: str) -> bytes:
        return self.files[path]

    def write(self, path: str, data: bytes) -> None:
        self.files[path] = data
        self.writes += 1


class FakeView:
    """`tables`: level -> table with the verdict columns and all others, in the order of (fragment, id)."""

    def __init__(self, name: str, stages: list[FakeStage], tables: dict[str, pa.Table], fragment: int = 256) -> None:
        self.name, self.about = name, "A demo & a test"
        own = {column for stage in stages if stage.level == "image" for column in stage.columns} - set(FANNED_OUT)
        self.pipeline = SimpleNamespace(
            free_text=frozenset({"instruction", "caption", "params", "screen_detail", "global_reason", "local_reason"}),
            document={"name": name, "description": "A demo & a test"},
            settings=SimpleNamespace(export=SimpleNamespace(balance=None), quantiles=SimpleNamespace(source="run")),
            is_base_column=lambda column: column in own or "image" not in tables,
        )
        self.record = {"ugaf": "0.1.0", "python": "3.11.2", "packages": {"ray": "2.60.0"}}
        self.path = f"runs/{name}"
        self.storage = FakeStorage()
        self.stages = stages
        self.snapshot = None
        self.tables = tables
        self.fragment = fragment

    def rows(
        self, level: str, columns: Sequence[str] = (), *, kept: bool = False, ids: set[str] | None = None
    ) -> Iterator[pa.Table]:
        whole = self.tables[level]
        names = [name for name in VERDICT if name in whole.column_names]
        for start in range(0, whole.num_rows, self.fragment):
            table = whole.slice(start, self.fragment)
            if kept:
                table = table.filter(pc.equal(table["status"], "kept"))
            if ids is not None:
                table = table.filter(pc.is_in(table["id"], pa.array(sorted(ids), pa.string())))
            out = table.select(names)
            photos = self.tables.get("image")
            where = None
            for column in columns:
                if column not in table.column_names:
                    assert photos is not None
                    where = pc.index_in(table["parent"], photos["id"]) if where is None else where
                    out = out.append_column(column, photos[column].take(where))
                else:
                    out = out.append_column(column, table[column])
            yield out

    def funnel(self) -> list[SimpleNamespace]:
        """Counted from the tables: a row was given to all stages of its level up to the one that decided."""
        counts = []
        for stage in self.stages:
            level = self.tables[stage.level]
            order = [other.name for other in self.stages if other.level == stage.level]
            here = order.index(stage.name)
            verdicts = [
                (status, decided, reason)
                for status, decided, reason in zip(*(level[name].to_pylist() for name in VERDICT[2:]), strict=True)
                if status == "kept" or order.index(decided) >= here
            ]
            out = [(status, reason) for status, decided, reason in verdicts if decided == stage.name]
            rejected = dict(Counter(reason["cause"] for status, reason in out if status == "rejected"))
            errors = dict(Counter(reason["cause"] for status, reason in out if status == "failed"))
            pending = sum(status == "pending" for status, _ in out)
            counts.append(
                SimpleNamespace(
                    name=stage.name,
                    level=stage.level,
                    given=len(verdicts),
                    kept=len(verdicts) - len(out),
                    rejected=rejected,
                    failed=sum(errors.values()),
                    pending=pending,
                    errors=errors,
                    seconds=0.01 * len(verdicts) * (1 + len(stage.name) % 5),
                    rows=len(verdicts) - pending,
                )
            )
        return counts


FANNED_OUT = ["task", "instruction", "register", "boxes", "engine", "params"]
IMAGE_STAGES = [
    FakeStage("ingest", "image", ["image", "sources", "width", "height", "format", "caption"], ["width", "height"]),
    FakeStage(
        "curation.photometric",
        "image",
        ["rgb_entropy", "saturation"],
        ["rgb_entropy", "saturation"],
        {"rgb_entropy": {"min": 5.5}, "saturation": {"min": 0.02, "min_quantile": 0.02}},
    ),
    FakeStage("annotation.detect", "image", ["objects", "n_objects", "detector"], ["n_objects"]),
    # Given photographs; its columns are those of the edits that it makes.
    FakeStage("annotation.instruct", "image", FANNED_OUT),
]
EDIT_STAGES = [
    FakeStage("annotation.screen", "edit", ["screen"], [], {"screen": {"one_of": ["ok"]}}),
    FakeStage("generation.edit", "edit", ["source_image", "edited_image", "editor"]),
    FakeStage(
        "refinement.change_mask",
        "edit",
        ["bbox_edit", "iou", "change_area"],
        ["iou", "change_area"],
        {"iou": {"min": 0.5}},
    ),
    FakeStage("refinement.score", "edit", ["quality"], ["quality"], {"quality": {"min": 6.0}}),
]


def photographs() -> dict[str, np.ndarray]:
    """Real photographs that scikit-image carries, the larger ones at half their size."""
    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
    found = {name: np.asarray(getattr(skimage.data, name)()) for name in names}
    found["motorcycle"] = np.asarray(skimage.data.stereo_motorcycle()[0])
    return {name: pixels[::2, ::2] if pixels.shape[0] > 600 else pixels for name, pixels in found.items()}


BOX_OF = {
    "astronaut": (160, 60, 300, 260),
    "chelsea": (90, 40, 330, 290),
    "coffee": (140, 60, 460, 340),
    "rocket": (290, 40, 360, 350),
    "hubble_deep_field": (350, 300, 560, 480),
    "retina": (160, 160, 350, 380),
    "motorcycle": (120, 130, 640, 470),
}
WORDS = {
    "recolor": "Change the colour of the object at the centre to teal, and leave everything else as it is.",
    "remove": "Remove the object.",
    "add": "Add the object back where it was, with matching light.",
    "style": "Paint the object as a watercolour.",
    "tone": "Make the whole photograph warmer, as in the golden hour.",
    "text": EVIL,
}


def invent_edit(photo: np.ndarray, box: tuple[int, int, int, int], task: str) -> np.ndarray:
    """A crude edit of the box (or, for tone, of the whole), enough to look different."""
    edited = photo.copy()
    x1, y1, x2, y2 = box
    part = edited[y1:y2, x1:x2].astype(np.float64)
    if task in ("remove", "add"):
        part[:] = photo[max(y1 - 8, 0) : max(y1, 1), x1:x2].mean(axis=0, keepdims=True)
    elif task == "recolor":
        part = part.mean(axis=2, keepdims=True) * np.array([0.2, 1.0, 0.95])
    elif task == "style":
        part = np.rint(part / 64) * 64
    elif task == "tone":
        return np.clip(photo * np.array([1.15, 1.0, 0.8]), 0, 255).astype(np.uint8)
    else:
        part[: (y2 - y1) // 4] = 255
    edited[y1:y2, x1:x2] = np.clip(part, 0, 255).astype(np.uint8)
    return edited


def photo_run() -> FakeView:
    """Seven photographs and two bad files, with invented edits: each verdict occurs on both levels."""
    photos, edits = _photo_tables()
    return FakeView("demo <run>", [*IMAGE_STAGES, *EDIT_STAGES], {"image": photos, "edit": edits}, 16)


@functools.cache
def _photo_tables() -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(7)
    photo_rows: list[dict[str, Any]] = []
    edit_rows: list[dict[str, Any]] = []
    for n, (name, pixels) in enumerate(sorted(photographs().items())):
        id = f"{n:032x}"
        data = images.encode(pixels, "jpeg")
        dull = name == "hubble_deep_field"
        photo_rows.append({
            "id": id, "status": "rejected" if dull else "kept", "stage": "curation.photometric" if dull else "",
            "reason": broken("rgb_entropy", "< 5.5", 3.1) if dull else None, "image": data, "sources": [f"sample://{name}"],
            "width": pixels.shape[1], "height": pixels.shape[0], "format": "JPEG",
            "rgb_entropy": 3.1 if dull else float(rng.uniform(5.6, 7.8)),
            "saturation": float(rng.uniform(0.1, 0.8)),
            "n_objects": None if dull else 3, "detector": None if dull else "proposals",
        })  # fmt: skip
        if not dull:
            edit_rows += [_edit(id, n, t, task, pixels, name, rng) for t, task in enumerate(TASKS)]
    damaged = [
        (b"\xff\xd8\xff\xe0 not a JPEG", "ImageError: damaged <b>header</b>"),
        (b"", "ImageError: empty file (0 bytes)"),
    ]
    for n, (data, why) in enumerate(damaged):
        photo_rows.append(
            {"id": f"bad{n:029x}", "status": "failed", "stage": "ingest", "reason": failed(why), "image": data}
            | {"sources": [f"bad/{n}.jpg"]}
        )
    return image_table(photo_rows), edit_table(edit_rows)


def _edit(
    parent: str, n: int, t: int, task: str, pixels: np.ndarray, name: str, rng: np.random.Generator
) -> dict[str, Any]:
    box = BOX_OF[name]
    edited = images.encode(invent_edit(pixels, box, task), "png" if t == 3 else "jpeg")
    tone = task == "tone"
    row: dict[str, Any] = {
        "id": f"e{n:015x}{t:016x}", "parent": parent, "status": "kept", "stage": "", "reason": None, "task": task,
        "instruction": WORDS[task], "register": ("detailed", "concise", "user")[t % 3], "engine": "templates",
        "boxes": [] if tone else [list(box)], "params": '{"object": 0}', "screen": "ok",
        "source_image": edited if task == "add" else None, "edited_image": None if task == "add" else edited,
        "editor": "templates/1", "bbox_edit": None if tone else [box[0] + 6, box[1] + 4, box[2] - 3, box[3] - 7],
        "iou": None if tone else float(rng.uniform(0.55, 0.98)), "change_area": float(rng.uniform(0, 0.4)),
        "quality": float(rng.uniform(6, 9.5)),
    }  # fmt: skip
    late = dict.fromkeys(("source_image", "edited_image", "editor", "bbox_edit", "iou", "change_area", "quality"))

    def out(status: str, stage: str, reason: dict[str, str] | None, **columns: Any) -> dict[str, Any]:
        return {**row, "status": status, "stage": stage, "reason": reason, **columns}

    if (n + t) % 7 == 1:
        return out("rejected", "refinement.change_mask", broken("iou", "< 0.5", 0.31), iou=0.31, quality=None)
    if (n + t) % 7 == 3:
        return out("rejected", "annotation.screen", broken("screen", "is not one of ok", "face"), screen="face", **late)
    if (n, t) == (0, 0):
        return out("failed", "generation.edit", failed("RowError: the mask is empty"), **late)
    if (n, t) == (1, 5):
        return out("pending", "generation.edit", None, **late)
    return row


def image_table(rows: list[dict[str, Any]]) -> pa.Table:
    objects = pa.list_(pa.struct([("box", pa.list_(pa.int32())), ("mask", pa.large_binary())]))
    return pa.Table.from_pylist(rows, schema=pa.schema([
        ("id", pa.string()), ("status", pa.string()), ("stage", pa.string()), ("reason", TYPE),
        ("image", pa.large_binary()), ("sources", pa.list_(pa.string())), ("width", pa.int32()), ("height", pa.int32()),
        ("format", pa.string()), ("caption", pa.string()), ("rgb_entropy", pa.float64()), ("saturation", pa.float64()),
        ("objects", objects), ("n_objects", pa.int32()), ("detector", pa.string()),
    ]))  # fmt: skip


def edit_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=EDIT_SCHEMA)


EDIT_SCHEMA = pa.schema([
    ("id", pa.string()), ("parent", pa.string()), ("status", pa.string()), ("stage", pa.string()),
    ("reason", TYPE), ("task", pa.string()), ("instruction", pa.string()), ("register", pa.string()),
    ("boxes", BOXES), ("engine", pa.string()), ("params", pa.string()), ("screen", pa.string()),
    ("source_image", pa.large_binary()), ("edited_image", pa.large_binary()), ("editor", pa.string()),
    ("bbox_edit", pa.list_(pa.int32())), ("iou", pa.float64()), ("change_area", pa.float64()),
    ("quality", pa.float64()),
])  # fmt: skip


LINK = pa.struct([("id", pa.string()), ("distance", pa.int32()), ("similarity", pa.float32())])


def curation_run(measures: int = 32) -> FakeView:
    """Photographs with many measures, one with a fitted rule; three of them are near-duplicates of a fourth."""
    rng = np.random.default_rng(5)
    photos = _photo_tables()[0].to_pylist()
    kept = [row for row in photos if row["status"] == "kept"]
    first = kept[0]
    for row in kept[1:4]:
        row |= {"status": "rejected", "stage": "curation.near_duplicates"}
        row |= {"reason": Reason("neighbours: near-duplicate", winner=first["id"])._asdict()}
        row["neighbours"] = [{"id": first["id"], "distance": 3, "similarity": 0.97}]
    names = [f"measure_{n:02d}" for n in range(measures)]
    for row in photos:
        good = row["status"] != "failed"
        row |= {name: float(rng.normal(n, 1)) if good else None for n, name in enumerate(names)}
        row["generator"] = "a painter" if row["id"] == first["id"] else None
        row["embedding"] = [np.float16(x) for x in rng.normal(size=8)] if good else None
    more = [pa.field(name, pa.float64()) for name in names] + [pa.field("generator", pa.string())]
    more += [pa.field("neighbours", pa.list_(LINK)), pa.field("embedding", pa.list_(pa.float16()))]
    schema = pa.schema([*_photo_tables()[0].schema, *more])
    fitted = {"min": -1.75, "min_quantile": 0.02, "sampled_rows": 5000}
    distinct = {"distinct": {"where": {"similarity": {"min": 0.9}}, "best": ["width"]}}
    stages = [
        *IMAGE_STAGES[:2],
        FakeStage("curation.photometry", "image", [*names, "generator"], names, {"measure_00": fitted}),
        FakeStage("curation.embed", "image", ["embedding"]),
        FakeStage("curation.near_duplicates", "image", ["neighbours"], [], {"neighbours": distinct}),
    ]
    return FakeView("curation", stages, {"image": pa.Table.from_pylist(photos, schema=schema)})


def big_run(edits: int = 100_000, photos: int = 20_000) -> FakeView:
    """Many rows with tiny images, each of 40 texts and scores by a fixed seed."""
    rng = np.random.default_rng(0)
    tiles = [images.encode(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), "jpeg", 80) for _ in range(64)]
    entropy = rng.normal(6.8, 0.7, photos)
    dull = entropy < 5.5
    image = pa.table({
        "id": [f"{n:032x}" for n in range(photos)],
        "status": np.where(dull, "rejected", "kept"), "stage": np.where(dull, "curation.photometric", ""),
        "reason": pa.array([broken("rgb_entropy", "< 5.5", f"{e:.3g}") if e < 5.5 else None for e in entropy], TYPE),
        "image": pa.array([tiles[n % 64] for n in range(photos)], pa.large_binary()),
        "sources": pa.array([[f"in/{n}.jpg"] for n in range(photos)]), "width": np.full(photos, 32, np.int32),
        "height": np.full(photos, 24, np.int32), "format": ["JPEG"] * photos, "caption": pa.nulls(photos, pa.string()),
        "rgb_entropy": entropy, "saturation": rng.beta(2, 4, photos), "objects": pa.nulls(photos, pa.null()),
        "n_objects": rng.integers(0, 9, photos).astype(np.int32), "detector": ["proposals"] * photos,
    })  # fmt: skip
    good = np.flatnonzero(~dull)
    iou, quality = rng.beta(6, 2, edits), rng.normal(7.2, 1.1, edits)
    stages, reasons = [], []
    for n in range(edits):
        if n % 5000 == 0:
            stage, reason = "generation.edit", failed("RowError: the mask is empty")
        elif iou[n] < 0.5:
            stage, reason = "refinement.change_mask", broken("iou", "< 0.5", f"{iou[n]:.3g}")
        elif quality[n] < 6:
            stage, reason = "refinement.score", broken("quality", "< 6", f"{quality[n]:.3g}")
        else:
            stage, reason = "", None
        stages.append(stage)
        reasons.append(reason)
    verdict = {"": "kept", "generation.edit": "failed"}
    same = {"register": "concise", "engine": "templates", "params": "{}", "screen": "ok", "editor": "templates/1"}
    table = pa.table({
        "id": [f"e{n:031x}" for n in range(edits)],
        "parent": [f"{good[n * len(good) // edits]:032x}" for n in range(edits)],
        "status": [verdict.get(stage, "rejected") for stage in stages], "stage": stages,
        "reason": pa.array(reasons, TYPE),
        "task": [TASKS[n % len(TASKS)] for n in range(edits)], "instruction": [f"Edit {n}" for n in range(edits)],
        "boxes": pa.array([[[4, 4, 20, 18]]] * edits, BOXES), "source_image": pa.nulls(edits, pa.large_binary()),
        "edited_image": pa.array([tiles[(7 * n + 3) % 64] for n in range(edits)], pa.large_binary()),
        "bbox_edit": pa.array([[5, 4, 20, 17]] * edits, pa.list_(pa.int32())), "iou": iou,
        "change_area": rng.beta(1, 8, edits), "quality": quality,
        **{name: [value] * edits for name, value in same.items()},
    })  # fmt: skip
    return FakeView(
        "big", [*IMAGE_STAGES, *EDIT_STAGES], {"image": image, "edit": table.select(EDIT_SCHEMA.names)}, 1000
    )
