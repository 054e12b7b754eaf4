"""The section of measures: a chart for each, stage by stage, and the numbers of quantile rules.

A run may have dozens of measures. So each stage is a block that folds, and where a stage has many charts, those without
a rule, which decide nothing, are folded inside of it.
"""

from __future__ import annotations

from typing import Any

from ugaf.pages.charts import histogram, number, percent, rule_text, stacked
from ugaf.pages.distributions import Category, Distribution
from ugaf.pages.markup import Markup, element, join, table
from ugaf.report.collect import Step

MAX_CATEGORY_ROWS = 16
MANY = 6
"""A stage with more charts than this shows those with a rule, and folds the others."""


def measures(distributions: list[Distribution], categories: list[Category]) -> Markup:
    """A chart for each measure and category, stage by stage; columns with one value all through in a line."""
    charts: dict[str, list[tuple[bool, Markup]]] = {}
    constant: dict[str, list[Markup]] = {}
    for one in distributions:
        if one.quantiles[0] < one.quantiles[4] or one.rule:
            charts.setdefault(one.stage, []).append((bool(one.rule), _measure(one)))
        else:
            constant.setdefault(one.stage, []).append(_constant(one.column, number(one.quantiles[0]), one.n))
    for category in categories:
        if len(category.values) > 1 or category.rule:
            charts.setdefault(category.stage, []).append((bool(category.rule), _category(category)))
        else:
            value, rows, _ = category.values[0]
            constant.setdefault(category.stage, []).append(_constant(category.column, value, rows))
    order = dict.fromkeys([*(one.stage for one in distributions), *(one.stage for one in categories)])
    blocks = [_stage(stage, charts.get(stage, []), constant.get(stage, [])) for stage in order]
    return join(blocks) if blocks else element("p", "Nothing was measured yet.", class_="note")


def _stage(stage: str, charts: list[tuple[bool, Markup]], constant: list[Markup]) -> Markup:
    """One stage's charts, those with a rule first where there are many."""
    ruled = [chart for has_rule, chart in charts if has_rule]
    plain = [chart for has_rule, chart in charts if not has_rule]
    fold = len(charts) > MANY and bool(ruled) and len(plain) > 1
    shown = ruled if fold else [chart for _, chart in charts]
    words = [f"{len(charts)} {'chart' if len(charts) == 1 else 'charts'}"] if charts else []
    words += [f"{len(ruled)} with a rule"] if ruled else []
    more = None
    if fold:
        names = element("summary", f"{len(plain)} more without a rule")
        more = element("details", names, element("div", *plain, class_="charts"), class_="more")
    return element(
        "details",
        element("summary", element("h3", stage), element("span", ", ".join(words), class_="note")),
        element("div", *shown, class_="charts") if shown else None,
        more,
        element("p", "The same in every row: ", *_with_commas(constant), class_="note") if constant else None,
        class_="stage",
        open=True,
    )


def fitted(steps: list[Step], fitted_on: str) -> Markup | None:
    """The numbers that quantile rules stand for now, and where they come from; None without such rules."""
    lines = []
    for step in steps:
        for column, rule in step.keep.items():
            for kind in ("min", "max"):
                quantile = rule.get(f"{kind}_quantile")
                if quantile is None:
                    continue
                bound = rule.get(kind)
                shown = "not fitted yet" if bound is None else number(float(bound), 6)
                sampled = rule.get("sampled_rows")
                values = fitted_on + (f", a sample of {sampled:,} values" if sampled else "")
                cells = [element("th", step.name, scope="row", class_="name"), element("td", element("code", column))]
                cells += [element("td", kind), element("td", f"{quantile:g}", class_="n")]
                cells += [
                    element("td", shown, class_="n"),
                    element("td", "" if bound is None else values, class_="wide"),
                ]
                lines.append(element("tr", *cells))
    if not lines:
        return None
    heads = ["Stage", "Column", "Bound", "Quantile", "Number", "Fitted on"]
    return table("fitted", "Quantile rules and their numbers", heads, lines, first_numeric=3, last_numeric=4)


def _constant(column: str, value: str, rows: int) -> Markup:
    count = f" ({rows:,} {'row' if rows == 1 else 'rows'})"
    return element("span", element("code", column), " = ", element("code", value, class_="data"), count)


def _with_commas(items: list[Markup]) -> list[Any]:
    return [part for i, item in enumerate(items) for part in ((", ", item) if i else (item,))]


def _measure(one: Distribution) -> Markup:
    names = ("min", "5 %", "median", "95 %", "max")
    figures = [("n", f"{one.n:,}"), *((name, number(q, 3)) for name, q in zip(names, one.quantiles, strict=True))]
    notes = []
    if one.rule:
        verb = "row breaks" if one.broken == 1 else "rows break"
        notes.append(f"Rule: {rule_text(one.rule)}. {one.broken:,} {verb} it ({percent(one.broken, one.n)}).")
    if one.below or one.above:
        notes.append(f"Not drawn: {one.below:,} smaller and {one.above:,} larger values.")
    if one.missing:
        notes.append(f"{one.missing:,} kept {'row has' if one.missing == 1 else 'rows have'} no value.")
    return element(
        "figure",
        element("figcaption", one.column),
        histogram(one),
        element("dl", *[element("div", element("dt", name), element("dd", text)) for name, text in figures]),
        element("p", " ".join(notes), class_="note") if notes else None,
        class_="chart",
    )


def _category(category: Category) -> Markup:
    most = category.values[0][1]
    lines = []
    for value, rows, kept in category.values[:MAX_CATEGORY_ROWS]:
        bar = stacked([("kept", kept), ("all", rows - kept)], most, f"{value}: {rows:,} rows, {kept:,} kept")
        cells = [element("th", value or "(empty)", scope="row", class_="data"), element("td", bar, class_="bar-cell")]
        cells += [element("td", f"{rows:,}", class_="n"), element("td", percent(kept, rows), class_="n")]
        lines.append(element("tr", *cells))
    left = category.values[MAX_CATEGORY_ROWS:]
    notes = [f"Rule: {rule_text(category.rule)}."] if category.rule else []
    if left:
        notes.append(f"And {len(left):,} more values in {sum(rows for _, rows, _ in left):,} rows.")
    return element(
        "figure",
        element("figcaption", category.column),
        table("category", "", ["Value", "", "Rows", "Kept"], lines, first_numeric=2),
        element("p", " ".join(notes), class_="note") if notes else None,
        class_="chart",
    )
