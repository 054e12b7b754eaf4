"""The report of runs with many measures, near-duplicates and categories: what each section says, by value."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from report_fake import EVIL, FakeView, big_run, curation_run, photo_run
from report_parse import Parsed

from ugaf.balance import BalanceSettings
from ugaf.pages import charts
from ugaf.report import page, write_report
from ugaf.report.balance_section import balances
from ugaf.report.collect import Report, collect
from ugaf.report.measures_section import fitted, measures


@pytest.fixture(scope="module")
def curation() -> FakeView:
    return curation_run()


@pytest.fixture(scope="module")
def html(curation: FakeView) -> str:
    write_report(curation)
    return curation.storage.files["report/index.html"].decode()


def balanced_by(view: FakeView, **options: Any) -> Report:
    view.pipeline.settings.export = SimpleNamespace(balance=BalanceSettings(**options))
    return collect(view, gallery=0, seed=0)


def lines(markup: str) -> list[str]:
    return [line.strip() for line in Parsed(markup).text.split("\n") if line.strip()]


# --- balance


def test_kept_rows_are_counted_by_each_category_column_against_equal_shares() -> None:
    view = photo_run()
    report = collect(view, gallery=0, seed=0)
    kept = [row for row in view.tables["edit"].to_pylist() if row["status"] == "kept"]
    found = {one.by: one for one in report.balances}
    assert next(iter(found)) == "task"
    for name in ("task", "register"):
        counts = Counter(row[name] for row in kept)
        assert {line.category: line.rows for line in found[name].account.lines} == counts
        assert not found[name].asked
        assert all(line.target == pytest.approx(1 / len(counts)) for line in found[name].account.lines)
    assert not {"instruction", "params", "screen", "id", "reason", "parent"} & set(found)


def test_the_target_of_the_export_is_the_one_that_is_shown_first() -> None:
    view = photo_run()
    report = balanced_by(view, by="register", target={"user": 3, "other": 1}, min_rows=2)
    first = report.balances[0]
    assert (first.by, first.asked) == ("register", True)
    text = lines(balances(report.balances))
    at = text.index("user")
    row = next(line for line in first.account.lines if line.category == "user")
    assert text[at + 1 : at + 5] == [
        str(row.rows),
        charts.percent(row.rows, first.account.rows),
        "75.0 %",
        f"−{-row.gap}",
    ]
    assert "against the target of the export" in text
    assert "below 2" in text
    assert [one.by for one in report.balances].count("register") == 1


def test_a_long_tail_is_cut_off_and_summed_up() -> None:
    view = big_run(3000, 600)
    table = view.tables["edit"]
    names = [f"thing {int((n % 400) ** 0.5)}" if n % 50 else f"rare {n}" for n in range(table.num_rows)]
    index = table.schema.get_field_index("engine")
    view.tables["edit"] = table.set_column(index, "engine", [names])
    (one,) = [one for one in collect(view, gallery=0, seed=0).balances if one.by == "engine"]
    shown = len([line for line in one.account.lines if line.rows == 1])
    text = " ".join(lines(balances([one])))
    rest = one.account.lines[12:]
    assert shown > 20
    assert f"{len(rest)} more categories hold {sum(line.rows for line in rest)} rows" in text
    assert f"{shown} of them one row each" in text
    assert "rare 0" not in text


def test_categories_cannot_become_markup() -> None:
    view = photo_run()
    index = view.tables["edit"].schema.get_field_index("engine")
    values = [EVIL if n % 2 else "b" for n in range(view.tables["edit"].num_rows)]
    view.tables["edit"] = view.tables["edit"].set_column(index, "engine", [values])
    markup = balances(collect(view, gallery=0, seed=0).balances)
    assert "<script" not in markup
    assert "alert(1)" in Parsed(markup).text


def test_a_run_without_categories_says_so(curation: FakeView) -> None:
    assert "No column of the kept rows has several categories" in Parsed(balances([])).text
    report = collect(curation, gallery=0, seed=0)
    assert [one.by for one in report.balances] == ["generator"]
    assert {line.category: line.rows for line in report.balances[0].account.lines} == {"(none)": 2, "a painter": 1}


# --- near-duplicates


def test_near_duplicates_are_one_reason(curation: FakeView, html: str) -> None:
    text = lines(page.reasons(collect(curation, gallery=0, seed=0).steps))
    at = text.index("neighbours: near-duplicate")
    assert text[at - 1 : at + 4] == [
        "curation.near_duplicates",
        "neighbours: near-duplicate",
        "rejected",
        "3",
        "50.0 %",
    ]
    cards = [card for card in Parsed(html).data["cards"] if card["stage"] == "curation.near_duplicates"]
    assert {card["rule"] for card in cards} == {"neighbours: near-duplicate"}


def test_a_near_duplicate_shows_the_photograph_that_was_kept(html: str) -> None:
    data = Parsed(html).data
    cards = {card["id"]: card for card in data["cards"]}
    twins = [card for card in data["cards"] if card["twin"]]
    assert len(twins) == 3
    for card in twins:
        kept = cards[card["twin"]]
        assert kept["status"] == "kept"
        assert card["twin_image"] == kept["source"] != card["source"]
        assert (card["twin_width"], card["twin_height"]) == (kept["width"], kept["height"])
    assert all(card["twin_image"] is None for card in data["cards"] if not card["twin"])


def test_the_kept_photograph_is_shown_though_it_is_not_in_the_sample(curation: FakeView) -> None:
    report = collect(curation, gallery=4, seed=0)
    twins = [card for card in report.gallery.cards if card.twin]
    assert twins
    assert all(card.twin_image in report.gallery.images for card in twins)


def test_links_are_shown_and_embeddings_are_not(html: str) -> None:
    card = next(card for card in Parsed(html).data["cards"] if card["twin"])
    assert card["values"]["neighbours"] == [{"id": card["twin"], "distance": 3, "similarity": 0.97}]
    assert "embedding" not in card["values"]


def test_a_distinct_rule_is_told_in_words() -> None:
    rule = {"distinct": {"where": {"similarity": {"min": 0.93}}, "best": ["short_side", "-noise"]}}
    assert charts.rule_text(rule) == "distinct where similarity min 0.93; the best by short_side, -noise stays"
    assert charts.rule_text({"min": 0.5, "min_quantile": 0.02, "sampled_rows": 500}) == "min 0.5 (quantile 0.02)"


# --- many measures


def test_a_stage_of_many_measures_folds_those_without_a_rule(curation: FakeView) -> None:
    report = collect(curation, gallery=0, seed=0)
    found = Parsed(measures(report.distributions, report.categories))
    tags = [(tag, attributes.get("class")) for tag, attributes in found.tags]
    assert tags.count(("details", "stage")) == 3
    assert tags.count(("details", "more")) == 1
    assert tags.count(("figure", "chart")) == 32 + 2 + 2
    more = tags.index(("details", "more"))
    assert sum(tag == ("figure", "chart") for tag in tags[more:]) == 31
    assert "31 more without a rule" in found.text
    assert "32 charts, 1 with a rule" in found.text


def test_fitted_quantiles_say_what_they_were_fitted_on(curation: FakeView) -> None:
    report = collect(curation, gallery=0, seed=0)
    text = lines(fitted(report.steps, report.fitted_on) or "")
    at = text.index("measure_00")
    sampled = "this run as it is now, a sample of 5,000 values"
    assert text[at - 1 : at + 5] == ["curation.photometry", "measure_00", "min", "0.02", "-1.75", sampled]
    for source, words in (("frozen", "frozen since"), ("runs/first", "the run runs/first")):
        curation.pipeline.settings.quantiles = SimpleNamespace(source=source)
        assert words in collect(curation, gallery=0, seed=0).fitted_on
    curation.pipeline.settings.quantiles = SimpleNamespace(source="run")
    unfitted = [SimpleNamespace(name="s", keep={"c": {"max_quantile": 0.9}})]
    assert "not fitted yet" in lines(fitted(unfitted, "this run") or "")  # type: ignore[arg-type]
    assert fitted([], "this run") is None
