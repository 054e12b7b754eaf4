"""From what a stage returns to the columns that are stored, and the verdicts on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ugaf.base.failure import Failure, at_once
from ugaf.columns.parts import CHILDREN, heavy_columns
from ugaf.columns.verdicts import FAILED, KEPT, PENDING, REJECTED
from ugaf.engine.alike import FailedRow
from ugaf.pipeline.config import StageSpec
from ugaf.pipeline.rules import Rule
from ugaf.pipeline.rules import judge as broken_rules
from ugaf.stage import Outcome, Row, Stage


def child_id(parent: str, spec: StageSpec, values: Mapping[str, Any]) -> str:
    """An edit's id: a hash of its photograph's id and the columns that the stage names in `identity`."""
    identity = [parent, *(values[name] for name in spec.cls.identity)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def stored(
    schema: pa.Schema, spec: StageSpec, rows: Sequence[Row], outcomes: Sequence[Outcome], attempts: Sequence[int]
) -> list[dict[str, Any]]:
    """The rows' new columns as they are stored; an outcome that does not fit the part's schema becomes a failure.

    Values are those that reading the part gives (float32 rounded, tuples as lists, absent fields null), so that the
    next stage sees the same whether the row flows on or the run was interrupted.
    """
    records = [
        {"id": row.id, "attempt": attempt, **_columns_of(spec, row, outcome)}
        for row, outcome, attempt in zip(rows, outcomes, attempts, strict=True)
    ]
    table = as_table(schema, records)
    if isinstance(table, Exception):
        for number, record in enumerate(records):
            problem = as_table(schema, [record])
            if isinstance(problem, Exception):
                records[number] = {key: record[key] for key in ("id", "attempt")} | {"error": misfit(problem)}
        table = pa.Table.from_pylist(records, schema=schema)
    light = table.drop_columns(list(heavy_columns(schema))).to_pylist()
    return [record | values for record, values in zip(records, light, strict=True)]


def _columns_of(spec: StageSpec, row: Row, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"error": str(outcome)}
    try:
        return {CHILDREN: children_of(spec, row, outcome)} if spec.cls.fans_out else checked(spec, outcome)
    except (TypeError, ValueError, KeyError) as error:
        return {"error": misfit(error)}


def as_table(schema: pa.Schema, records: Sequence[Mapping[str, Any]]) -> pa.Table | Exception:
    """The records as they are stored, or why they do not fit the schema."""
    try:
        return pa.Table.from_pylist(list(records), schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        return error


def misfit(error: Exception) -> str:
    """The error text of a row whose outcome does not fit."""
    return str(Failure("OutcomeError", f"the stage's outcome does not fit the columns it declares: {error}"))


def children_of(spec: StageSpec, row: Row, outcome: Any) -> list[dict[str, Any]]:
    """The child rows of one row, each with its id, sorted by it; the same child twice is one. Raises as `checked`."""
    children: dict[str, dict[str, Any]] = {}
    for values in outcome:
        child = checked(spec, values)
        key = child_id(row.id, spec, child)
        children.setdefault(key, {"id": key, **child})
    return [children[key] for key in sorted(children)]


def checked(spec: StageSpec, outcome: Any) -> dict[str, Any]:
    """The outcome with exactly the columns that the stage declares. Raises ValueError or TypeError."""
    values = dict(outcome)
    missing, unknown = set(spec.cls.schema.names) - set(values), set(values) - set(spec.cls.schema.names)
    if missing or unknown:
        raise ValueError(f"missing columns {sorted(missing)}, undeclared columns {sorted(unknown)}")
    return values


def onward(spec: StageSpec, row: Row, record: Mapping[str, Any]) -> list[Row]:
    """What a kept row goes on as: itself with its new columns, or its child rows."""
    if spec.cls.fans_out:
        return [Row(c["id"], {k: v for k, v in c.items() if k != "id"}, row) for c in record[CHILDREN]]
    row.values.update({name: record[name] for name in spec.cls.schema.names})
    return [row]


def verdicts_of(spec: StageSpec, rules: Sequence[Rule], records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """int (n,) codes of freshly measured rows."""
    failed = np.array([record.get("error") is not None for record in records], dtype=bool)
    if spec.cls.fans_out:
        empty = np.array([not record.get(CHILDREN) for record in records], dtype=bool)
        return np.where(failed, FAILED, np.where(empty, REJECTED, KEPT))
    if any(rule.needs_fit for rule in rules):
        return np.where(failed, FAILED, PENDING)
    used = [spec.cls.schema.field(name) for name in dict.fromkeys(rule.column for rule in rules)]
    schema = pa.schema([pa.field("id", pa.string()), *used])
    table = pa.Table.from_pylist([{name: r.get(name) for name in schema.names} for r in records], schema=schema)
    broken = broken_rules(rules, table) >= 0
    return np.where(failed, FAILED, np.where(broken, REJECTED, KEPT))


def call(stage: Stage, rows: Sequence[Row]) -> Sequence[Outcome]:
    """The stage on a batch; if the batch as a whole raises, on each row by itself, so that only bad rows fail.

    Raises StopRun where the stage does: the fault is no row's.
    """
    return at_once(stage, rows)


def failed_row(fragment: str, record: Mapping[str, Any], outcome: object) -> FailedRow:
    """What the journal is told of a row that failed. record: its `id`, `error`, `attempt` and, if known, `sources`."""
    where = next(iter(record.get("sources") or ()), "")
    # A row whose work failed before, and is asked for again, may well be to blame itself.
    foreseen = (isinstance(outcome, Failure) and outcome.foreseen) or record["attempt"] > 0
    trace = outcome.trace if isinstance(outcome, Failure) else ""
    return FailedRow(fragment, record["id"], str(record["error"]), where, foreseen, trace)


def died() -> Failure:
    """The outcome of a row that is given up because it killed its workers."""
    return Failure(
        "WorkerDied", "the process died whenever it had this row in hand (a crash in native code, or memory)"
    )
