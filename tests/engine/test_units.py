"""Units of work: which rows they stand for, how large they are, and which groups may be given parts of a fragment."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from engine_tools import go, make_photos, pipeline, table
from hypothesis import given
from hypothesis import strategies as st

from ugaf.columns import compaction
from ugaf.engine.costs import CHILDREN
from ugaf.engine.plan import segments
from ugaf.engine.sizing import SPREAD, level_of, onwards, size_of, split_from
from ugaf.engine.units import FEWEST_S, UNIT_S, Size, Unit, units
from ugaf.pipeline import config

IDS = st.lists(st.text("0123456789abcdef", min_size=4, max_size=4), unique=True, max_size=40).map(sorted)


@given(ids=IDS, of=st.integers(1, 50))
def test_shares_are_all_rows_once_and_nearly_equal(ids: list[str], of: int) -> None:
    parts = [Unit("f", share=(number, of)).rows(ids) or frozenset() for number in range(of)]
    assert Counter(key for part in parts for key in part) == Counter(ids)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(ids=st.none() | IDS.map(tuple), share=st.none() | st.tuples(st.integers(0, 9), st.integers(10, 20)))
def test_a_unit_travels_as_text(ids: tuple[str, ...] | None, share: tuple[int, int] | None) -> None:
    unit = Unit("000012", ids, share)
    assert Unit.loaded(unit.dumped()) == unit
    assert unit.key.partition("/")[0] == "000012"


SIZES = st.builds(
    Size,
    st.just(("a", "b")),
    st.fixed_dictionaries({"a": st.floats(1e-4, 600), "b": st.floats(1e-4, 600)}),
    st.integers(1, 64),
    st.integers(1, 10_000),
)


@given(size=SIZES, measured=st.dictionaries(st.sampled_from("ab"), st.floats(1e-4, 600)))
def test_a_unit_is_about_a_minute_or_what_spreads_a_small_run(size: Size, measured: dict[str, float]) -> None:
    seconds = sum({**size.guess, **measured}.values())
    rows = size.rows(measured)
    assert rows >= 1
    assert rows == 1 or rows * seconds <= UNIT_S
    # Smaller than what spreads the run only for a minute's sake, or a batch's.
    assert rows >= min(int(UNIT_S / seconds), size.most) - size.batch or rows == 1
    assert rows <= max(size.most, -(-FEWEST_S // seconds))
    assert rows < size.batch or rows % size.batch == 0


@given(rows=st.integers(0, 5000), size=SIZES)
def test_a_fragment_is_cut_into_units_of_that_size(rows: int, size: Size) -> None:
    found = list(units("f", rows, size, {}))
    ids = [f"{number:05d}" for number in range(rows)]
    chosen = [unit.rows(ids) for unit in found]
    assert [Unit("f")] == found or max(map(len, filter(None, chosen)), default=0) <= size.rows({})
    assert list(units("f", rows, None, {})) == [Unit("f")]


def test_what_looks_at_the_whole_fragment_is_given_it() -> None:
    """In fineedit the writer looks at neighbours and the editor at the donor: all before the writer has whole
    fragments; the writer and all after it have parts."""
    checked = config.load("fineedit")
    for groups in segments(checked):
        names = [group.stages[0] for group in groups]
        if "annotation.instruct" not in names:
            continue
        first = split_from(checked, groups)
        assert names[first] == "annotation.instruct"
        sizes = [size_of(checked, group, 4, 1000) for group in groups]
        handed = onwards(checked, groups, sizes)
        assert handed[-1] is None
        assert [onward.size is None for onward in handed[: first - 1] if onward] == [True] * (first - 1)
        assert all(onward.size is not None for onward in handed[first - 1 : -1] if onward)
        edit = next(number for number, name in enumerate(names) if name == "generation.edit")
        assert level_of(checked, groups[edit]) == "edit"
        assert sizes[edit].most == -(-1000 * CHILDREN // (4 * SPREAD))
        return
    pytest.fail("no segment has the writer")


def test_ingest_is_given_whole_fragments() -> None:
    for groups in segments(config.load("curate"))[:1]:
        assert split_from(config.load("curate"), groups) >= 1


MEAN, DOUBLE = "engine_stages:Mean", "engine_stages:Double"


@pytest.mark.ray
def test_rows_of_one_fragment_spread_over_all_workers_of_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fragment; two stages with two workers each."""
    # What each unit wrote stays to be seen.
    monkeypatch.setattr(compaction, "to_join", lambda *_: [])
    make_photos(tmp_path / "photos", 24)
    own = {"workers": 2, "cpus": 0.2}
    stages = [{MEAN: {"resources": own, "sleep": 0.2}}, {DOUBLE: {"resources": own}}]
    engine = {"executor": "ray", "workers": 1}
    on_ray = go(pipeline(tmp_path / "photos", tmp_path / "ray", stages, fragment_rows=1000, engine=engine))
    inline = go(pipeline(tmp_path / "photos", tmp_path / "inline", [MEAN, DOUBLE]))
    assert table(on_ray, "image", ["mean", "double"]) == table(inline, "image", ["mean", "double"])
    assert len(on_ray.fragments) == 1
    # Units of one row at first; each is committed as it is done.
    parts = on_ray.columns.parts(MEAN, on_ray.fragments[0])
    assert len(parts) >= 6
