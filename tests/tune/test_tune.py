"""Tuning: what it predicts is what the run's own verdicts say once the thresholds are really changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tune_tools import (
    ALIKE,
    FAN,
    FIRST,
    LAST,
    SECOND,
    as_funnel,
    linked_run,
    random_bounds,
    run_funnel,
    varied_run,
    with_bounds,
)

from ugaf.base.errors import ConfigError
from ugaf.columns.view import RunView
from ugaf.pages.distributions import bin_edges
from ugaf.pipeline import config
from ugaf.tune import PATH, as_table, data, fit_page, tune, with_settings
from ugaf.tune.funnel import predict
from ugaf.tune.pictures import choose
from ugaf.tune.table import text_of, yields

SPREAD = {"d": 4.0, "e": 4.0, "n": 6.0, "t": 5.0}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """All rows measured; values null, NaN, infinite; a quantile rule; edits."""
    return varied_run(tmp_path_factory.mktemp("complete"), seed=1, complete=True).view()


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """Rows that failed, that are not measured, sources that are not read; no quantile rule."""
    keep = {SECOND: {"d": {"min": -4.0}}}
    return varied_run(tmp_path_factory.mktemp("partial"), seed=2, photographs=90, **keep).view()


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    return linked_run(tmp_path_factory.mktemp("linked")).view()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """As `partial`, in one fragment: quick to read again and again."""
    keep = {SECOND: {"d": {"min": -4.0}}}
    return varied_run(tmp_path_factory.mktemp("small"), seed=3, photographs=50, fragments=1, **keep).view()


@pytest.fixture(scope="module")
def small_complete(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    return varied_run(tmp_path_factory.mktemp("small"), seed=1, photographs=50, fragments=1, complete=True).view()


@pytest.mark.parametrize("name", ["complete", "partial", "linked"])
def test_present_rules_give_the_funnel_of_the_run(name: str, request: pytest.FixtureRequest) -> None:
    view = request.getfixturevalue(name)
    found = data.read(view)
    assert as_funnel(predict(found, found.present)) == run_funnel(view)
    ingest = view.funnel()[0]
    assert (len(found.levels[0]), found.failed, found.unread) == (ingest.kept, ingest.failed, ingest.pending)


@pytest.mark.parametrize("name", ["complete", "partial", "linked"])
def test_any_thresholds_give_the_funnel_of_the_run_with_them(name: str, request: pytest.FixtureRequest) -> None:
    view = request.getfixturevalue(name)
    found = data.read(view)
    rng = np.random.default_rng(3)
    ends = set()
    for _ in range(15):
        bounds = random_bounds(found, rng, SPREAD)
        changed = with_bounds(view, bounds)
        told = predict(found, bounds)
        assert as_funnel(told) == run_funnel(changed), bounds
        ends.add(told[-1].kept)
    assert len(ends) > 5


def test_rows_that_come_back_unmeasured_are_work_and_their_edits_too(partial: RunView) -> None:
    found = data.read(partial)
    loose = {name: {} for name in found.present}
    now, then = predict(found, found.present), predict(found, loose)
    assert sum(stage.pending for stage in then) > sum(stage.pending for stage in now) > 0
    for stage in then:
        assert stage.given == stage.kept + sum(stage.rejected.values()) + stage.failed + stage.pending


def test_quantiles_are_fitted_on_measured_rows_where_the_run_still_waits(tmp_path: Path) -> None:
    view = varied_run(tmp_path, seed=4, photographs=90).view()
    found = data.read(view)
    told = {stage.name: stage for stage in predict(found, found.present)}
    waits = view.funnel()[2]
    assert waits.given - waits.failed == waits.pending > told[SECOND].pending > 0
    bound = told[SECOND].fitted["d", "min_quantile"]
    column = found.stage(SECOND).columns["d"]
    here = np.isin(found.stage(SECOND).measured, told[SECOND].rows) & column.finite
    assert bound == np.quantile(column.values[here], 0.1)
    numbers = {**found.present, SECOND: {"d": {"min": bound, "max": 9.0}}}
    # As numbers, a minimum is asked before the maximum: a NaN has another reason, and is out all the same.
    for one, other in zip(told.values(), with_bounds(view, numbers).funnel()[1:], strict=True):
        assert (one.given, one.kept, one.failed, one.pending) == (other.given, other.kept, other.failed, other.pending)


def test_frozen_quantiles_stay_when_other_rows_are_given(tmp_path: Path) -> None:
    run = varied_run(tmp_path, seed=5, complete=True)
    first = run.view()
    frozen = RunView(first.path, config.parse(first.pipeline.document, ["quantiles.source=frozen"]))
    found = data.read(frozen)
    bounds = {**found.present, FIRST: {"a": {"min": 0.4}}}
    told = predict(found, bounds)
    assert told[1].fitted == predict(found, found.present)[1].fitted != predict(data.read(first), bounds)[1].fitted
    assert as_funnel(told) == run_funnel(with_bounds(frozen, bounds))


def test_a_near_duplicate_comes_back_when_its_better_one_is_turned_down(linked: RunView) -> None:
    found = data.read(linked)
    fixed = found.stage(ALIKE).fixed["near", "distinct"]
    bounds = {**found.present, FIRST: {"a": {"max": 0.3}}}
    told = predict(found, bounds)[1]
    rows = np.isin(found.stage(ALIKE).measured, told.rows)
    assert 0 < told.rejected["near", "distinct"] < int(np.sum(fixed & rows))
    assert as_funnel(predict(found, bounds)) == run_funnel(with_bounds(linked, bounds))


@pytest.mark.parametrize(("name", "stage"), [("small_complete", None), ("small", FIRST), ("linked", ALIKE)])
def test_each_line_of_the_table_is_what_the_run_would_keep(
    name: str, stage: str | None, request: pytest.FixtureRequest
) -> None:
    view = request.getfixturevalue(name)
    found = data.read(view)
    rules = yields(found, found.present, stage)
    now = view.funnel()
    if stage is None:
        assert {(rule.stage, rule.column, rule.kind) for rule in rules} == {
            (FIRST, "a", "min"), (FIRST, "a", "max"), (FIRST, "n", "min"),
            (SECOND, "d", "min"), (SECOND, "d", "max"), (LAST, "s", "max"), (LAST, "t", "min"),
        }  # fmt: skip
    else:
        assert {rule.column for rule in rules} == set(found.stage(stage).columns)
    for rule in rules:
        assert sum(line.note == "now" for line in rule.lines) == 1
        for line in rule.lines:
            kinds = dict(found.present[rule.stage].get(rule.column, {}))
            if line.note != "now":
                kinds = {kind: bound for kind, bound in kinds.items() if not kind.startswith(rule.kind)}
                kinds |= {} if line.bound is None else {rule.kind: line.bound}
            bounds = {**found.present, rule.stage: {**found.present[rule.stage], rule.column: kinds}}
            then = with_bounds(view, bounds).funnel()
            of_stage = next(counts for counts in then if counts.name == rule.stage)
            assert (line.kept, line.end) == (of_stage.kept, then[-1].kept), (rule.column, line)
            assert line.more == then[-1].kept - now[-1].kept
            assert line.work == sum(counts.pending for counts in then[1:])
            assert rule.given == of_stage.given


def test_the_table_counts_rows_without_a_measure_or_a_value(partial: RunView) -> None:
    found = data.read(partial)
    rule = next(rule for rule in yields(found, found.present) if (rule.column, rule.kind) == ("n", "min"))
    stored: dict[str, Any] = {}
    ids = []
    for fragment in partial.verdicts():
        ids += fragment[FIRST].ids
        stored.update(partial.values(fragment.fragment, ["n", "a"], fragment[FIRST].ids))
        table = fragment[FIRST].table
        measured = set(table.filter(table["error"].is_null())["id"].to_pylist())
        stored.update({key: None for key in fragment[FIRST].ids if key not in measured})
    values = [stored[key]["n"] for key in ids if stored[key] is not None]
    assert (rule.given, rule.unmeasured, rule.null) == (len(ids), len(ids) - len(values), values.count(None))
    for line in rule.lines:
        if line.bound is not None:
            assert line.breaking == sum(value is not None and value < line.bound for value in values)


def test_the_table_is_printed_with_strings_from_data_as_they_are(complete: RunView) -> None:
    found = data.read(complete)
    console = Console(width=170, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_table(yields(found, found.present), "edits"))
    text = console.export_text()
    assert re.search(rf"{re.escape(SECOND)} d min, quantile 0.1: \d\d photographs given", text)
    assert re.search(r"-0\.5 +now +\d+", text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_in_the_table_read_back_as_the_same(value: float) -> None:
    read = yaml.safe_load(f"a: {text_of(value)}")["a"]
    assert isinstance(read, int | float)
    assert float(read) == value


def test_settings_that_measure_anew_are_refused(complete: RunView, tmp_path: Path) -> None:
    assert with_settings(complete, []) is complete
    stricter = with_settings(complete, [f"{FIRST}.keep.a.min=0.1"])
    found = data.read(stricter)
    assert found.present[FIRST]["a"] == {"min": 0.1, "max": 2.0}
    document = {**complete.pipeline.document, "stages": ["curation.resolution", "curation.photometric"]}
    other = RunView(str(tmp_path), config.parse(document))
    with pytest.raises(ConfigError, match=r"curation\.photometric: .*keep rules only"):
        with_settings(other, ["curation.photometric.working_side=128"])


def test_an_unknown_stage_is_named(complete: RunView) -> None:
    with pytest.raises(ConfigError, match="no stage 'Frist'"):
        tune(complete, "Frist")
    with pytest.raises(ValueError, match="shown is -1"):
        tune(complete, shown=-1)


def test_the_page_is_written_once_and_holds_no_markup_from_data(complete: RunView) -> None:
    assert tune(complete).path == PATH
    path = Path(complete.path) / PATH
    before = path.stat().st_mtime_ns
    page = path.read_text()
    tune(complete)
    assert path.stat().st_mtime_ns == before
    assert "<script>alert" not in page
    assert page.count("<script") == 6
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_pictures_lie_on_both_sides_of_every_cut(complete: RunView) -> None:
    found = data.read(complete)
    now = predict(found, found.present)
    chosen = choose(found, now, 40)
    assert sum(map(len, chosen)) == 40
    for stage, column, bound in ((FIRST, "a", -0.5), (FIRST, "a", 2.0), (LAST, "s", 0.8)):
        of = found.stage(stage)
        values = of.columns[column].values[of.places[chosen[of.level]]]
        assert np.any(values < bound)
        assert np.any(values >= bound)
    assert choose(found, now, 0) == [[], []]


def test_a_page_that_would_be_too_large_loses_free_columns_then_rows(complete: RunView) -> None:
    found = data.read(complete)
    whole, notes = fit_page(found)
    assert (whole, notes) == (found, [])
    sizes = [fit_page(found, max_bytes=n)[0] for n in (2500, 10**9)]
    assert len(sizes[0].levels[0]) <= len(sizes[1].levels[0])
    named, notes = fit_page(found, FIRST, max_bytes=2500)
    assert "free" in named.stage(FIRST).columns
    assert list(named.stage(SECOND).columns) == ["d"]
    assert "1 columns without a rule" in notes[0]
    half, notes = fit_page(found, max_rows=(len(found.levels[0]) + len(found.levels[1])) // 2)
    assert 15 <= len(half.levels[0]) <= 45
    assert half.sampled_from == 60
    assert "sample" in notes[-1]


def test_a_sample_is_whole_photographs_with_their_edits(complete: RunView) -> None:
    found = data.read(complete)
    chosen = np.arange(len(found.levels[0])) % 3 == 0
    part = data.sample(found, chosen)
    ids = [key for key, is_in in zip(found.levels[0].ids.to_pylist(), chosen, strict=True) if is_in]
    assert part.levels[0].ids.to_pylist() == ids
    parents = found.levels[1].parent
    assert parents is not None
    edits = [key for key, parent in zip(found.levels[1].ids.to_pylist(), parents, strict=True) if chosen[parent]]
    assert part.levels[1].ids.to_pylist() == edits
    # A sample's funnel is the number of its own rows in the whole one's.
    numbers = {SECOND: {"d": {"min": -2.0, "max": 9.0}}}
    bounds = {**found.present, **numbers}
    whole, of_part = predict(found, bounds), predict(part, bounds)
    for one, other in zip(whole, of_part, strict=True):
        kept = found.levels[one.level].ids.take(one.rows).to_pylist()
        mine = part.levels[other.level].ids.take(other.rows).to_pylist()
        assert mine == [key for key in kept if key in set(part.levels[other.level].ids.to_pylist())]
        assert one.name in (FIRST, SECOND, FAN, LAST)


@given(
    st.lists(st.floats(0, 1e4), min_size=1, max_size=80),
    st.dictionaries(st.sampled_from(["min", "max"]), st.floats(0, 1e4)),
    st.sampled_from([(0.0, None), (0.0, 1e4)]),
)
def test_a_histogram_does_not_go_beyond_its_measure(
    values: list[float], rule: dict[str, float], ends: tuple[float, float | None]
) -> None:
    edges = bin_edges(np.array(values), rule, 40, ends)
    whole = all(value == round(value) for value in values)
    assert edges[0] >= ends[0] - (0.5 if whole else 0)
    assert edges[-1] <= (np.inf if ends[1] is None else ends[1]) + (1.5 if whole else 0)
    assert (np.diff(edges) > 0).all()
