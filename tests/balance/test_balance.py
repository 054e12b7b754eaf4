"""Balance: categories of rows, target shares, quotas and gaps, long-tail numbers, and a sample that stays."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from ugaf import balance
from ugaf.balance import BalanceSettings, Category, Census, sampling, shares
from ugaf.balance.categories import source_kind, source_kinds
from ugaf.base.errors import ConfigError, UgafError
from ugaf.pipeline import config

STAGES = ["curation.photometric", "annotation.detect", "annotation.instruct", "generation.edit"]
PIPELINE = {"name": "small", "inputs": ["sample://"], "stages": STAGES}
COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 400), min_size=1)


def settings(**options: Any) -> BalanceSettings:
    return BalanceSettings(by="task", **options)


def gaps(account: balance.Account) -> dict[str, int]:
    return {line.category: line.gap for line in account.lines}


# --- settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "unifrom"}, "did you mean 'uniform'"),
        ({"target": {"a": -1.0}}, "weight of a is -1"),
        ({"target": {"a": math.inf}}, "finite number"),
        ({"target": {"a": "x"}}, "weight of a is 'x'; write a number"),
        ({"target": {"a": 0.0}}, "no category has a weight"),
        ({"target": {}}, "no category has a weight"),
        ({"target": {"a": 1.0}, "temperature": 2.0}, "leave one of the two out"),
        ({"temperature": 0.5}, "greater than or equal to 1"),
        ({"mode": "upsample"}, "'none' or 'downsample'"),
        ({"max_per_category": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**options)


def test_a_category_in_a_target_is_named_as_yaml_reads_it() -> None:
    found = settings(target={True: 1, None: 2, 3: 1, "": 1}).target
    assert found == {"true": 1.0, "(none)": 1.0, "3": 1.0}


def test_a_pipeline_takes_a_balance_and_an_override_completes_it() -> None:
    assert config.parse(PIPELINE).settings.export.balance is None
    changes = ["export.balance.by=task", "export.balance.target={add: 0.2, other: 0.8}"]
    found = config.parse(PIPELINE, changes).settings.export.balance
    assert found == settings(target={"add": 0.2, "other": 0.8})
    document = config.parse(PIPELINE, changes).document
    assert config.parse(document, ["export.balance.mode=downsample"]).settings.export.balance == settings(
        target={"add": 0.2, "other": 0.8}, mode="downsample"
    )
    assert config.parse(document, ["export.balance=null"]).settings.export.balance is None


# --- shares


def test_uniform_gaps_by_hand() -> None:
    found = balance.account({"add": 1, "tone": 8, "text": 3}, settings())
    assert gaps(found) == {"tone": 4, "text": -1, "add": -3}
    assert [line.category for line in found.lines] == ["tone", "text", "add"]
    assert [line.target for line in found.lines] == pytest.approx([1 / 3] * 3)
    assert [line.share for line in found.lines] == pytest.approx([8 / 12, 3 / 12, 1 / 12])
    assert (found.reachable, found.rows, found.taken) == (3, 12, 12)


def test_weights_are_normalised_and_unnamed_categories_are_other_or_nothing() -> None:
    counts = {"add": 10, "tone": 60, "text": 30}
    other = balance.account(counts, settings(target={"add": 1, "other": 3}, mode="downsample"))
    assert {line.category: line.target for line in other.lines} == pytest.approx(
        {"add": 0.25, "tone": 0.5, "text": 0.25}
    )
    assert {line.category: line.taken for line in other.lines} == {"add": 10, "tone": 20, "text": 10}
    alone = balance.account(counts, settings(target={"add": 0.5, "tone": 0.5}, mode="downsample"))
    assert {line.category: line.taken for line in alone.lines} == {"add": 10, "tone": 10, "text": 0}
    assert gaps(alone) == {"add": -40, "tone": 10, "text": 30}


def test_a_named_category_without_rows_is_a_gap_and_cannot_be_sampled_to() -> None:
    wanted = {"add": 0.5, "view": 0.5}
    found = balance.account({"add": 6}, settings(target=wanted))
    assert gaps(found) == {"add": 3, "view": -3}
    assert found.reachable == 0
    with pytest.raises(UgafError, match="no kept pair is of task view"):
        balance.quotas({"add": 6}, settings(target=wanted, mode="downsample"))
    assert balance.quotas({"add": 6}, settings(target=wanted, mode="downsample", min_rows=1)) == {"add": 6, "view": 0}
    assert gaps(balance.account({"add": 8}, settings(target={"add": 3, "other": 1}))) == {"add": 2, "other": -2}


@given(COUNTS, st.floats(1, 50))
def test_temperature_shares_follow_the_formula(counts: dict[str, int], temperature: float) -> None:
    weights = shares.target_weights(counts, settings(temperature=temperature))
    powers = np.array(list(counts.values()), float) ** (1 / temperature)
    expected = powers / powers.sum()
    whole = sum(weights.values())
    assert [weights[name] / whole for name in counts] == pytest.approx(expected.tolist(), rel=1e-9)


def test_temperature_runs_from_natural_to_uniform() -> None:
    counts = {"a": 1000, "b": 10}
    assert balance.quotas(counts, settings(temperature=1, mode="downsample")) == counts
    assert balance.quotas(counts, settings(temperature=2, mode="downsample")) == {"a": 100, "b": 10}
    assert balance.quotas(counts, settings(temperature=1e9, mode="downsample")) == {"a": 10, "b": 10}


@given(COUNTS, st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1000), min_size=1))
def test_the_largest_part_meets_the_target_within_rounding(counts: dict[str, int], weights: dict[str, int]) -> None:
    assume(any(weights.get(name) for name in counts))
    target = {name: weight / 100 for name, weight in weights.items() if name in counts}
    found = balance.quotas(counts, settings(target=target, mode="downsample"))
    whole = sum(Fraction(str(weight)) for weight in target.values())
    parts = {name: Fraction(str(weight)) / whole for name, weight in target.items()}
    total = sum(found.values())
    assert total == min(counts[name] / part for name, part in parts.items()).__floor__()
    for name, count in counts.items():
        part = parts.get(name, Fraction(0))
        assert found[name] <= count
        assert abs(found[name] - total * part) < 1
    # One more row would ask a category for more than it has.
    assert any((total + 1) * part > counts[name] for name, part in parts.items())


@given(st.integers(0, 500), st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 50), min_size=1))
def test_apportionment_adds_up_and_is_within_one_of_exact(total: int, weights: dict[str, int]) -> None:
    assume(sum(weights.values()))
    found = shares.apportion(total, weights)
    assert sum(found.values()) == total
    for name, weight in weights.items():
        assert abs(found[name] - total * weight / sum(weights.values())) < 1
        assert weight or not found[name]


def test_a_cap_holds_alone_and_below_a_target() -> None:
    counts = {"a": 100, "b": 30, "c": 5}
    assert balance.quotas(counts, settings(max_per_category=20)) == {"a": 20, "b": 20, "c": 5}
    wanted = {"a": 2, "b": 1, "c": 1}
    found = balance.quotas(counts, settings(target=wanted, max_per_category=8, mode="downsample"))
    assert found == {"a": 8, "b": 4, "c": 4}


def test_the_tail_is_taken_whole_and_limits_nobody() -> None:
    counts = {"a": 100, "b": 40, "rare": 2}
    assert balance.quotas(counts, settings(mode="downsample")) == {"a": 2, "b": 2, "rare": 2}
    assert balance.quotas(counts, settings(mode="downsample", min_rows=10)) == {"a": 40, "b": 40, "rare": 2}
    found = balance.account(counts, settings(min_rows=10))
    assert [line.tail for line in found.lines] == [False, False, True]
    assert (found.tail.below, found.reachable) == (1, 80)
    everything = {"a": 3, "b": 2}
    assert balance.quotas(everything, settings(mode="downsample", min_rows=10)) == everything
    unasked = settings(target={"a": 1, "b": 1}, mode="downsample", min_rows=10)
    assert balance.quotas(counts, unasked)["rare"] == 0


@given(COUNTS, st.sampled_from(["natural", "uniform", None]), st.integers(0, 30))
def test_gaps_cancel_out_and_the_account_fits_its_quotas(
    counts: dict[str, int], target: str | None, min_rows: int
) -> None:
    options = settings(target=target, mode="downsample", min_rows=min_rows)
    found = balance.account(counts, options)
    assert sum(line.gap for line in found.lines) == 0
    assert sum(line.target for line in found.lines) == pytest.approx(1)
    assert {line.category: line.taken for line in found.lines} == balance.quotas(counts, options)
    if target == "natural":
        assert set(gaps(found).values()) == {0}
        assert found.taken == sum(counts.values())


# --- long tail


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_long_tail_numbers_agree_with_their_definitions(counts: list[int]) -> None:
    found = shares.tail_numbers({str(n): count for n, count in enumerate(counts)})
    assert found.effective == pytest.approx(math.exp(stats.entropy(counts)))
    differences = np.abs(np.subtract.outer(counts, counts)).mean()
    assert found.gini == pytest.approx(differences / (2 * np.mean(counts)), abs=1e-12)
    ordered = sorted(counts, reverse=True)
    assert 2 * sum(ordered[: found.half]) >= sum(counts) > 2 * sum(ordered[: found.half - 1])
    assert found.largest == pytest.approx(max(counts) / sum(counts))


def test_no_rows_have_an_empty_tail() -> None:
    found = balance.account({}, settings(mode="downsample"))
    assert (found.lines, found.rows, found.reachable) == ((), 0, 0)
    assert found.tail == balance.Tail(0, 0.0, 0.0, 0, 0.0, 0)


# --- categories


def census(by: str, *columns: pa.Array) -> Census:
    found = Census(Category.of(by, ["sources"] if by == "source" else [by.partition(".")[0]]))
    for column in columns:
        found.add(pa.chunked_array([column]))
    return found


def test_values_null_and_empty_are_categories() -> None:
    first, second = pa.array(["add", None, "", "add"]), pa.array(["tone", "add"])
    found = census("task", first, second)
    assert found.counts() == {"add": 3, "(none)": 2, "tone": 1}
    assert [found.names[code] for code in found.rows] == ["add", "(none)", "(none)", "add", "tone", "add"]
    assert found.of(pa.chunked_array([first])) == ["add", "(none)", "(none)", "add"]


@pytest.mark.parametrize(
    ("column", "counts"),
    [
        (pa.array([True, False, True, None]), {"true": 2, "false": 1, "(none)": 1}),
        (pa.array([3, 3, 0], pa.int32()), {"3": 2, "0": 1}),
        (pa.array(["a", "b"]).dictionary_encode().cast(pa.string()), {"a": 1, "b": 1}),
    ],
)
def test_booleans_and_whole_numbers_count_as_their_text(column: pa.Array, counts: dict[str, int]) -> None:
    assert census("column", column).counts() == counts


def test_a_photograph_is_counted_by_the_kind_of_its_first_source() -> None:
    column = pa.array([["s3://b/x.tar#1.jpg", "/a.jpg"], ["/a.jpg"], [], None])
    assert census("source", column).counts() == {"s3 tar": 1, "file": 1, "(none)": 2}
    assert source_kind("sample://coffee") == "sample"


_PART = st.sampled_from(["s3://", "/", "a", ".tar", ".gz", "#", ".jsonl", "C#", ":", "//", "sample://", " ", "b.jpg"])


@given(st.lists(st.none() | st.lists(st.lists(_PART, max_size=6).map("".join), max_size=2), max_size=8))
def test_kinds_of_a_column_are_those_of_its_sources_one_by_one(rows: list[list[str] | None]) -> None:
    found = source_kinds(pa.array([["skipped"], *rows], pa.list_(pa.string())).slice(1)).to_pylist()
    assert found == [source_kind(row[0]) if row else None for row in rows]


def objects(*rows: list[str | None] | None) -> pa.Array:
    kind = pa.list_(pa.struct([("label", pa.string()), ("mask", pa.large_binary())]))
    return pa.array([None if row is None else [{"label": name} for name in row] for row in rows], kind)


def test_a_row_of_several_labels_counts_once_for_the_rarest() -> None:
    rows = objects(["person", "dog"], ["person"], ["person", "person", "cup"], [], None, ["dog", None], [None])
    for parts in ([rows], [rows.slice(0, 3), rows.slice(3)]):
        found = census("objects.label", *parts)
        assert found.counts() == {"dog": 2, "person": 1, "cup": 1, "(none)": 3}
        assert found.of(pa.chunked_array([rows])) == [found.names[code] for code in found.rows]


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), max_size=40), st.integers(1, 10))
def test_the_rarest_label_agrees_with_counting_by_hand(rows: list[list[str]], size: int) -> None:
    parts = [pa.array(rows[start : start + size], pa.list_(pa.string())) for start in range(0, len(rows), size)]
    found = census("labels", *parts)
    have = Counter(name for row in rows for name in set(row))
    expected = [min(row, key=lambda name: (have[name], name), default="(none)") for row in rows]
    assert [found.names[code] for code in found.rows] == expected
    assert found.counts() == Counter(expected)


def checked(by: str) -> None:
    pipeline = config.parse(PIPELINE)
    balance.check(by, pipeline.providers, pipeline.type_of)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("taks", "did you mean 'task'"),
        ("rgb_entropy", "double, which holds no categories"),
        ("image", "holds no categories"),
        ("objects", "name one of its fields"),
        ("objects.lable", "did you mean 'label'"),
        ("task.label", "task is string"),
        ("boxes", "holds no categories"),
    ],
)
def test_a_column_without_categories_is_refused(by: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(by)


@pytest.mark.parametrize("by", ["task", "target", "source", "objects.label", "n_objects", "register", "editor"])
def test_columns_of_a_pipeline_hold_categories(by: str) -> None:
    checked(by)


# --- sampling


def ids(number: int, of: str = "") -> list[str]:
    return [hashlib.sha256(f"{of}{n}".encode()).hexdigest()[:32] for n in range(number)]


def taken(keys: list[str], names: list[str], quotas: dict[str, int], seed: int = 0) -> set[str]:
    found = census("task", pa.array(names))
    sample = balance.draw(found.names, found.rows, sampling.ranks(keys, seed), quotas, seed)
    return {key for key, took in zip(keys, sample.takes(keys, names), strict=True) if took}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(0, 20), st.randoms())
def test_a_sample_has_its_quotas_whatever_the_order(names: list[str], quota: int, random: Any) -> None:
    keys = ids(len(names))
    quotas = dict.fromkeys("ab", quota)
    found = taken(keys, names, quotas)
    by = Counter(name for key, name in zip(keys, names, strict=True) if key in found)
    have = Counter(names)
    assert {name: by[name] for name in "abc"} == {"a": min(quota, have["a"]), "b": min(quota, have["b"]), "c": 0}
    rows = list(zip(keys, names, strict=True))
    random.shuffle(rows)
    assert taken([key for key, _ in rows], [name for _, name in rows], quotas) == found
    assert found <= taken(keys, names, dict.fromkeys("ab", quota + 3))


def test_more_rows_change_few_choices_and_another_seed_many() -> None:
    keys, more = ids(1000), ids(50, "new")
    first = taken(keys, ["a"] * 1000, {"a": 200})
    second = taken(keys + more, ["a"] * 1050, {"a": 200})
    assert 0 < len(first - second) == len(second & set(more)) <= 25
    assert len(first & taken(keys, ["a"] * 1000, {"a": 200}, seed=1)) < 80


def test_a_row_is_ranked_by_the_hash_of_seed_and_id() -> None:
    digest = hashlib.sha256(b"ugaf balance/7/abc").digest()
    assert sampling.ranks(["abc"], 7).tolist() == [int.from_bytes(digest[:8], "big")]
