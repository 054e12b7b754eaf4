"""Gathers what the report shows from a run, as plain data: the funnel, the distributions and the sampled cards.

Two passes over each level of rows (photographs, then edits): the first reads verdicts and scalar columns of all rows,
and keeps 9 bytes a measure a row; the second reads all columns with the images, of the sampled rows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ugaf.columns import reasons
from ugaf.pages import distributions
from ugaf.pages.distributions import Category, Distribution, Labels, Values
from ugaf.report import cards
from ugaf.report.balance import ColumnBalance, column_balances
from ugaf.report.cards import ColumnGroup
from ugaf.report.sample import STATUSES, Sampler

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

LEVELS = ("image", "edit")
VERDICT = ("id", "parent", "status", "stage", "reason")
PHOTOGRAPH_SHARE = 6
"""Where a run has edits, photographs that are out get at most one place in six of the gallery."""


@dataclass(frozen=True)
class Step:
    """One line of the funnel. given = kept + sum(rejected.values()) + failed + pending."""

    name: str
    level: str
    given: int
    kept: int
    rejected: Mapping[str, int]
    failed: int
    pending: int
    errors: Mapping[str, int]
    seconds: float
    rows: int
    keep: Mapping[str, Mapping[str, Any]]
    fingerprint: str


@dataclass(frozen=True)
class Report:
    """All that the page shows. `totals`: level -> status -> rows, of the levels that the run has.

    versions: of ugaf, Python and packages, as the run recorded them. fitted_on: what the numbers of quantile rules were
    fitted on. balances: of the rows of the last level.
    """

    name: str
    description: str
    versions: dict[str, str]
    steps: list[Step]
    totals: dict[str, dict[str, int]]
    distributions: list[Distribution]
    categories: list[Category]
    balances: list[ColumnBalance]
    fitted_on: str
    gallery: cards.Gallery


@dataclass
class Scan:
    """What the first pass over one level finds."""

    level: str
    schema: pa.Schema
    sampler: Sampler
    totals: dict[str, int]
    distributions: list[Distribution] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)


def collect(view: RunView, *, gallery: int, seed: int) -> Report:
    """Read the run twice (see the module) and return all that the page shows."""
    steps = _steps(view)
    groups = column_groups(view)
    levels = [level for level in LEVELS if any(group.level == level for group in groups)]
    scans = [scan(view, level, groups, steps, Sampler(gallery, seed)) for level in levels]
    last = scans[-1] if scans else None
    return Report(
        name=view.name,
        description=view.about,
        versions=_versions(view),
        steps=steps,
        totals={found.level: _totals(steps, found) for found in scans},
        distributions=[one for found in scans for one in found.distributions],
        categories=[one for found in scans for one in found.categories],
        balances=column_balances(view, last.level, last.schema, view.pipeline.free_text.union(VERDICT))
        if last is not None
        else [],
        fitted_on=_fitted_on(view.pipeline.settings.quantiles.source),
        gallery=_gallery(view, scans, groups, gallery),
    )


def _fitted_on(source: str) -> str:
    """Where the numbers of quantile rules come from, in words; see the pipeline's `quantiles.source`."""
    words = {"run": "this run as it is now", "frozen": "this run when they were first fitted; frozen since"}
    return words.get(source, f"the run {source}")


def column_groups(view: RunView) -> list[ColumnGroup]:
    """The columns of each stage with the level of the rows that have them.

    A stage's own level is that of the rows it is given; the columns of the stage that fans out belong to its edits.
    """
    base = view.stages[0].level
    groups = []
    for stage in view.stages:
        level = "edit" if any(not view.pipeline.is_base_column(name) for name in stage.columns) else base
        columns = [name for name in stage.columns if name not in VERDICT]
        groups.append(ColumnGroup(stage.name, level, columns, list(stage.measures), dict(stage.keep)))
    return groups


def _totals(steps: list[Step], found: Scan) -> dict[str, int]:
    """A level's rows by final status, from the funnel: it also counts sources that were not read yet and have no id."""
    own = [step for step in steps if step.level == found.level]
    if not own:
        return found.totals
    return {
        "kept": own[-1].kept,
        "rejected": sum(sum(step.rejected.values()) for step in own),
        "failed": sum(step.failed for step in own),
        "pending": sum(step.pending for step in own),
    }


def _versions(view: RunView) -> dict[str, str]:
    found = {name: str(view.record[name]) for name in ("ugaf", "python") if view.record.get(name)}
    return found | {name: str(version) for name, version in (view.record.get("packages") or {}).items()}


def _steps(view: RunView) -> list[Step]:
    stages = {stage.name: stage for stage in view.stages}
    steps = []
    for counts in view.funnel():
        stage = stages.get(counts.name)
        steps.append(
            Step(
                name=counts.name,
                level=counts.level,
                given=counts.given,
                kept=counts.kept,
                rejected=dict(counts.rejected),
                failed=counts.failed,
                pending=counts.pending,
                errors=dict(counts.errors),
                seconds=float(counts.seconds),
                rows=counts.rows,
                keep=dict(stage.keep) if stage else {},
                fingerprint=stage.fingerprint if stage else "",
            )
        )
    return steps


def scan(view: RunView, level: str, groups: list[ColumnGroup], steps: list[Step], sampler: Sampler) -> Scan:
    """First pass: verdicts and scalar columns of all rows of a level."""
    schema = _schema(view, level, groups)
    found = Scan(level, schema, sampler, dict.fromkeys(STATUSES, 0))
    own = [group for group in groups if group.level == level]
    free_text = view.pipeline.free_text
    measures = {name: Values() for group in own for name in group.measures if name in schema.names}
    labels = {
        name: Labels()
        for group in own
        for name in group.columns
        if name in schema.names and name not in measures and name not in free_text and _is_label(schema.field(name))
    }
    missing = dict.fromkeys(measures, 0)
    keep = {step.name: step.keep for step in steps}
    for table in view.rows(level, columns=[*measures, *labels]):
        kept = np.asarray(pc.equal(table.column("status"), "kept")).astype(bool)
        _verdicts(table, found, keep, level)
        for name, collected in measures.items():
            column = table.column(name)
            present = np.asarray(column.is_valid())
            missing[name] += _unmeasured(table, present)
            collected.add(np.asarray(column.drop_null().cast(pa.float64())), kept[present])
        for name, counter in labels.items():
            _count(table.column(name), kept, counter)
    for group in own:
        for name in group.columns:
            rule = group.keep.get(name)
            if name in measures:
                values, kept = measures[name].joined()
                one = distributions.distribution(group.stage, level, name, rule, values, kept, missing[name])
                found.distributions += [one] if one is not None else []
            elif name in labels and (ranked := labels[name].ranked()):
                found.categories.append(Category(group.stage, level, name, rule, ranked))
    return found


def _verdicts(table: pa.Table, found: Scan, keep: Mapping[str, Any], level: str) -> None:
    """Count the statuses and offer each row to the sampler under its (status, stage and cause, task)."""
    tasks = table.column("task").to_pylist() if level == "edit" and "task" in table.column_names else None
    columns = [table.column(name).to_pylist() for name in ("id", "status", "stage", "reason")]
    for i, (id, status, stage, reason) in enumerate(zip(*columns, strict=True)):
        found.totals[status] += 1
        cause = "" if status == "kept" else stage
        if reason is not None:
            # A rule on a category has one reason for each value ("screen face ..."): show each of them.
            by_value = _is_choice(keep.get(stage, {}).get(reason["column"]))
            cause += f" {reasons.text(reason) if by_value else reason['cause']}"
        found.sampler.add((status, cause, (tasks[i] if tasks else None) or ""), id)


def _is_choice(rule: Mapping[str, Any] | None) -> bool:
    return rule is not None and ("one_of" in rule or "none_of" in rule)


def _unmeasured(table: pa.Table, present: np.ndarray) -> int:
    """Rows that have no value although they were kept to the end, so that the stage did see them."""
    kept = np.asarray(pc.equal(table.column("status"), "kept")).astype(bool)
    return int((kept & ~present).sum())


def _count(column: pa.ChunkedArray, kept: np.ndarray, counter: Labels) -> None:
    if counter.free_text:
        return
    text = column.cast(pa.string())
    kept_counts = _frequencies(text.filter(pa.array(kept)))
    for value, rows in _frequencies(text).items():
        counter.add(value, rows, kept_counts.get(value, 0))


def _frequencies(column: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(column.drop_null())
    return {entry["values"].as_py(): entry["counts"].as_py() for entry in counts}


def _schema(view: RunView, level: str, groups: list[ColumnGroup]) -> pa.Schema:
    """Names and types of a level's columns (an edit has its photograph's too), from one row; empty if there is none."""
    names = [name for group in groups if group.level == level or level == "edit" for name in group.columns]
    for table in view.rows(level):
        if table.num_rows:
            first = {table.column("id")[0].as_py()}
            for probe in view.rows(level, columns=names, ids=first):
                if probe.num_rows:
                    return probe.schema
    return pa.schema([])


def _is_label(column: pa.Field) -> bool:
    kind = column.type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)


def _gallery(view: RunView, scans: list[Scan], groups: list[ColumnGroup], places: int) -> cards.Gallery:
    """Second pass: the sampled rows with their images. A run that has edits shows only photographs that are out."""
    by_level = {found.level: found for found in scans}
    edits, photographs = by_level.get("edit"), by_level.get("image")
    has_edits = edits is not None and sum(edits.totals.values()) > 0
    shown: dict[str, list[str]] = {}
    if photographs is not None:
        sampler = photographs.sampler
        if has_edits:
            sampler.sizes = {stratum: rows for stratum, rows in sampler.sizes.items() if stratum[0] != "kept"}
        shown["image"] = sampler.choose(places // PHOTOGRAPH_SHARE if has_edits else places)
    if edits is not None and has_edits:
        shown["edit"] = edits.sampler.choose(places - len(shown.get("image", ())))
    sources = [
        cards.Source(level, ids, by_level[level].schema, sum(by_level[level].sampler.sizes.values()))
        for level, ids in reversed(shown.items())
    ]
    return cards.read(view, groups, sources)
