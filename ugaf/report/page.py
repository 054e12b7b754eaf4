"""Renders the report as one HTML page: text and charts as markup, the gallery as JSON that the page's script shows.

Nothing is loaded from elsewhere, and a content security policy says so to the browser: only the page's own style and
script (by hash) and images from data URLs. Strings from data reach the page in two ways only, both safe: escaped by
`markup.element`, or as JSON in which `<`, `>` and `&` are escaped and which the script shows with `textContent`.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from ugaf.pages.cells import IMAGES, plain
from ugaf.pages.charts import number, percent, rule_text, stacked
from ugaf.pages.markup import Markup, base_style, element, embed, join, security_policy, table
from ugaf.report.balance_section import balances
from ugaf.report.cards import Gallery
from ugaf.report.collect import Report, Step
from ugaf.report.measures_section import fitted, measures
from ugaf.report.sample import STATUSES

UNITS = {"image": ("photograph", "photographs"), "edit": ("edit", "edits")}
HEADLINES = ("quality", "global_score", "local_score", "iou")


def render(report: Report) -> str:
    """The whole page."""
    files = resources.files("ugaf.report")
    template, script = ((files / f"page.{ext}").read_text("utf-8") for ext in ("html", "js"))
    style = base_style()
    parts = {
        "policy": security_policy(style, [script]),
        "title": join([f"{report.name} · ugaf report"]),
        "style": Markup(style),
        "header": header(report),
        "funnel": funnel(report.steps),
        "reasons": reasons(report.steps),
        "balance": balances(report.balances),
        "measures": join([fitted(report.steps, report.fitted_on), measures(report.distributions, report.categories)]),
        "time": timing(report.steps),
        "gallery": gallery_note(report.gallery),
        "data": embed(gallery_data(report)),
        "script": Markup(script),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(parts[found[1]]), template)


def header(report: Report) -> Markup:
    """Name, pipeline and version, and what came of the input in a few numbers."""
    versions = " · ".join(f"{name} {version}" for name, version in report.versions.items())
    tiles = []
    for level, totals in report.totals.items():
        rows = sum(totals.values())
        names = UNITS[level]
        tiles.append(
            element(
                "div",
                element("p", f"{names[1].capitalize()} kept", class_="tile-name"),
                element("p", element("strong", f"{totals['kept']:,}"), f" of {rows:,}", class_="tile-number"),
                stacked([(s, totals[s]) for s in STATUSES], rows, f"{names[1]}: {_amounts(totals)}"),
                element("p", _amounts(totals), class_="tile-note"),
                class_="tile",
            )
        )
    seconds = sum(step.seconds for step in report.steps)
    failed = sum(step.failed for step in report.steps)
    summary = (
        f"{_sentence(report)} {failed:,} {'row' if failed == 1 else 'rows'} failed; {duration(seconds)} of compute."
    )
    return join(
        [
            element("h1", report.name),
            element("p", report.description, class_="about") if report.description else None,
            element("p", summary, class_="summary", id="summary"),
            element("div", *tiles, class_="tiles"),
            element("p", f"Made with {versions}.", class_="note versions") if versions else None,
        ]
    )


def _sentence(report: Report) -> str:
    parts = []
    for level, totals in report.totals.items():
        rows = sum(totals.values())
        name = UNITS[level][rows != 1]
        parts.append(f"{totals['kept']:,} of {rows:,} {name} kept ({percent(totals['kept'], rows)})")
    return ("; ".join(parts) or "The run has no rows") + "."


def _amounts(totals: dict[str, int]) -> str:
    return ", ".join(f"{totals[status]:,} {status}" for status in STATUSES if totals[status] or status == "kept")


def funnel(steps: list[Step]) -> Markup:
    """One line a stage; a new base where the rows change their kind (photographs become edits)."""
    lines: list[Markup] = []
    previous: Step | None = None
    base = 0
    for step in steps:
        if previous is None or step.level != previous.level or step.given > previous.kept:
            base = step.given
            lines.append(_group_line(previous, step))
        rejected = sum(step.rejected.values())
        amounts = {"kept": step.kept, "rejected": rejected, "failed": step.failed, "pending": step.pending}
        label = f"{step.name}: {_amounts(amounts)} of {step.given:,} given"
        cells = [element("th", step.name, scope="row", class_="name")]
        cells.append(element("td", stacked(list(amounts.items()), base, label), class_="bar-cell"))
        cells.append(element("td", f"{step.given:,}", class_="n"))
        cells += [element("td", f"{n:,}", class_=f"n {s}" + ("" if n else " zero")) for s, n in amounts.items()]
        cells.append(element("td", percent(step.kept, step.given), class_="n"))
        cells.append(element("td", percent(step.kept, base), class_="n"))
        lines.append(element("tr", *cells))
        previous = step
    heads = ["Stage", "", "Given", "Kept", "Rejected", "Failed", "Pending", "Of previous", "Of input"]
    return table("funnel", "What each stage was given and what it kept", heads, lines, first_numeric=2)


def _group_line(previous: Step | None, step: Step) -> Markup:
    text = f"{step.given:,} {UNITS[step.level][step.given != 1]}"
    if previous is not None and previous.kept:
        names = UNITS[previous.level]
        text += f" from {previous.kept:,} {names[previous.kept != 1]} ({step.given / previous.kept:.1f} each)"
    return element("tr", element("th", text, colspan=9, scope="rowgroup"), class_="group")


def reasons(steps: list[Step]) -> Markup:
    """Stage, rule or error, rows; most frequent first inside a stage."""
    lines = []
    for step in steps:
        found = [("rejected", rule, rows) for rule, rows in step.rejected.items()]
        found += [("failed", kind, rows) for kind, rows in step.errors.items()]
        for status, rule, rows in sorted(found, key=lambda entry: (entry[0] == "failed", -entry[2], entry[1])):
            if not rows:
                continue
            show = element(
                "button",
                "Show",
                type="button",
                class_="show",
                aria_label=f"Show rows out by {rule} of {step.name} in the gallery",
                data_kind="pair" if step.level == "edit" else "photograph",
                data_stage=step.name,
                data_rule=rule,
            )
            bar = stacked([(status, rows)], step.given, f"{percent(rows, step.given)} of the rows given")
            lines.append(
                element(
                    "tr",
                    element("th", step.name, scope="row", class_="name"),
                    element("td", element("code", rule, class_="data"), class_="wide"),
                    element("td", element("span", status, class_=f"status {status}")),
                    element("td", f"{rows:,}", class_="n"),
                    element("td", percent(rows, step.given), class_="n"),
                    element("td", bar, class_="bar-cell small"),
                    element("td", show),
                )
            )
    if not lines:
        return element("p", "No row was rejected, and none failed.", class_="note")
    heads = ["Stage", "Rule or error", "Verdict", "Rows", "Of given", "", ""]
    return table("reasons", "Why rows are out: the first rule that a row breaks", heads, lines, first_numeric=3)


def timing(steps: list[Step]) -> Markup:
    """Compute time, rows and rate of each stage. Compute time is summed over workers, so it can exceed the run's."""
    total = sum(step.seconds for step in steps)
    most = max((step.seconds for step in steps), default=0.0)
    lines = []
    for step in steps:
        bar = stacked([("time", step.seconds)], most, f"{percent(step.seconds, total)} of all compute time")
        rate = number(float(f"{step.rows / step.seconds:.3g}")) if step.seconds > 0 and step.rows else "–"
        cells = [element("th", step.name, scope="row", class_="name"), element("td", bar, class_="bar-cell")]
        cells += [
            element("td", duration(step.seconds), class_="n"),
            element("td", percent(step.seconds, total), class_="n"),
        ]
        cells += [element("td", f"{step.rows:,}", class_="n"), element("td", rate, class_="n")]
        cells.append(element("td", element("code", step.fingerprint[:12])))
        lines.append(element("tr", *cells))
    heads = ["Stage", "", "Compute", "Share", "Rows computed", "Rows/s", "Fingerprint"]
    return table("time", "Compute time by stage, summed over workers", heads, lines, first_numeric=2, last_numeric=5)


def duration(seconds: float) -> str:
    """ "0.42 s", "12.3 s", "4 min 05 s", "3 h 12 min"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def gallery_note(gallery: Gallery) -> Markup:
    """Whether the gallery is the whole or a sample."""
    parts, whole = [], True
    for kind, total in gallery.drawn_from.items():
        if not total:
            continue
        shown = sum(card.kind == kind for card in gallery.cards)
        whole = whole and shown == total
        parts.append(f"{shown:,} of {total:,} {_plural(kind, gallery)}")
    if not parts:
        return element("p", "There is nothing to show.", class_="note", id="sample")
    how = "all of them" if whole else "a sample in which each status, stage, reason and task has its share"
    return element("p", f"Showing {' and '.join(parts)}: {how}.", class_="note", id="sample")


def _plural(kind: str, gallery: Gallery) -> str:
    if kind == "pair":
        return "edits"
    return "photographs that are out" if gallery.drawn_from.get("pair") else "photographs"


def gallery_data(report: Report) -> dict[str, Any]:
    """What the page's script reads."""
    gallery = report.gallery
    groups = [
        {
            "stage": group.stage,
            "columns": [name for name in group.columns if name not in IMAGES],
            "rules": {name: rule_text(rule) for name, rule in group.keep.items()},
            "limits": {name: [plain(rule.get("min")), plain(rule.get("max"))] for name, rule in group.keep.items()},
        }
        for group in gallery.groups
    ]
    return {
        "kinds": dict(gallery.drawn_from),
        "headlines": {"pair": _headlines(report, "edit"), "photograph": _headlines(report, "image")},
        "measures": {
            "pair": [one.column for one in report.distributions if one.level == "edit"],
            "photograph": [one.column for one in report.distributions if one.level == "image"],
        },
        "groups": groups,
        "cards": [vars(card) for card in gallery.cards],
        "images": {name: thumbnail.url for name, thumbnail in gallery.images.items()},
    }


def _headlines(report: Report, level: str) -> list[str]:
    """The few measures that a card shows: the known scores, else those that decide."""
    measures = [one for one in report.distributions if one.level == level]
    names = [name for name in HEADLINES if any(one.column == name for one in measures)]
    return (names or [one.column for one in measures if one.rule] or [one.column for one in measures])[:4]
