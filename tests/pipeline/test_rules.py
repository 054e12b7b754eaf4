"""Keep rules, against numpy and by property."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugaf.base.errors import ConfigError
from ugaf.pipeline import config, rules

SCHEMA = pa.schema(
    [
        pa.field("value", pa.float64()),
        pa.field("count", pa.int32()),
        pa.field("word", pa.string()),
        pa.field("ok", pa.bool_()),
    ]
)
VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=40)


def parse(**keep):
    return rules.parse(keep, SCHEMA, "stage")


def values_table(values: list[float | None]) -> pa.Table:
    return pa.table({"value": pa.array(values, pa.float64())})


@given(VALUES, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_bounds_are_those_of_plain_comparison(values: list[float | None], low: float, high: float) -> None:
    low, high = sorted((low, high))
    parsed = parse(value={"min": low, "max": high})
    expected = [-1 if v is None or low <= v <= high else (0 if v < low else 1) for v in values]
    assert rules.judge(parsed, values_table(values)).tolist() == expected


@given(VALUES, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_equal_numpy_on_the_full_column(values: list[float | None], low: float, high: float) -> None:
    low, high = sorted((low, high))
    numbers = np.array([np.nan if v is None else v for v in values])
    known = numbers[~np.isnan(numbers)]
    fitted = tuple(rule.fitted(numbers) for rule in parse(value={"min_quantile": low, "max_quantile": high}))
    kept = rules.judge(fitted, values_table(values)) < 0
    if len(known):
        bottom, top = np.quantile(known, low), np.quantile(known, high)
        assert [bool(k) for k in kept] == [v is None or bottom <= v <= top for v in values]
    else:
        assert kept.all()


def test_first_broken_rule_is_the_reason() -> None:
    parsed = parse(value={"max": 2.0, "min": 1.0}, word={"one_of": ["a", "b"]})
    table = pa.table({"value": [0.5, 3.0, 1.5, 1.5, 0.0], "word": ["z", "a", "z", "a", None]})
    broken = rules.judge(parsed, table)
    assert broken.tolist() == [0, 1, 2, -1, 0]
    assert [rule.key for rule in parsed] == ["value < 1", "value > 2", "word is not one of a, b"]


def test_nulls_pass_and_nan_does_not() -> None:
    assert rules.judge(parse(value={"min": 0}), values_table([None, float("nan"), 1.0])).tolist() == [-1, 0, -1]


def test_words_and_flags() -> None:
    table = pa.table({"word": ["a", "b", None], "ok": [True, False, None]})
    assert rules.judge(parse(word={"none_of": ["b"]}), table).tolist() == [-1, 0, -1]
    assert rules.judge(parse(ok={"equals": True}), table).tolist() == [-1, 0, -1]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"valeu": {"min": 1}}, "stage.keep.valeu: the stage writes no such column; did you mean 'value'"),
        ({"value": {"mni": 1}}, "stage.keep.value.mni: unknown kind of rule; did you mean 'min'"),
        ({"value": {"min": "high"}}, "expected a number"),
        ({"value": {"min": True}}, "expected a number"),
        ({"value": 3}, "write bounds such as"),
        ({"word": {"min": 1}}, "the column is string"),
        ({"word": {"one_of": "a"}}, "expected a list"),
        ({"value": {"min_quantile": 2}}, "a quantile lies in 0..1"),
    ],
)
def test_wrong_rules_name_the_setting(keep: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        rules.parse(keep, SCHEMA, "stage")


def test_null_switches_a_rule_off() -> None:
    assert rules.parse({"value": None, "count": {"min": None, "max": 3}}, SCHEMA, "stage") == (
        rules.Rule("count", "max", 3),
    )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("column", ["value", "count"])
@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        *((kind, NAN) for kind in ("min", "max", "min_quantile", "max_quantile", "equals")),
        *((kind, [1, NAN]) for kind in ("one_of", "none_of")),
        *(("min", INF), ("max", -INF), ("min_quantile", INF), ("max_quantile", -INF)),
    ],
)
def test_a_bound_that_nothing_can_meet_is_refused_by_its_name(column: str, kind: str, bound: object) -> None:
    with pytest.raises(ConfigError, match=rf"stage\.keep\.{column}\.{kind}: "):
        parse(**{column: {kind: bound}})
    for no_limit in ({"min": -INF}, {"max": INF}):
        assert not rules.judge(parse(**{column: no_limit}), pa.table({column: [1, None]})).tolist().count(0)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(
    "setting",
    [
        "export.validation",
        "engine.patience_s",
        "export.shard_mb",
        "curation.dedup.keep.neighbours.distinct.where.x.min",
    ],
)
def test_numbers_of_settings_are_finite(setting: str, number: str) -> None:
    with pytest.raises(ConfigError, match=setting.rpartition(".")[2]):
        config.load("curate", ["inputs=[sample://coffee]", f"{setting}={number}"])
