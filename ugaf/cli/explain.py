"""The story of one row: where it came from, what each stage measured, which rule it passed or broke, why it is out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ugaf.columns import reasons
from ugaf.columns.parts import heavy_columns, part_schema
from ugaf.columns.tombstones import WITHDRAWN
from ugaf.columns.verdicts import FAILED, KEPT, NAMES, PENDING, REJECTED, FragmentVerdicts, Given
from ugaf.columns.view import RunView
from ugaf.export import earlier
from ugaf.export.products import products
from ugaf.export.whereabouts import where_is
from ugaf.pipeline.config import INGEST, StageSpec
from ugaf.pipeline.rules import Rule


def story(view: RunView, text: str) -> dict[str, Any]:
    """Everything about the one row that a text means (see `RunView.find`), as plain data.

    verdict: `status` (kept, left_out, out, failed, pending, withdrawn), the `stage` that decided, its `reason`, and
    where it is in `shards`. stages: those that the row came to, `ingest` first, with `columns` and `rules`.

    Raises UgafError if no row is meant, or several.
    """
    key, level, fragment = view.find(text)
    is_child = level == "edit" and not view.pipeline.is_pairs
    base = fragment.parents[key] if is_child else key
    stages = [_ingest(view, fragment, base)]
    for spec in view.pipeline.stages:
        row = base if spec.level == view.pipeline.base_level else key
        if stages[-1]["verdict"] != NAMES[KEPT] or (spec.level != view.pipeline.base_level and not is_child):
            break
        if row not in fragment[spec.name].ids:
            break
        stages.append(_stage(view, spec, fragment, row, key))
    children = [] if is_child else sorted(child for child, parent in fragment.parents.items() if parent == key)
    return {
        "id": key,
        "level": level,
        **({"parent": base} if is_child else {}),
        "run": view.path,
        "fragment": fragment.fragment,
        "verdict": _verdict(view, key, base, level, stages),
        "stages": stages,
        "edits": children,
    }


def explain(view: RunView, text: str) -> Iterator[str]:
    """The story as lines for a person, the verdict first; what is null is left out."""
    told = story(view, text)
    yield verdict_line(told)
    parent = f" of image {told['parent']}" if "parent" in told else ""
    yield f"{told['level']} {told['id']}{parent}, fragment {told['fragment']}"
    for stage in told["stages"]:
        yield f"{stage['name']} @ {stage['fingerprint']}: {stage['verdict']}"
        if stage["verdict"] == NAMES[FAILED]:
            yield f"    {stage['reason']}"
        yield from (f"    {name}: {_shown(value)}" for name, value in stage["columns"].items() if not _empty(value))
        yield from (
            f"    rule: {rule['text']}" for rule in stage["rules"] if rule["holds"] is not None or rule["waits"]
        )
    if told["edits"]:
        yield f"edits: {', '.join(told['edits'])}"


def verdict_line(told: Mapping[str, Any]) -> str:
    """`KEPT, in shards/train`, `OUT BY curation.resolution: short_side 200 < 256`, ..."""
    verdict = told["verdict"]
    stage, reason = verdict["stage"], verdict["reason"]
    return {
        "kept": "KEPT" + (f", in {verdict['shards']}" if verdict["shards"] else (f"; {reason}" if reason else "")),
        "left_out": f"LEFT OUT OF SHARDS: {reason}",
        "out": f"OUT BY {stage}: {reason}",
        "failed": f"FAILED IN {stage}: {reason}; --retry-failed does it again",
        "pending": f"PENDING AT {stage}: {reason}",
        WITHDRAWN: WITHDRAWN.upper() + reason.removeprefix(WITHDRAWN),
    }[verdict["status"]]


def _verdict(view: RunView, key: str, base: str, level: str, stages: list[dict[str, Any]]) -> dict[str, Any]:
    last = stages[-1]
    found = {"status": last["verdict"], "stage": last["name"], "reason": last["reason"], "shards": None}
    if last["verdict"] == NAMES[REJECTED]:
        return {**found, "status": WITHDRAWN if last["name"] == INGEST else "out"}
    if last["verdict"] == NAMES[PENDING]:
        waits = any(rule["waits"] for rule in last["rules"])
        reason = "its limits wait until the stage has seen the whole run" if waits else "not computed yet"
        return {**found, "reason": reason}
    if last["verdict"] != NAMES[KEPT]:
        return found
    found["stage"] = ""
    exported = products(view, earlier.remembered(view))
    product = next((one for one in exported if one.is_pairs == (level == "edit")), None)
    if product is None:
        return {**found, "reason": "the run makes no pairs" if level == "edit" else ""}
    donor = next((stage["columns"]["donor"] for stage in stages if "donor" in stage["columns"]), None)
    found_at = where_is(view, product, key, base, donor)
    left_out = found_at.place is None and found_at.current
    return {**found, "status": "left_out" if left_out else "kept", "shards": found_at.place, "reason": found_at.why}


def _ingest(view: RunView, fragment: FragmentVerdicts, base: str) -> dict[str, Any]:
    schema = part_schema(view.pipeline, INGEST)
    skipped = {"id", "error", "refs", *heavy_columns(schema)}
    names = [name for name in schema.names if name not in skipped]
    values = view.values(fragment.fragment, names, [base])[base]
    values["sources"] = sorted({*(values.get("sources") or ()), *view.more_sources.get(base, ())})
    given = fragment[INGEST]
    position = given.ids.index(base)
    return {
        "name": INGEST,
        "fingerprint": view.pipeline.ingest_fingerprint,
        "verdict": NAMES[given.code[position]],
        "reason": _reason(given, position),
        "columns": {name: _plain(values[name]) for name in names},
        "rules": [],
    }


def _stage(view: RunView, spec: StageSpec, fragment: FragmentVerdicts, row: str, key: str) -> dict[str, Any]:
    given = fragment[spec.name]
    position = given.ids.index(row)
    verdict = given.code[position]
    told: dict[str, Any] = {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "verdict": NAMES[verdict],
        "reason": _reason(given, position),
        "columns": {},
        "rules": [],
    }
    if verdict == FAILED or given.index[position] < 0:
        return told
    heavy = heavy_columns(part_schema(view.pipeline, spec.name))
    names = [name for name in spec.cls.schema.names if name not in heavy]
    owner = key if spec.cls.fans_out else row
    if not (spec.cls.fans_out and key == row):
        values = view.values(fragment.fragment, names, [owner])[owner]
        told["columns"] = {name: _plain(value) for name, value in values.items()}
    told["rules"] = [_rule(given, position, rule) for rule in given.rules]
    return told


def _reason(given: Given, position: int) -> str:
    reason = given.reason(position)
    return "" if reason is None else reasons.text(reason._asdict())


def _rule(given: Given, position: int, rule: Rule) -> dict[str, Any]:
    """holds: null where the rule does not apply (no value), or waits for the whole run."""
    value = given.table.column(rule.column)[int(given.index[position])].as_py()
    holds: bool | None = None
    if value is not None and not rule.needs_fit:
        holds = not bool(rule.broken(given.table.slice(int(given.index[position]), 1))[0])
    waits = value is not None and rule.needs_fit
    mark = "waits for the whole run" if waits else {True: "ok", False: "BROKEN", None: "does not apply"}[holds]
    wanted = rule.wanted(value)
    return {
        "column": rule.column,
        "kind": rule.kind,
        "bound": None if rule.losers is not None else _plain(rule.bound),
        "value": _plain(value),
        "holds": holds,
        "waits": waits,
        "text": f"{wanted} {mark}",
    }


def _plain(value: Any) -> Any:
    """As JSON has it; bytes by their number."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, Mapping) and all(_empty(item) for item in value.values()))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items() if not _empty(item)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
