"""Quantile rules: fitted as numpy does, frozen for later batches, taken from another run, sampled above a size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from engine_tools import go, make_photos, pipeline, table
from hypothesis import given, settings
from hypothesis import strategies as st

from ugaf.base.errors import ConfigError
from ugaf.columns import fitting
from ugaf.columns.view import RunView
from ugaf.pipeline import rules

MEAN, DOUBLE = "engine_stages:Mean", "engine_stages:Double"
KEEP = {"mean": {"min_quantile": 0.2, "max_quantile": 0.9}}


def checked(folder: Path, keep: dict[str, Any] = KEEP, run: str = "run", **top: Any) -> Any:
    return pipeline(folder / "photos", folder / run, [{MEAN: {"keep": keep, **top.pop("mean", {})}}, DOUBLE], **top)


def means(view: RunView) -> dict[str, float]:
    return {key: row["mean"] for key, row in table(view, "image", ["mean"]).items()}


def kept(view: RunView) -> set[str]:
    return {key for key, row in table(view, "image", []).items() if row["status"] == "kept"}


def within(values: dict[str, float], low: float, high: float) -> set[str]:
    return {key for key, value in values.items() if low <= value <= high}


def test_verdicts_are_those_of_numpy_on_the_full_column(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 31)
    view = go(checked(tmp_path))
    values = means(view)
    assert kept(view) == within(values, *np.quantile(list(values.values()), [0.2, 0.9]))
    assert 0 < len(kept(view)) < 31


def test_the_bounds_move_with_the_run_unless_they_are_frozen(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 20)
    first = go(checked(tmp_path))
    bounds = np.quantile(list(means(first).values()), [0.2, 0.9])
    before = {key: row["status"] for key, row in table(first, "image", []).items()}
    make_photos(tmp_path / "photos", 25, start=20)
    frozen = go(checked(tmp_path, quantiles={"source": "frozen"}))
    after = table(frozen, "image", ["double"])
    assert {key: after[key]["status"] for key in before} == before
    assert kept(frozen) == within(means(frozen), *bounds)
    assert all((row["double"] is not None) == (row["status"] == "kept") for row in after.values())
    # Reading the run again, and running it again, change nothing; and its numbers are on record.
    assert kept(RunView(frozen.path)) == kept(frozen)
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["fitted"][MEAN]["mean"]
    assert [record["min"], record["max"]] == list(bounds)
    parts = sorted((tmp_path / "run").rglob("part-*"))
    moved = go(checked(tmp_path))
    assert kept(moved) == within(means(moved), *np.quantile(list(means(moved).values()), [0.2, 0.9])) != kept(frozen)
    assert set(parts) <= set((tmp_path / "run").rglob("part-*"))


def test_a_run_that_is_frozen_from_the_start_is_judged_by_its_first_batch(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 20)
    first = go(checked(tmp_path, quantiles={"source": "frozen"}))
    bounds = np.quantile(list(means(first).values()), [0.2, 0.9])
    make_photos(tmp_path / "photos", 15, start=20)
    assert kept(go(checked(tmp_path, quantiles={"source": "frozen"}))) == within(means(RunView(first.path)), *bounds)


def test_another_run_s_numbers_judge_this_one(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 20)
    bounds = np.quantile(list(means(go(checked(tmp_path))).values()), [0.2, 0.9])
    make_photos(tmp_path / "photos", 15, start=20)
    source = {"source": str(tmp_path / "run")}
    other = go(checked(tmp_path, run="other", quantiles=source))
    assert len(means(other)) == 35
    assert kept(other) == within(means(other), *bounds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": {"mean": {"min_quantile": 0.3}}}, "has no number for engine_stages:Mean.keep.mean.min_quantile 0.3"),
        ({"mean": {"power": 2.0}}, "it measures that stage with other settings"),
        ({"quantiles": {"source": "nowhere"}}, "nowhere is not a run: it has no run.yaml"),
    ],
)
def test_numbers_that_another_run_does_not_have_are_an_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    make_photos(tmp_path / "photos", 6)
    go(checked(tmp_path))
    with pytest.raises(ConfigError, match=message):
        go(checked(tmp_path, run="other", **{"quantiles": {"source": str(tmp_path / "run")}, **change}))


def test_frozen_numbers_of_other_measurements_are_refused(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 6)
    go(checked(tmp_path))
    with pytest.raises(ConfigError, match="frozen, but engine_stages:Mean measures something else"):
        go(checked(tmp_path, quantiles={"source": "frozen"}, mean={"power": 2.0}))


def gathered(values: np.ndarray, exact: int, order: np.ndarray, fragment: int = 97) -> rules.Rule:
    rule = rules.Rule("value", "min_quantile", 0.1)
    gather = fitting.Values(rule, exact)
    ids = [f"{number:016x}".ljust(32, "0") for number in np.random.default_rng(1).integers(0, 2**63, len(values))]
    for start in range(0, len(values), fragment):
        some = order[start : start + fragment]
        gather.add("000000", pa.table({"id": [ids[i] for i in some], "value": values[some]}))
    return gather.fitted()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1000, 3000))
def test_above_a_size_a_sample_is_fitted_whatever_the_order_with_the_stated_error(seed: int, exact: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=8000)
    rule = gathered(values, exact, np.arange(8000))
    assert rule == gathered(values, exact, rng.permutation(8000))
    assert rule.sampled is not None
    assert exact / 3 < rule.sampled <= exact
    rank = float(np.mean(values <= rule.bound))
    assert abs(rank - 0.1) < 6 * np.sqrt(0.1 * 0.9 / rule.sampled)
    assert rules.describe([rule])["value"]["sampled_rows"] == rule.sampled


def test_up_to_that_size_every_value_counts() -> None:
    values = np.random.default_rng(0).normal(size=3000)
    rule = gathered(values, 3000, np.arange(3000))
    assert (rule.bound, rule.sampled) == (np.quantile(values, 0.1), None)
