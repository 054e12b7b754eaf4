"""The yield of thresholds as a table: for each numeric rule, what the stage and the whole run would keep at a handful.

Exact, whatever the run's size, and computed from what is stored: rows that a looser threshold would let through to
stages that have not measured them are counted as work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ugaf.pages.charts import percent
from ugaf.tune.data import KINDS, Bounds, Data, TunedStage
from ugaf.tune.funnel import StageYield, breaks, first_broken, predict, quantile_keys, walk

SHARES = (0.01, 0.02, 0.05, 0.10, 0.25, 0.50)
"""Quantiles of the column at which a minimum is tried; a maximum at as much from the other end."""
UNITS = {"image": "photographs", "edit": "edits"}


@dataclass(frozen=True)
class Line:
    """One threshold of one rule.

    Attributes:
        bound: the number; None for no limit.
        note: "now", "5 %" (the column's quantile), "no limit".
        breaking: rows that break this bound alone, of the rows given and measured.
        kept: rows that the stage keeps. end: rows that every stage keeps. more: `end` less that of now.
        work: rows, over all stages, that have not been measured where they are given.
    """

    bound: float | None
    note: str
    breaking: int
    kept: int
    end: int
    more: int
    work: int


@dataclass(frozen=True)
class RuleYield:
    """One rule, or a column without one.

    given: rows that the stage is given now; of these, `unmeasured` have no columns (not done yet, or failed) and `null`
    no value. quantile: the share that a rule's number was fitted from.
    """

    stage: str
    level: str
    column: str
    kind: str
    quantile: float | None
    given: int
    unmeasured: int
    null: int
    lines: tuple[Line, ...]


def yields(data: Data, bounds: Bounds, stage: str | None = None) -> list[RuleYield]:
    """The table's content.

    Args:
        bounds: the numeric rules as they are now.
        stage: only this stage, with its columns that have no rule; None for the rules of all stages.
    """
    now = predict(data, bounds)
    alone = [found for found in now if _is_free(data, bounds, found)]
    known = {found.name: _first(data.stage(found.name), bounds, found) for found in alone}
    out = []
    for found in now:
        if stage in (None, found.name):
            of_stage = _OfStage(data, bounds, now, known, found)
            out += [of_stage.rule(column, kind) for column, kind in of_stage.asked(stage is not None)]
    return out


def short(value: float, is_whole: bool) -> float:
    """A number near to this one that prints short: four digits, or a whole number."""
    return float(round(value)) if is_whole else float(f"{value:.4g}")


def as_table(found: list[RuleYield], end: str) -> Group:
    """For a terminal. end: what the last counts are of, "photographs"."""
    return Group(*[part for rule in found for part in (_heading(rule), _lines_table(rule, end), "")])


def _heading(rule: RuleYield) -> str:
    parts = [f"{rule.given:,} {UNITS[rule.level]} given"]
    if rule.unmeasured:
        parts.append(f"{rule.unmeasured:,} not measured (failed, or not done yet)")
    if rule.null:
        parts.append(f"{rule.null:,} without a value, which break no rule")
    fitted = "" if rule.quantile is None else f", quantile {rule.quantile:g}"
    return f"[bold]{escape(rule.stage)}[/] {escape(rule.column)} {rule.kind}{fitted}: [dim]{', '.join(parts)}[/]"


def _lines_table(rule: RuleYield, end: str) -> Table:
    """All of one width, so that they stand under each other."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = ("threshold", "at", "breaking it", "", "stage keeps", "", f"{end} in the end", "change", "would need work")
    for head, width in zip(heads, (12, 8, 11, 8, 11, 8, 22, 8, 15), strict=True):
        table.add_column(head, justify="left" if head == "at" else "right", no_wrap=True, min_width=width)
    for line in rule.lines:
        bound = "–" if line.bound is None else text_of(line.bound)
        breaking = (f"{line.breaking:,}", percent(line.breaking, rule.given))
        kept = (f"{line.kept:,}", percent(line.kept, rule.given))
        more, work = f"{line.more:+,}" if line.more else "", f"{line.work:,}" if line.work else ""
        style = "bold" if line.note == "now" else None
        table.add_row(bound, line.note, *breaking, *kept, f"{line.end:,}", more, work, style=style)
    return table


def text_of(value: float) -> str:
    """A number as it is to be written into a pipeline, which reads back as the same float64."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    # Without a point YAML takes 1e-07 for a word.
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _is_free(data: Data, bounds: Bounds, found: StageYield) -> bool:
    """Whether a stage's verdict on a row depends on that row alone."""
    stage = data.stage(found.name)
    return not (stage.links or quantile_keys(stage, bounds.get(found.name, {})))


def _first(stage: TunedStage, bounds: Bounds, found: StageYield) -> np.ndarray:
    return first_broken(stage, bounds.get(found.name, {}), found.fitted, {})


@dataclass(frozen=True)
class _OfStage:
    data: Data
    bounds: Bounds
    now: list[StageYield]
    known: Mapping[str, np.ndarray]
    found: StageYield

    @property
    def stage(self) -> TunedStage:
        return self.data.stage(self.found.name)

    def asked(self, all_columns: bool) -> Iterator[tuple[str, str]]:
        """(column, "min" or "max") to tabulate: sides with a rule, and both sides of columns without one."""
        for column in self.stage.columns:
            sides = [side for side in ("min", "max") if self._kind(column, side) is not None]
            yield from ((column, side) for side in sides or (("min", "max") if all_columns else ()))

    def rule(self, column: str, side: str) -> RuleYield:
        stage, kind = self.stage, self._kind(column, side)
        here = np.zeros(len(stage.state), dtype=bool)
        here[self.found.rows] = True
        here = here[stage.measured]
        quantile = self.bounds[stage.name][column][kind] if kind is not None and kind in KINDS[2:] else None
        return RuleYield(
            stage=stage.name,
            level=self.data.levels[stage.level].name,
            column=column,
            kind=side,
            quantile=quantile,
            given=self.found.given,
            unmeasured=self.found.given - int(here.sum()),
            null=int(np.sum(stage.columns[column].null & here)),
            lines=tuple(self._lines(column, side, kind, here)),
        )

    def _kind(self, column: str, side: str) -> str | None:
        """The kind of the rule on this side, if there is one; of two, the number."""
        has = self.bounds.get(self.stage.name, {}).get(column, {})
        return next((kind for kind in (side, f"{side}_quantile") if kind in has), None)

    def _lines(self, column: str, side: str, kind: str | None, here: np.ndarray) -> Iterator[Line]:
        of = self.stage.columns[column]
        tried: dict[float, str] = {}
        finite = of.values[here & of.finite]
        for share in SHARES if len(finite) else ():
            at = share if side == "min" else 1 - share
            tried.setdefault(short(float(np.quantile(finite, at)), of.is_whole), f"{100 * at:g} %")
        present = None
        if kind is not None:
            present = self.found.fitted.get((column, kind), self.bounds[self.stage.name][column].get(kind))
            assert present is not None
            tried[present] = "now"
        yield self._line(column, side, None, "no limit" if kind is not None else "now", here)
        # From the loosest to the strictest.
        for bound in sorted(tried, reverse=side == "max"):
            note = tried[bound]
            yield self._line(column, side, bound, note, here, kind if note == "now" else None)

    def _line(
        self, column: str, side: str, bound: float | None, note: str, here: np.ndarray, as_is: str | None = None
    ) -> Line:
        """as_is: the kind of the present rule, where the line is about it: a quantile stays one."""
        stage = self.stage
        rules = {name: dict(kinds) for name, kinds in self.bounds.get(stage.name, {}).items()}
        if as_is is None:
            kinds = rules.setdefault(column, {})
            kinds.pop(side, None)
            kinds.pop(f"{side}_quantile", None)
            if bound is not None and math.isfinite(bound):
                kinds[side] = bound
        others = {name: first for name, first in self.known.items() if name != stage.name}
        then = list(walk(self.data, {**self.bounds, stage.name: rules}, self.found, others))
        breaking = 0 if bound is None else int(np.sum(breaks(stage, column, side, bound) & here))
        before = self.now[: len(self.now) - len(then)]
        work = sum(found.pending for found in [*before, *then])
        return Line(bound, note, breaking, then[0].kept, then[-1].kept, then[-1].kept - self.now[-1].kept, work)
