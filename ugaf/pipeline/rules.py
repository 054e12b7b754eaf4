"""Keep rules: which measured rows stay in.

Stages measure and never drop; a rule decides at read time, as a pure function of a measured column, so that changing
a threshold recomputes nothing. A pipeline writes them by column::

    keep:
      rgb_entropy: {min: 5.5}
      saturation: {min_quantile: 0.02, max_quantile: 0.98}
      screen: {one_of: [ok]}
      neighbours: {distinct: {where: {similarity: {min: 0.95}}, best: [width]}}

The first rule that a row breaks is its reason. A missing value (null) breaks no rule; NaN breaks every bound.
Quantile rules become `min` and `max` by `ugaf.columns.fitting`, on the values of the run itself (linear interpolation,
as numpy's); `distinct` (see `ugaf.pipeline.distinct`) gets the rows that it turns down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pat
from pydantic import ValidationError

from ugaf.base.errors import ConfigError, explain_validation, nearest
from ugaf.pipeline.distinct import Distinct, Losers, check_links

DISTINCT = "distinct"
_NUMERIC = ("min", "max", "min_quantile", "max_quantile")
_ANY = ("equals", "one_of", "none_of")
_KINDS = (*_NUMERIC, *_ANY, DISTINCT)


@dataclass(frozen=True)
class Rule:
    """One bound on one column.

    bound: the number, list of values or `Distinct`. quantile: what the number was fitted from. sampled: how many of the
    run's values it was fitted on, where not on all. losers: of a fitted `distinct`, the rows that it turns down.
    """

    column: str
    kind: str
    bound: Any
    quantile: float | None = None
    sampled: int | None = None
    losers: Losers | None = field(default=None, compare=False)

    @property
    def needs_fit(self) -> bool:
        return self.kind.endswith("_quantile") or (self.kind == DISTINCT and self.losers is None)

    @property
    def key(self) -> str:
        """The rule as the reason that rows are counted by: `rgb_entropy < 5.5`."""
        return f"{self.column}: near-duplicate" if self.kind == DISTINCT else f"{self.column} {self.failing}"

    @property
    def failing(self) -> str:
        """What a value that breaks the rule is: `< 5.5`."""
        quantile = "" if self.quantile is None else f" (quantile {self.quantile:g})"
        if self.kind in ("min", "min_quantile"):
            return f"< {_shown(self.bound)}{quantile}"
        if self.kind in ("max", "max_quantile"):
            return f"> {_shown(self.bound)}{quantile}"
        if self.kind == "equals":
            return f"is not {self.bound}"
        return f"is {'not ' if self.kind == 'one_of' else ''}one of {', '.join(map(str, self.bound))}"

    def wanted(self, value: Any) -> str:
        """What the rule wants of a row with this value, true or not: `rgb_entropy 3.1 >= 5.5`."""
        if self.kind == DISTINCT:
            return f"{self.column}: the best of its cluster"
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        quantile = "" if self.quantile is None else f" (quantile {self.quantile:g})"
        if self.kind in _NUMERIC:
            bound = f"quantile {self.bound:g}" if self.kind.endswith("_quantile") else _shown(self.bound)
            return f"{self.column} {shown} {'>=' if self.kind.startswith('min') else '<='} {bound}{quantile}"
        listed = [self.bound] if self.kind == "equals" else self.bound
        words = {"equals": "is", "one_of": "is one of", "none_of": "is none of"}[self.kind]
        return f"{self.column} {shown} {words} {', '.join(map(str, listed))}"

    def broken(self, table: pa.Table) -> np.ndarray:
        """bool (n,): True where the row breaks the rule. `table` has the rule's column and, for `distinct`, `id`."""
        if self.needs_fit:
            raise ValueError(f"the rule {self.kind} on {self.column} has not been fitted")
        if self.losers is not None:
            return self.losers.mask(table.column("id").to_pylist())
        values = table.column(self.column)
        if self.kind in ("min", "max"):
            numbers, missing = _numbers(values)
            within = numbers >= self.bound if self.kind == "min" else numbers <= self.bound
            return ~within & ~missing
        listed = self.bound if self.kind != "equals" else [self.bound]
        present = np.array([value is not None for value in values.to_pylist()], dtype=bool)
        inside = np.array([value in listed for value in values.to_pylist()], dtype=bool)
        return present & (inside if self.kind == "none_of" else ~inside)

    def fitted(self, values: np.ndarray, sampled: bool = False) -> Rule:
        """The same rule with its bound taken from the values (nulls and NaN left out); `sampled`: not of all rows."""
        finite = values[np.isfinite(values)]
        kind = self.kind.removesuffix("_quantile")
        if not len(finite):
            return self.frozen(-np.inf if kind == "min" else np.inf)
        return replace(self.frozen(float(np.quantile(finite, self.bound))), sampled=len(finite) if sampled else None)

    def frozen(self, bound: float) -> Rule:
        """A quantile rule with a number that was fitted before."""
        return replace(self, kind=self.kind.removesuffix("_quantile"), bound=bound, quantile=self.bound)

    def turning_down(self, losers: Losers) -> Rule:
        """A `distinct` rule with the rows that it turns down."""
        return replace(self, losers=losers)


def parse(keep: Mapping[str, Any], schema: pa.Schema, where: str) -> tuple[Rule, ...]:
    """The rules of one stage, checked against its columns. Raises ConfigError naming the setting."""
    rules: list[Rule] = []
    for column, bounds in keep.items():
        setting = f"{where}.keep.{column}"
        if column not in schema.names:
            raise ConfigError(f"{setting}: the stage writes no such column{nearest(column, schema.names)}")
        if bounds is None:
            continue
        if not isinstance(bounds, Mapping):
            raise ConfigError(f"{setting}: write bounds such as {{min: 5.5}} (got {bounds!r})")
        type = schema.field(column).type
        for kind in sorted(bounds, key=lambda k: _KINDS.index(k) if k in _KINDS else len(_KINDS)):
            if bounds[kind] is not None:
                rules.append(_rule(column, kind, bounds[kind], type, f"{setting}.{kind}"))
        _check_sides(bounds, setting)
    return tuple(rules)


def _check_sides(bounds: Mapping[str, Any], where: str) -> None:
    """A lower bound above the upper one would turn every row down."""
    for low, high in (("min", "max"), ("min_quantile", "max_quantile")):
        below, above = bounds.get(low), bounds.get(high)
        if below is not None and above is not None and below > above:
            raise ConfigError(f"{where}: {low} {below:g} is above {high} {above:g}: no row could be kept")


def beyond(rules: Sequence[Rule], ranges: Mapping[str, tuple[float, float | None]], where: str) -> list[str]:
    """A line for each bound that lies outside of its measure's range, so that it keeps nothing or everything."""
    lines = []
    for rule in rules:
        low, high = ranges.get(rule.column, (-np.inf, None))
        high = np.inf if high is None else high
        if rule.kind in ("min", "max") and not low <= rule.bound <= high:
            none = rule.bound > high if rule.kind == "min" else rule.bound < low
            span = f"{low:g}..{high:g}" if high < np.inf else f"{low:g} or more"
            effect = "no row that has a value can be kept" if none else "every row passes it"
            lines.append(f"{where}.keep.{rule.column}.{rule.kind}={rule.bound:g}: the measure is {span}, so {effect}")
    return lines


def judge(rules: Sequence[Rule], table: pa.Table) -> np.ndarray:
    """The first rule that each row breaks: int16 (n,), -1 for none."""
    first = np.full(table.num_rows, -1, dtype=np.int16)
    for number, rule in enumerate(rules):
        first[rule.broken(table) & (first < 0)] = number
    return first


def describe(rules: Sequence[Rule]) -> dict[str, dict[str, Any]]:
    """Rules by column, as a pipeline writes them, fitted quantiles beside their numbers."""
    out: dict[str, dict[str, Any]] = {}
    for rule in rules:
        entry = out.setdefault(rule.column, {})
        entry[rule.kind] = rule.bound.model_dump(exclude_none=True) if rule.kind == DISTINCT else rule.bound
        if rule.quantile is not None:
            entry[f"{rule.kind}_quantile"] = rule.quantile
        if rule.sampled is not None:
            entry["sampled_rows"] = rule.sampled
    return out


def _rule(column: str, kind: str, bound: Any, type: pa.DataType, where: str) -> Rule:
    if kind not in _KINDS:
        raise ConfigError(f"{where}: unknown kind of rule{nearest(kind, _KINDS)}")
    if kind == DISTINCT:
        return Rule(column, kind, _distinct(bound, type, where))
    if kind in _NUMERIC:
        if not (pat.is_integer(type) or pat.is_floating(type)):
            raise ConfigError(f"{where}: the column is {type}, so use {', '.join(_ANY)}")
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise ConfigError(f"{where}: expected a number (got {bound!r})")
        if math.isnan(bound):
            raise ConfigError(
                f"{where}: nan is no bound: no value is above or below it; write a number, or null for none"
            )
        if bound == {"min": math.inf, "max": -math.inf}.get(kind):
            raise ConfigError(f"{where}: no row could be kept (got {bound!r}); write a number, or null for no bound")
        if kind.endswith("_quantile") and not 0 <= bound <= 1:
            raise ConfigError(f"{where}: a quantile lies in 0..1 (got {bound!r})")
    if kind in ("one_of", "none_of") and not isinstance(bound, list):
        raise ConfigError(f"{where}: expected a list (got {bound!r})")
    if any(isinstance(value, float) and math.isnan(value) for value in (bound if isinstance(bound, list) else [bound])):
        raise ConfigError(f"{where}: nan equals nothing, itself neither (got {bound!r})")
    return Rule(column, kind, bound)


def _distinct(bound: Any, type: pa.DataType, where: str) -> Distinct:
    try:
        distinct = Distinct.model_validate(bound)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, where, Distinct)) from error
    check_links(distinct, type, where)
    return distinct


def _numbers(values: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    missing = np.asarray(array.is_null())
    return array.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False), missing


def _shown(bound: Any) -> str:
    return f"{bound:.6g}" if isinstance(bound, float) else str(bound)
