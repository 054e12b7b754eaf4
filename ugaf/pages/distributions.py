"""Distributions, binned once so that the page's size does not depend on the run's: measures and categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BINS = 40
MAX_LABELS = 60
"""A string column with more distinct values than this is free text and gets no chart."""


@dataclass(frozen=True)
class Distribution:
    """A measure over all rows that have it.

    Attributes:
        stage, level, column: where it comes from; level is "image" or "edit".
        rule: the keep rule as applied (min and max are the fitted numbers of a quantile rule), or None.
        n: rows with a finite value. missing: values that are NaN or infinite, and kept rows without one.
        quantiles: min, 5 %, median, 95 %, max of the finite values.
        edges: float64 (bins + 1,). counts: int64 (bins,), all values. kept: int64 (bins,), of rows kept in the end.
        below, above: values outside the edges (the far tails of a heavy-tailed measure).
        broken: values that break the rule.
    """

    stage: str
    level: str
    column: str
    rule: Mapping[str, Any] | None
    n: int
    missing: int
    quantiles: tuple[float, float, float, float, float]
    edges: np.ndarray
    counts: np.ndarray
    kept: np.ndarray
    below: int
    above: int
    broken: int


@dataclass(frozen=True)
class Category:
    """A column of few distinct values: rows and kept rows of each, most frequent first."""

    stage: str
    level: str
    column: str
    rule: Mapping[str, Any] | None
    values: tuple[tuple[str, int, int], ...]
    """(value, rows, of which kept)"""


def distribution(
    stage: str,
    level: str,
    column: str,
    rule: Mapping[str, Any] | None,
    values: np.ndarray,
    kept: np.ndarray,
    missing: int = 0,
    bins: int = BINS,
) -> Distribution | None:
    """Bin float64 values (n,) with the mask of kept rows, bool (n,); None if no value is finite."""
    finite = np.isfinite(values)
    missing += int(len(values) - finite.sum())
    values, kept = values[finite], kept[finite]
    if not len(values):
        return None
    edges = bin_edges(values, rule, bins)
    low, p5, median, p95, high = (float(q) for q in np.quantile(values, [0, 0.05, 0.5, 0.95, 1]))
    inside = (values >= edges[0]) & (values <= edges[-1])
    return Distribution(
        stage=stage,
        level=level,
        column=column,
        rule=rule,
        n=len(values),
        missing=missing,
        quantiles=(low, p5, median, p95, high),
        edges=edges,
        counts=np.histogram(values[inside], edges)[0],
        kept=np.histogram(values[inside & kept], edges)[0],
        below=int((values < edges[0]).sum()),
        above=int((values > edges[-1]).sum()),
        broken=int(breaks(values, rule).sum()),
    )


def thresholds(rule: Mapping[str, Any] | None) -> dict[str, float]:
    """The numeric bounds of a keep rule, as {"min": x, "max": y}; those that it has."""
    found = {name: (rule or {}).get(name) for name in ("min", "max")}
    return {name: float(value) for name, value in found.items() if value is not None}


def breaks(values: np.ndarray, rule: Mapping[str, Any] | None) -> np.ndarray:
    """Which values lie outside [min, max]: bool (n,)."""
    bounds = thresholds(rule)
    return (values < bounds.get("min", -np.inf)) | (values > bounds.get("max", np.inf))


def bin_edges(
    values: np.ndarray,
    rule: Mapping[str, Any] | None = None,
    bins: int = BINS,
    ends: tuple[float, float | None] | None = None,
) -> np.ndarray:
    """Edges (bins + 1,) of equal width around the bulk of the values and the thresholds near to them.

    ends: the measure's least and greatest value, beyond which no margin goes.

    The whole range, unless the middle 99 % fill less than a quarter of it: then only those, so that one outlier does
    not press all others into one bin. Whole numbers over a short range get one bin each.
    """
    low, high = float(values.min()), float(values.max())
    if len(values) >= 50:
        inner_low, inner_high = (float(q) for q in np.quantile(values, [0.005, 0.995]))
        if inner_high > inner_low and high - low > 4 * (inner_high - inner_low):
            low, high = inner_low, inner_high
    span = high - low
    for bound in thresholds(rule).values():
        distance = max(low - bound, bound - high, 0.0)
        if 0 < distance <= 2 * span:
            margin = 0.05 * (span + distance)
            low, high = min(low, bound - margin), max(high, bound + margin)
    if np.all(values == np.rint(values)) and high - low <= bins:
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    if high <= low:
        margin = max(abs(low) * 0.05, 1e-6)
        low, high = low - margin, high + margin
    if ends is not None:
        # What lies beyond them all the same, a value or a threshold, is shown.
        points = (float(values.min()), float(values.max()), *thresholds(rule).values())
        low = max(low, min(ends[0], *points))
        high = min(high, max(np.inf if ends[1] is None else ends[1], *points))
    return np.linspace(low, high, bins + 1)


@dataclass
class Values:
    """Collects a measure's values table by table."""

    values: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)

    def add(self, values: np.ndarray, kept: np.ndarray) -> None:
        self.values.append(values)
        self.kept.append(kept)

    def joined(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.values:
            return np.empty(0), np.empty(0, dtype=bool)
        return np.concatenate(self.values), np.concatenate(self.kept)


@dataclass
class Labels:
    """Counts a string column's values table by table, and gives up once they are clearly free text."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    free_text: bool = False

    def add(self, value: str, rows: int, kept: int) -> None:
        if self.free_text:
            return
        entry = self.counts.setdefault(value, [0, 0])
        entry[0] += rows
        entry[1] += kept
        if len(self.counts) > MAX_LABELS:
            self.free_text = True
            self.counts = {}

    def ranked(self) -> tuple[tuple[str, int, int], ...]:
        """Most frequent first; empty for free text: too many values, or nearly a different one in each row."""
        rows = sum(entry[0] for entry in self.counts.values())
        if self.free_text or (len(self.counts) > 12 and len(self.counts) > rows / 3):
            return ()
        return tuple(sorted(((v, n, k) for v, (n, k) in self.counts.items()), key=lambda e: (-e[1], e[0])))
