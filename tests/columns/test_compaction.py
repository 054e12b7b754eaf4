"""Small parts become one, and say the same."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from engine_tools import go, make_photos, pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from ugaf.columns import compaction
from ugaf.columns.code_digest import FACT
from ugaf.columns.compaction import compact, to_join
from ugaf.columns.parts import CHILDREN, REFS, Columns, attempt_of, read_part
from ugaf.columns.values import FragmentValues
from ugaf.ingest import image_id
from ugaf.pipeline.config import INGEST
from ugaf.storage import Storage

MEAN, HALVES = "engine_stages:Mean", "engine_stages:Halves"
FRAGMENT = "000000000-0123456789abcdef"
IMAGES = {image_id(pixels): pixels for pixels in (bytes([number]) * 50 for number in range(12))}
IDS = sorted(IMAGES)


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Columns:
    folder = tmp_path_factory.mktemp("parts")
    make_photos(folder / "photos", 1)
    checked = pipeline(folder / "photos", folder / "run", [MEAN, HALVES])
    return Columns(Storage(checked.output), checked)


def row(stage: str, key: str, value: int, error: bool) -> dict[str, Any]:
    number = IDS.index(key)
    refs = {REFS: [number], "sources": [f"s{number}"]} if stage == INGEST else {}
    if error:
        return {"id": key, "error": f"RowError: {value}", **refs}
    if stage == MEAN:
        return {"id": key, "mean": float(value)}
    if stage == INGEST:
        return {"id": key, "image": IMAGES[key], "width": value, **refs}
    # Without children in one of three: that is known, too.
    children = [{"id": f"{number * 100 + n:032x}", "side": str(n)} for n in range(value % 3)]
    return {"id": key, CHILDREN: children}


def facts_of(columns: Columns, stage: str) -> tuple[set[tuple[int, str]], float]:
    """(attempt, code) of the parts, and their seconds together."""
    of, seconds = set(), 0.0
    for path in columns.parts(stage, FRAGMENT):
        metadata = read_part(columns.storage, path, lambda file: file.schema_arrow.metadata)
        of.add((attempt_of(path), metadata.get(FACT, b"").decode()))
        seconds += float(metadata[b"ugaf.seconds"])
    return of, seconds


PARTS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(IDS), st.booleans(), min_size=1),
        st.integers(0, 2),
        st.sampled_from(["", "a", "b"]),
    ),
    min_size=1,
    max_size=6,
)
COLUMNS = {INGEST: ["width", REFS, "sources"], MEAN: ["mean"], HALVES: [CHILDREN]}


@settings(max_examples=60, deadline=None)
@given(stage=st.sampled_from([INGEST, MEAN, HALVES]), parts=PARTS, stop_after=st.none() | st.integers(0, 3))
def test_what_is_read_of_them_stays_the_same(columns: Columns, stage: str, parts: list, stop_after: int | None) -> None:
    """Whatever their rows, attempts and codes are, and if the joining is ended at any of its removals."""
    columns.storage.remove(columns.folder(stage))
    for number, (rows, attempt, code) in enumerate(parts):
        # A row of one attempt is measured alike each time.
        value = 7 * attempt
        some = [{**row(stage, key, value + IDS.index(key), bad), "attempt": attempt} for key, bad in rows.items()]
        columns.write(stage, FRAGMENT, some, 1.0 + number, code)

    def read() -> tuple[Any, Any]:
        table, _ = columns.light(stage, FRAGMENT, COLUMNS[stage])
        good = table.filter(pc.is_null(table.column("error"))).column("id").to_pylist()
        heavy = FragmentValues(columns, FRAGMENT).of(["image"], good) if stage == INGEST else None
        return table, heavy

    before, (alike, seconds) = read(), facts_of(columns, stage)
    if stop_after is not None:
        remove, left = Storage.remove, [stop_after]

        def stop(self: Storage, path: str) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            remove(self, path)

        with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Storage, "remove", stop)
            compact(columns, stage, FRAGMENT)
        assert read() == before
    compact(columns, stage, FRAGMENT)
    assert read() == before
    after, seconds_after = facts_of(columns, stage)
    assert after <= alike
    # Work that was done twice counts once where one part had all of it.
    ids = [key for rows, _, _ in parts for key in rows]
    if stop_after is None:
        assert seconds_after <= seconds + 1e-9
        assert len(set(ids)) < len(ids) or seconds_after == pytest.approx(seconds)
    assert compact(columns, stage, FRAGMENT) == 0


def test_units_of_one_code_become_one_part(columns: Columns) -> None:
    for stage in (INGEST, MEAN):
        columns.storage.remove(columns.folder(stage))
    for number, key in enumerate(IDS):
        columns.write(MEAN, FRAGMENT, [{"id": key, "mean": float(number)}], 0.5, "a")
    assert to_join(columns, [INGEST, MEAN], [FRAGMENT]) == [(MEAN, FRAGMENT)]
    assert compact(columns, MEAN, FRAGMENT) == len(IDS)
    assert len(columns.parts(MEAN, FRAGMENT)) == 1
    assert facts_of(columns, MEAN) == ({(0, "a")}, 0.5 * len(IDS))
    assert columns.light(MEAN, FRAGMENT, ["mean"])[0].column("mean").to_pylist() == [float(n) for n in range(len(IDS))]
    assert to_join(columns, [INGEST, MEAN], [FRAGMENT]) == []


def test_large_parts_stay(columns: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    columns.storage.remove(columns.folder(MEAN))
    for key in IDS[:3]:
        columns.write(MEAN, FRAGMENT, [{"id": key, "mean": 1.0}], 0.5, "a")
    monkeypatch.setattr(compaction, "SMALL_BYTES", 10)
    assert compact(columns, MEAN, FRAGMENT) == 0
    assert len(columns.parts(MEAN, FRAGMENT)) == 3


def test_a_run_ends_with_one_part_of_a_fragment_and_stage(tmp_path: Path) -> None:
    """Flushed after every batch, as a slow stage is."""
    make_photos(tmp_path / "photos", 7)
    engine = {"executor": "inline", "flush_s": 0.0}
    stages = [{MEAN: {"resources": {"batch_rows": 1}}}, HALVES]
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages, engine=engine))
    assert {len(parts) for name in (INGEST, MEAN, HALVES) for parts in view.columns.parts_of_all(name).values()} == {1}
