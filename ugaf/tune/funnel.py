"""What a run would keep with other thresholds, from what it has measured: the reference for the page's script.

Nothing is run: a row that an earlier stage would now let through, and that a later one has not measured, would need
work there, and counts as pending. Verdicts are those of `ugaf.columns.verdicts`; only quantile rules are fitted
although rows are pending, on those that are measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ugaf.columns.verdicts import FAILED, KEPT, PENDING, REJECTED
from ugaf.pipeline.rules import Rule
from ugaf.tune.data import CHILDLESS, KINDS, MEASURED, Bounds, Data, Key, TunedStage

NO_RULE = -1
NO_EDIT: Key = ("", "")
"""Stands among the reasons for a photograph that gave no edit."""


@dataclass(frozen=True)
class StageYield:
    """One stage of a predicted funnel: given = kept + sum(rejected) + failed + pending.

    fitted: the numbers of its quantile rules. rows: int64 (given,), the rows that it was given.
    """

    name: str
    level: int
    given: int
    kept: int
    failed: int
    pending: int
    rejected: Mapping[Key, int]
    fitted: Mapping[Key, float]
    rows: np.ndarray = field(repr=False)


def predict(data: Data, bounds: Bounds) -> list[StageYield]:
    """Every stage, ingest left out, with these numeric rules and all others as they are."""
    return list(walk(data, bounds))


def walk(
    data: Data, bounds: Bounds, begin: StageYield | None = None, known: Mapping[str, np.ndarray] | None = None
) -> Iterator[StageYield]:
    """`predict` from the stage `begin` on, which is given the rows that it was given there.

    known: the first broken rules of stages (see `first_broken`) where the caller has them.
    """
    stages = data.stages
    rows = np.arange(len(data.levels[0]))
    if begin is not None:
        stages = stages[[stage.name for stage in stages].index(begin.name) :]
        rows = begin.rows
    for stage in stages:
        found, kept = _stage_yield(stage, bounds.get(stage.name, {}), rows, (known or {}).get(stage.name))
        yield found
        rows = kept
        if stage.fans_out:
            passed = np.zeros(len(data.levels[0]), dtype=bool)
            passed[kept] = True
            parent = data.levels[1].parent
            assert parent is not None
            rows = np.flatnonzero(passed[parent])


_CODES = np.array([PENDING, KEPT, FAILED, REJECTED], dtype=np.int8)
"""The verdict on a row of each state that breaks no rule."""


def _stage_yield(
    stage: TunedStage, chosen: Mapping[str, Mapping[str, float]], rows: np.ndarray, first: np.ndarray | None
) -> tuple[StageYield, np.ndarray]:
    """What a stage does with the rows that it is given, and those that it keeps."""
    fitted: dict[Key, float] = {}
    if first is None:
        fitted = _fits(stage, chosen, rows)
        first = first_broken(stage, chosen, fitted, losers(stage, rows))
    state = stage.state[rows]
    here = np.flatnonzero(state == MEASURED)
    broken = first[stage.places[rows[here]]]
    code = _CODES[state]
    code[here[broken != NO_RULE]] = REJECTED
    counts = np.bincount(broken + 1, minlength=len(stage.order) + 1)[1:]
    rejected = {key: int(count) for key, count in zip(stage.order, counts, strict=True) if count}
    childless = int(np.sum(state == CHILDLESS))
    if childless:
        rejected[NO_EDIT] = childless
    kept = rows[code == KEPT]
    tally = np.bincount(code, minlength=4)
    failed, pending = int(tally[FAILED]), int(tally[PENDING])
    return StageYield(stage.name, stage.level, len(rows), len(kept), failed, pending, rejected, fitted, rows), kept


def first_broken(
    stage: TunedStage,
    chosen: Mapping[str, Mapping[str, float]],
    fitted: Mapping[Key, float],
    lost: Mapping[Key, np.ndarray],
) -> np.ndarray:
    """The place in `stage.order` of the first rule that each measured row breaks: int16 (measured,), -1 for none.

    fitted: numbers of the quantile rules. lost: the rows that each `distinct` rule turns down, see `losers`.
    """
    first = np.full(int(np.sum(stage.state == MEASURED)), NO_RULE, dtype=np.int16)
    for number, (name, kind) in enumerate(stage.order):
        if (name, kind) in stage.fixed:
            broken = lost.get((name, kind), stage.fixed[name, kind])
        else:
            bound = fitted.get((name, kind), chosen.get(name, {}).get(kind))
            if bound is None:
                continue
            broken = breaks(stage, name, kind, bound)
        first[broken & (first == NO_RULE)] = number
    return first


def losers(stage: TunedStage, rows: np.ndarray) -> dict[Key, np.ndarray]:
    """The measured rows that each `distinct` rule turns down if these rows are given: bool (measured,)."""
    if not stage.links:
        return {}
    given = np.zeros(len(stage.state), dtype=bool)
    given[rows] = True
    given &= stage.state == MEASURED
    return {key: links.losers(given)[stage.measured] for key, links in stage.links.items()}


def breaks(stage: TunedStage, name: str, kind: str, bound: float) -> np.ndarray:
    """Which measured rows break one bound: bool (measured,). A null breaks none, NaN every one."""
    column = stage.columns[name]
    within = column.values >= bound if kind.startswith("min") else column.values <= bound
    return ~within & ~column.null


def quantile_keys(stage: TunedStage, chosen: Mapping[str, Mapping[str, float]]) -> list[Key]:
    """The rules that are fitted on the rows given."""
    return [(name, kind) for name in stage.columns for kind in KINDS[2:] if chosen.get(name, {}).get(kind) is not None]


def _fits(stage: TunedStage, chosen: Mapping[str, Mapping[str, float]], rows: np.ndarray) -> dict[Key, float]:
    """Numbers of the quantile rules, fitted on the measured ones of these rows."""
    keys = quantile_keys(stage, chosen)
    if not keys:
        return {}
    measured = stage.places[rows[stage.state[rows] == MEASURED]]
    out = {}
    for name, kind in keys:
        share = chosen[name][kind]
        on_record = stage.frozen.get((name, kind))
        column = stage.columns[name]
        values = column.values[measured][~column.null[measured]]
        out[name, kind] = on_record if on_record is not None else float(Rule(name, kind, share).fitted(values).bound)
    return out
