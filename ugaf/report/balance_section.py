"""The section of balance: kept rows by category beside the target, what is missing, and how long the tail is."""

from __future__ import annotations

from ugaf.balance import OTHER, Line
from ugaf.balance.settings import NATURAL
from ugaf.pages.charts import number, percent, wanted
from ugaf.pages.markup import Markup, element, join, table
from ugaf.report.balance import ColumnBalance

MAX_LINES = 12
UNITS = {"image": "photographs", "edit": "edits"}


def balances(found: list[ColumnBalance]) -> Markup:
    """A figure for each category column; the one that the export is balanced by comes first."""
    if not found:
        return element("p", "No column of the kept rows has several categories.", class_="note")
    unit = UNITS[found[0].level]
    key = element(
        "p",
        element("span", f"kept {unit}", class_="swatch kept"),
        element("span", "where the target's part ends", class_="swatch want"),
        class_="key",
    )
    terms = element(
        "p",
        "Gap: rows beyond the target's part of the kept rows, or short of it. Effective: so many equal categories "
        "would be as varied (exp of the Shannon entropy). Hold half: so many of the largest categories have half of "
        "the rows. Gini: 0 where all are equal, towards 1 where few have all. Meet the target: the most rows that do "
        "so without new ones.",
        class_="note",
    )
    return join([key, element("div", *(_figure(one) for one in found), class_="charts balance"), terms])


def _figure(one: ColumnBalance) -> Markup:
    account = one.account
    shown = account.lines[:MAX_LINES] if len(account.lines) > MAX_LINES + 1 else account.lines
    want = {line.category: line.rows - line.gap for line in shown}
    most = max((max(line.rows, want[line.category]) for line in shown), default=0)
    lines = [_line(line, want[line.category], most, account.rows) for line in shown]
    return element(
        "figure",
        element("figcaption", one.by, element("span", f" {_target(one)}", class_="note")),
        table("balance", "", ["Category", "", "Kept", "Share", "Target", "Gap"], lines, first_numeric=2),
        _rest(one, len(shown)),
        _tail(one),
        class_="chart",
        data_by=one.by,
    )


def _line(line: Line, want: int, most: int, rows: int) -> Markup:
    label = f"{line.category}: {line.rows:,} kept, {want:,} by the target"
    gap = f"+{line.gap:,}" if line.gap > 0 else f"−{-line.gap:,}" if line.gap else "0"
    return element(
        "tr",
        element("th", line.category, scope="row", class_="data"),
        element("td", wanted(line.rows, want, most, label), class_="bar-cell"),
        element("td", f"{line.rows:,}", class_="n"),
        element("td", percent(line.rows, rows), class_="n"),
        element("td", f"{100 * line.target:.1f} %", class_="n"),
        element("td", gap, class_="n lacks" if line.gap < 0 else "n"),
    )


def _target(one: ColumnBalance) -> str:
    settings = one.settings
    if isinstance(settings.target, dict):
        words = "the target of the export" + ("" if OTHER in settings.target else ", the named categories alone")
    elif settings.temperature is not None:
        words = f"the target of the export, n^(1/{settings.temperature:g})"
    elif settings.target == NATURAL:
        words = "the target of the export, natural shares"
    else:
        words = "the target of the export, equal shares" if one.asked else "equal shares"
    return f"against {words}"


def _rest(one: ColumnBalance, shown: int) -> Markup | None:
    rest = one.account.lines[shown:]
    if not rest:
        return None
    rows, single = sum(line.rows for line in rest), sum(line.rows == 1 for line in rest)
    text = f"{len(rest):,} more categories hold {rows:,} rows ({percent(rows, one.account.rows)})"
    return element("p", text + (f"; {single:,} of them one row each." if single else "."), class_="note")


def _tail(one: ColumnBalance) -> Markup:
    account, tail = one.account, one.account.tail
    figures = [("categories", f"{tail.categories:,}"), ("effective", number(tail.effective, 3))]
    figures += [("hold half", f"{tail.half:,}"), ("largest", percent(round(tail.largest * account.rows), account.rows))]
    figures += [("Gini", f"{tail.gini:.2f}"), ("meet the target", f"{account.reachable:,}")]
    if one.settings.min_rows:
        figures.append((f"below {one.settings.min_rows:,}", f"{tail.below:,}"))
    return element("dl", *(element("div", element("dt", name), element("dd", text)) for name, text in figures))
