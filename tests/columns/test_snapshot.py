"""What is read from packs is what the parts say, whatever was done to a run; packs may be lost, foreign or damaged."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tune_tools import ALIKE, FAN, FIRST, LAST, SECOND, photographs_of, pictures, row_id

from ugaf.columns import keys, packs, record, snapshot, tally, tombstones
from ugaf.columns.addressing import search
from ugaf.columns.parts import CHILDREN, SOURCES, Columns
from ugaf.columns.snapshot import Snapshots
from ugaf.columns.survey import survey
from ugaf.columns.tombstones import Tombstones
from ugaf.columns.view import RunView
from ugaf.ingest import SourceRef
from ugaf.pipeline import config
from ugaf.storage import Storage
from ugaf.storage.stamps import stamped
from ugaf.storage.store import parquet_bytes

PHOTOGRAPHS = [*photographs_of(pictures(12))]
SETTINGS: list[dict[str, Any]] = [
    {},
    {FIRST: {"a": {"min": 0.2}, "word": {"one_of": ["fine"]}}},
    {SECOND: {"d": {"min_quantile": 0.4, "max": 9.0}, "e": {"max_quantile": 0.7}}},
    {
        ALIKE: {"near": {"distinct": {"where": {"similarity": {"min": 0.2}}, "best": ["-n", "width"]}}},
        LAST: {"s": None},
    },
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of two fragments, written for every file and joined early."""
    for module in (packs, snapshot, tally):
        monkeypatch.setattr(module, "FRAGMENTS", 2)
    monkeypatch.setattr(packs, "LEAST", 1)
    monkeypatch.setattr(packs, "MOST_SMALL", 2)


class Run:
    """A run's folder to which things are done; what is drawn comes from `rng`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.fragments = 0
        self.set_rules(0)
        record.save(self.columns, {})

    def set_rules(self, number: int) -> None:
        keep = SETTINGS[number]
        stages = [{name: {"keep": keep.get(name, {})}} for name in (FIRST, SECOND, ALIKE)]
        document = {
            "name": "test",
            "inputs": [{"path": str(self.folder), "kind": "images"}],
            "output": str(self.folder),
            "engine": {"executor": "inline"},
            "stages": [*stages, FAN, {LAST: {"keep": keep.get(LAST, {})}}],
        }
        self.pipeline = config.parse(document)
        self.columns = Columns(Storage(str(self.folder)), self.pipeline)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def add(self) -> None:
        """A fragment: some of few photographs, so that there are duplicates; some sources unread, broken or renewed."""
        name = f"{self.fragments:06d}"
        ids = [str(key) for key in self.rng.choice(PHOTOGRAPHS, int(self.rng.integers(1, 5)), replace=False)]
        lost = [row_id("broken", self.fragments) for _ in range(int(self.chance(0.5)))]
        rows, refs = [], []
        for place, key in enumerate([*ids, *lost]):
            # A name that stands in several fragments: the newest version speaks.
            of = f"/photographs/{int(self.rng.integers(6))}.jpg" if self.chance(0.5) else f"/{name}/{place}.jpg"
            refs.append(SourceRef(of, "", name, "image", "{}"))
            error = "OSError: broken" if key in lost else None
            rows.append(
                {"id": key, "width": int(self.rng.integers(1, 99)), "height": 24, "sources": [of], "refs": [place]}
                | {"error": error}
            )
        if self.chance(0.2):
            refs.append(SourceRef("/later.jpg", "", name, "image", "{}"))
        self.columns.storage.write(f"{SOURCES}/{name}.parquet", parquet_bytes(SourceRef.to_table(refs)))
        self.columns.write("ingest", name, rows, 1.0)
        self.fragments += 1
        self.measure(name, ids, 0)

    def measure(self, name: str, ids: list[str], attempt: int) -> None:
        rng = self.rng
        edits = {key: [row_id(key, edit) for edit in range(int(rng.integers(0, 3)))] for key in ids}
        made = [edit for of in edits.values() for edit in of]
        near = {key: [{"id": str(rng.choice(PHOTOGRAPHS)), "similarity": float(rng.random())}] for key in ids}

        def number() -> float | None:
            return [None, float("nan"), float("inf"), *rng.normal(0.5, 1, 5)][int(rng.integers(8))]

        columns = {
            FIRST: lambda _: {
                "a": number(),
                "n": int(rng.integers(2, 9)),
                "word": ["fine", None, "x"][rng.integers(3)],
            },
            SECOND: lambda _: {"d": number(), "e": int(rng.integers(-5, 5))},
            ALIKE: lambda key: {"near": near[key]},
            FAN: lambda key: {CHILDREN: [{"id": edit, "task": "x"} for edit in edits[key]]},
            LAST: lambda _: {"s": number(), "t": int(rng.integers(-1, 4))},
        }
        for stage, make in columns.items():
            here = [key for key in (made if stage == LAST else ids) if not self.chance(0.03)]
            rows = [
                {"id": key, "attempt": attempt}
                | ({"error": f"{rng.choice(['ValueError', 'OSError'])}: no"} if self.chance(0.1) else make(key))
                for key in here
            ]
            if rows:
                self.columns.write(stage, name, rows, float(rng.random()))

    def parts(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*@*/*/*.parquet"))

    def retry(self) -> None:
        if self.fragments:
            name = f"{int(self.rng.integers(self.fragments)):06d}"
            table, _ = self.columns.light("ingest", name, [])
            self.measure(name, [row["id"] for row in table.to_pylist() if row["error"] is None], 1)

    def delete(self) -> None:
        if parts := self.parts():
            parts[int(self.rng.integers(len(parts)))].unlink()

    def withdraw(self) -> None:
        key = str(self.rng.choice(PHOTOGRAPHS))
        stone = tombstones.stones([key], {}, {}, "2026-01-01", "asked")[0]
        known = Tombstones.read(self.columns.storage)
        Tombstones({**known.by_id, stone.id: stone}).write(self.columns.storage)
        self.columns = Columns(Storage(str(self.folder)), self.pipeline)

    def rules(self) -> None:
        self.set_rules(int(self.rng.integers(len(SETTINGS))))

    def damage(self) -> None:
        """A pack is cut short, has a bit that fell over, is something else, is one of another run, or is gone."""
        found = sorted((self.folder / packs.FOLDER).rglob("*.pack"))
        if not found:
            return
        path, other = (found[int(self.rng.integers(len(found)))] for _ in range(2))
        data = bytearray(path.read_bytes())
        way = int(self.rng.integers(5))
        if way == 0:
            data = data[: int(self.rng.integers(len(data)))]
        elif way == 1:
            data[int(self.rng.integers(len(data)))] ^= 1 << int(self.rng.integers(8))
        elif way == 2:
            data = bytearray(b"not a pack")
        elif way == 3:
            data = bytearray(other.read_bytes())
        if way < 4:
            path.write_bytes(data)
        else:
            path.unlink()


def told(view: RunView) -> str:
    """All that readers of the whole run get, in the order in which they get it."""
    fits = {
        name: [(rule, None if rule.losers is None else (rule.losers.ids.tolist(), rule.losers.winners.tolist()))
               for rule in rules]
        for name, rules in view.fits.items()
    }  # fmt: skip
    texts = [PHOTOGRAPHS[0], PHOTOGRAPHS[1][:3], PHOTOGRAPHS[2][:1], row_id(PHOTOGRAPHS[3], 0)[:20], "3.jpg", "later"]
    texts += ["/photographs", "000001/0.jpg", "graphs/2", row_id("broken", 1), " ", "none"]
    found = {text: (one.rank, one.matches) for text, one in search(view, texts).items()}
    looked = survey(view.columns) if view.snapshot is None else view.survey
    skips = {name: sorted(ids) for name, ids in sorted(view.skips.items())}
    parts = [
        skips, fits, looked.todo, looked.inputs, {k: v for k, v in looked.made_by.items() if v}, dict(looked.given),
        [counts.as_dict() for counts in view.funnel()], found,
    ]  # fmt: skip
    return "\n".join(map(repr, parts))


def check(run: Run, known: Snapshots | None = None) -> None:
    """Packs, made just now or long ago, say what the parts say."""
    reference = RunView(str(run.folder), run.pipeline)
    reference.snapshot = None
    wanted = told(reference)
    views = [RunView(str(run.folder), run.pipeline), RunView(str(run.folder), run.pipeline, writes=False)]
    if known is not None:
        views.append(RunView(str(run.folder), run.pipeline, snapshot=known.now()))
    for view in views:
        assert view.snapshot is not None
        assert told(view) == wanted


ACTIONS = ("add", "add", "retry", "delete", "withdraw", "rules", "damage", "damage")


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), actions=st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=8))
def test_packs_say_what_the_parts_say(tmp_path_factory: pytest.TempPathFactory, seed: int, actions: list[str]) -> None:
    run = Run(tmp_path_factory.mktemp("run"), seed)
    for _ in range(3):
        run.add()
    known = Snapshots(run.columns)
    check(run)
    for action in actions:
        getattr(run, action)()
        if known.columns is not run.columns:
            known = Snapshots(run.columns)
        check(run, known)


def test_what_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, 1)
    for _ in range(7):
        run.add()
    opened: list[str] = []
    light = Columns.light

    def counted(self: Columns, stage: str, fragment: str, *rest: Any, **more: Any) -> Any:
        opened.append(fragment)
        return light(self, stage, fragment, *rest, **more)

    RunView(str(run.folder), run.pipeline).fits  # noqa: B018
    monkeypatch.setattr(Columns, "light", counted)
    Snapshots(run.columns).now()
    assert opened == []
    # Other rules on columns that are packed, too; a fragment more is read, and no other.
    run.add()
    RunView(str(run.folder), run.pipeline).fits  # noqa: B018
    assert set(opened) == {"000007"}
    for stage in [*Snapshots(run.columns).shelves]:
        folder = run.folder / packs.FOLDER / run.columns.folder(stage)
        assert 1 <= len(list(folder.iterdir())) <= 5


def test_a_folder_that_may_not_be_written_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, 2)
    for _ in range(3):
        run.add()
    (tmp_path / packs.FOLDER).write_bytes(b"no folder can be made here")
    check(run)
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / packs.FOLDER).unlink()
    check(run)
    assert not (tmp_path / packs.FOLDER).exists()


def test_a_part_that_is_written_anew_under_its_name_is_read_again(tmp_path: Path) -> None:
    run = Run(tmp_path, 3)
    run.add()
    check(run)
    path = next(path for path in run.parts() if "First" in str(path))
    before = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert packs.state_of(stamped(run.columns.storage, run.columns.folder(FIRST))) != packs.state_of({})
    check(run)
    assert stat.S_ISREG(before.st_mode)


def test_ids_that_are_not_ugafs_are_read_from_parts(tmp_path: Path) -> None:
    run = Run(tmp_path, 4)
    run.columns.storage.write(f"{SOURCES}/000000.parquet", parquet_bytes(SourceRef.to_table([])))
    run.columns.write("ingest", "000000", [{"id": "short", "width": 1, "height": 1, "sources": [], "refs": []}], 1.0)
    view = RunView(str(tmp_path), run.pipeline)
    assert view.snapshot is None
    assert view.funnel()[0].kept == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**70)), max_size=40), st.randoms())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_found_by_fragment_and_id(rows: list[tuple[int, int]], random: Any) -> None:
    """Ids that begin alike, too."""
    held = sorted({(fragment, f"{number:032x}") for fragment, number in rows})
    asked = sorted({*random.sample(held, len(held) // 2), (1, "0" * 32), (2, f"{2**69 + 1:032x}")})
    there, wanted = (keys.of_texts([key for _, key in some]) for some in (held, asked))
    numbers, of = (np.array([fragment for fragment, _ in some], dtype=np.int16) for some in (held, asked))
    place = {row: number for number, row in enumerate(held)}
    assert keys.places(there, numbers, wanted, of).tolist() == [place.get(row, -1) for row in asked]
    alone = sorted({key for _, key in held})
    found = keys.among(wanted, keys.of_texts(alone)).tolist()
    assert found == [alone.index(key) if key in alone else -1 for _, key in asked]
    assert there.texts() == [key for _, key in held]
    assert keys.of_column(there.column()).equal(there).all()
