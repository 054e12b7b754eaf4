"""The table of a benchmark: means by group, how many items they stand for, and everything that is not in them.

Every item is in exactly one of three states: scored, failed (an edit, a picture, a measure or an answer that could not
be had), missing (no edited picture). A failed item's other values still count where they are had; `n` tells of each
mean how many items are in it. report.json holds the numbers unrounded, report.md the same ones rounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import ugaf
from ugaf.base.versions import package_versions
from ugaf.bench.items import Item
from ugaf.bench.judging import Judge
from ugaf.bench.settings import BenchSettings

if TYPE_CHECKING:
    from ugaf.bench.protocols import Protocol

SHOWN_FAILURES = 20
OVERALL = "overall"


@dataclass(frozen=True)
class Result:
    """What came of an item. failed: what could not be had -> why. resized: the edited picture had another size."""

    item: Item
    missing: bool
    failed: Mapping[str, str]
    values: Mapping[str, float]
    resized: bool = False

    @property
    def state(self) -> str:
        return "missing" if self.missing else "failed" if self.failed else "scored"


def of(
    protocol: Protocol, results: Sequence[Result], settings: BenchSettings, editor: str, judge: Judge | None
) -> dict[str, Any]:
    """The report as plain data; the same results give the same report."""
    rows: list[dict[str, Any]] = []
    for language in dict.fromkeys(result.item.language for result in results):
        spoken = [result for result in results if result.item.language == language]
        groups = sorted({result.item.group for result in spoken})
        own = [_row(protocol, language, g, [r for r in spoken if r.item.group == g]) for g in groups]
        whole = _row(protocol, language, OVERALL, spoken)
        if protocol.overall == "groups":
            whole["means"] = {metric.name: _mean_of_groups(own, metric.name) for metric in protocol.metrics}
        rows += [*own, whole]
    return {
        "protocol": protocol.name,
        "title": protocol.title,
        "protocol_version": protocol.version,
        "overall": f"mean of all {protocol.overall}",
        "data": settings.data,
        "limit": settings.limit,
        "editor": editor,
        "seed": settings.seed if settings.editor is not None else None,
        "judge": {"name": judge.name, **judge.identity} if judge else None,
        "measures": protocol.identity(),
        "versions": {"ugaf": ugaf.__version__, **package_versions()},
        "metrics": {metric.name: metric.about for metric in protocol.metrics},
        "digits": {metric.name: metric.digits for metric in protocol.metrics},
        "missing_metrics": {m.name: protocol.missing[m.name] for m in protocol.metrics if m.name in protocol.missing},
        "rows": rows,
        "resized": sum(result.resized for result in results),
        "failures": [
            {
                "id": result.item.id,
                "group": result.item.group,
                "language": result.item.language,
                "part": part,
                "why": why,
            }
            for result in results
            for part, why in result.failed.items()
        ],
        "missing": [result.item.id for result in results if result.missing],
    }


def _row(protocol: Protocol, language: str, group: str, results: Sequence[Result]) -> dict[str, Any]:
    states = [result.state for result in results]
    return {
        "language": language,
        "group": group,
        "items": len(results),
        **{state: states.count(state) for state in ("scored", "failed", "missing")},
        "means": {m.name: _mean(r.values[m.name] for r in results if m.name in r.values) for m in protocol.metrics},
    }


def _mean(values: Iterable[float]) -> dict[str, Any]:
    found = list(values)
    return {"mean": fmean(found) if found else None, "n": len(found)}


def _mean_of_groups(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The unweighted mean of the groups that have the metric; n counts items."""
    found = [row["means"][name] for row in rows if row["means"][name]["n"]]
    return {
        "mean": fmean(cell["mean"] for cell in found) if found else None,
        "n": sum(cell["n"] for cell in found),
        "groups": len(found),
    }


def as_json(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False).encode()


def markdown(told: Mapping[str, Any]) -> str:
    """The report for people."""
    judge = told["judge"]
    total = {state: sum(row[state] for row in told["rows"] if row["group"] == OVERALL) for state in _STATES}
    lines = [
        f"# {told['title']}",
        "",
        f"- data: `{told['data']}`" + (f", the first {told['limit']} items of each group" if told["limit"] else ""),
        f"- editor: {told['editor']}" + (f", seed {told['seed']}" if told["seed"] is not None else ""),
        f"- judge: {judge['name']}, prompts {judge['prompts']}" if judge else "- judge: none",
        f"- items: {total['items']}: {total['scored']} scored, {total['failed']} failed, {total['missing']} missing",
        f"- overall: {told['overall']}",
    ]
    if told["resized"]:
        lines.append(f"- {told['resized']} edited pictures have another size than their source")
    lines += ["", *_table(told), ""]
    lines += [f"- {name}: {about}" for name, about in told["metrics"].items()]
    if told["missing_metrics"]:
        lines += ["", "Not had (–):", ""]
        lines += [f"- {name}: {why}" for name, why in told["missing_metrics"].items()]
    if told["failures"]:
        lines += ["", f"{len(told['failures'])} failures, in no mean of what failed:", ""]
        shown = told["failures"][:SHOWN_FAILURES]
        lines += [f"- {f['id']} ({f['group']}), {f['part']}: {_one_line(f['why'])}" for f in shown]
        if len(told["failures"]) > len(shown):
            lines.append(f"- and {len(told['failures']) - len(shown)} more: see report.json")
    if told["missing"]:
        lines += ["", f"No edited picture: {', '.join(told['missing'][:SHOWN_FAILURES])}" + _more(told["missing"])]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    return "\n".join([*lines, "", f"Versions: {versions}; protocol version {told['protocol_version']}", ""])


_STATES = ("items", "scored", "failed", "missing")


def _table(told: Mapping[str, Any]) -> list[str]:
    names = list(told["metrics"])
    several = len({row["language"] for row in told["rows"]}) > 1
    head = [*(["language"] if several else []), "group", *_STATES, *names]
    lines = [_line(head), _line(["---"] * (len(head) - len(names) - 4) + ["---:"] * (len(names) + 4))]
    for row in told["rows"]:
        cells = [*([row["language"]] if several else []), row["group"], *(str(row[state]) for state in _STATES)]
        cells += [_cell(row["means"][name], row["scored"] + row["failed"], told["digits"][name]) for name in names]
        lines.append(_line([f"**{cell}**" for cell in cells] if row["group"] == OVERALL else cells))
    return lines


def _cell(value: Mapping[str, Any], edited: int, digits: int) -> str:
    if value["mean"] is None:
        return "–"
    shown = f"{value['mean']:.{digits}f}"
    return shown if value["n"] == edited else f"{shown} (n = {value['n']})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _more(items: Sequence[Any]) -> str:
    return f" and {len(items) - SHOWN_FAILURES} more" if len(items) > SHOWN_FAILURES else ""
