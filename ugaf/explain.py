"""The story of one row: where it came from, what each stage measured, which rule it passed or broke, why it is out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ugaf.columns import heavy_columns, part_schema
from ugaf.config import INGEST, StageSpec
from ugaf.verdicts import FAILED, KEPT, NAMES, PENDING, FragmentVerdicts, Given
from ugaf.view import RunView


def explain(view: RunView, prefix: str) -> Iterator[str]:
    """Lines for a person. Raises UgafError if no row, or several, have an id that starts with `prefix`."""
    key, level, fragment = view.find(prefix)
    is_child = level == "edit" and not view.pipeline.is_pairs
    base = fragment.parents[key] if is_child else key
    yield f"{level} {key}" + (f" of image {base}" if is_child else "")
    yield f"fragment {fragment.fragment}"
    yield from _ingest(view, fragment, base)
    final = ""
    for spec in view.pipeline.stages:
        given = fragment[spec.name]
        row = base if spec.level == view.pipeline.base_level else key
        if spec.level != view.pipeline.base_level and not is_child:
            continue
        if row not in given.ids:
            break
        yield from _stage(view, spec, given, fragment, row, key)
        position = given.ids.index(row)
        if given.code[position] != KEPT:
            status = NAMES[given.code[position]]
            reason = given.reason(position)
            final = f"{status} by {spec.name}: {reason}" if status != "pending" else f"pending at {spec.name}"
            break
    children = sorted(child for child, parent in fragment.parents.items() if parent == key)
    if children and not is_child:
        yield f"edits: {', '.join(children)}"
    ingest = fragment[INGEST]
    position = ingest.ids.index(base)
    if ingest.code[position] == FAILED:
        final = f"failed at ingest: {ingest.reason(position)}"
    yield f"verdict: {final or 'kept by every stage'}"


def _ingest(view: RunView, fragment: FragmentVerdicts, base: str) -> Iterator[str]:
    schema = part_schema(view.pipeline, INGEST)
    skipped = {"id", "error", "refs", *heavy_columns(schema)}
    names = [name for name in schema.names if name not in skipped]
    values = view.values(fragment.fragment, names, [base])[base]
    values["sources"] = sorted({*(values.get("sources") or ()), *view.more_sources.get(base, ())})
    yield f"{INGEST} @ {view.pipeline.ingest_fingerprint}"
    yield from (f"    {name}: {_shown(values[name])}" for name in names)


def _stage(
    view: RunView, spec: StageSpec, given: Given, fragment: FragmentVerdicts, row: str, key: str
) -> Iterator[str]:
    position = given.ids.index(row)
    yield f"{spec.name} @ {spec.fingerprint}: {NAMES[given.code[position]]}"
    if given.code[position] == PENDING and given.index[position] < 0:
        return
    if given.code[position] == FAILED:
        yield f"    {given.reason(position)}"
        return
    heavy = heavy_columns(part_schema(view.pipeline, spec.name))
    names = [name for name in spec.cls.writes.names if name not in heavy]
    owner = key if spec.cls.fans_out else row
    values = view.values(fragment.fragment, names, [owner])[owner] if not (spec.cls.fans_out and key == row) else {}
    yield from (f"    {name}: {_shown(value)}" for name, value in values.items())
    for number, rule in enumerate(given.rules):
        broken = given.rule[position] == number
        judged = given.rule[position] < 0 or number <= given.rule[position]
        value = given.table.column(rule.column)[int(given.index[position])].as_py()
        if value is None:
            mark = "does not apply (no value)"
        elif rule.needs_fit:
            mark = "waits for the whole run"
        else:
            mark = "BROKEN" if broken else ("holds" if judged else "not asked")
        yield f"    rule: out if {rule.key}: {mark}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
