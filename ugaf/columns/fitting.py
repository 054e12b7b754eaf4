"""Keep rules that need the whole run: quantiles become numbers, `distinct` the rows that it turns down.

A stage is fitted when it has measured all that it is given. Where the pipeline's `quantiles.source` says so, the
numbers are not fitted but those on record: of this run (frozen, so that a later batch is judged as the first one was)
or of another. Everything here is a function of what is stored; nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ugaf.base.errors import ConfigError
from ugaf.columns import record
from ugaf.columns.parts import Columns
from ugaf.columns.values import FragmentValues
from ugaf.columns.verdicts import PENDING, judge_all
from ugaf.pipeline import distinct
from ugaf.pipeline.config import StageSpec
from ugaf.pipeline.rules import DISTINCT, Rule
from ugaf.storage import Storage


def fit(columns: Columns, fragments: Sequence[str], skips: Mapping[str, set[str]]) -> dict[str, tuple[Rule, ...]]:
    """Fit every rule that needs the whole run on the rows given to its stage, in stage order.

    A stage is fitted only when none of its rows, nor of the stages before it, is pending; the first one that is not
    ready ends the fitting, and its rows (measured or not) count as pending. Rules whose numbers are on record need no
    fitting.

    Raises:
        ConfigError: the run whose numbers were asked for does not have them.
    """
    fits: dict[str, tuple[Rule, ...]] = {}
    for spec in columns.pipeline.stages:
        if not spec.needs_fit:
            continue
        recorded = on_record(columns, spec)
        fitted = _fit_stage(columns, fragments, skips, fits, spec, recorded)
        if fitted is None:
            break
        fits[spec.name] = fitted
    return fits


def check_recorded(columns: Columns) -> None:
    """Raises ConfigError where numbers on record are asked for and are not there: before any work starts."""
    for spec in columns.pipeline.stages:
        if spec.needs_fit:
            on_record(columns, spec)


def _fit_stage(
    columns: Columns,
    fragments: Sequence[str],
    skips: Mapping[str, set[str]],
    fits: Mapping[str, tuple[Rule, ...]],
    spec: StageSpec,
    rules: Sequence[Rule],
) -> tuple[Rule, ...] | None:
    """These rules, all fitted; None where the stage is not ready."""
    exact = columns.pipeline.settings.quantiles.exact_rows
    gathered: dict[int, _Gathered] = {
        number: _Links(rule, columns) if rule.kind == DISTINCT else Values(rule, exact)
        for number, rule in enumerate(rules)
        if rule.needs_fit
    }
    if not gathered:
        return tuple(rules)
    for verdicts in judge_all(columns, fragments, until=spec.name, skips=skips, fits=fits):
        given = verdicts[spec.name]
        if np.any(given.index < 0) or any(np.any(e.code == PENDING) or e.unread for e in verdicts.stages[:-1]):
            return None
        measured = given.table.take(pa.array(given.index[given.succeeded()]))
        for gather in gathered.values():
            gather.add(verdicts.fragment, measured)
    return tuple(gathered[number].fitted() if number in gathered else rule for number, rule in enumerate(rules))


class _Gathered(Protocol):
    def add(self, fragment: str, measured: pa.Table) -> None: ...

    def fitted(self) -> Rule: ...


class Values:
    """A column's values for a quantile: all of them up to a number, above it those of a sample of the rows.

    The sample is the rows whose id's hash lies below a limit, which is halved as often as it takes: it depends on which
    rows there are, not on their order. A quantile q of n sampled values is the quantile q +- sqrt(q (1 - q) / n) of all
    (one standard error): with 5 million, 0.02 +- 0.00006.
    """

    def __init__(self, rule: Rule, exact: int) -> None:
        self.rule = rule
        self.exact = exact
        self.values: list[np.ndarray] = []
        self.hashes: list[np.ndarray] = []
        self.count = 0
        self.limit = 2**64

    def add(self, fragment: str, measured: pa.Table) -> None:  # noqa: ARG002
        values = measured.column(self.rule.column).cast(pa.float64(), safe=False).to_numpy()
        self.take(values, _hashes(measured.column("id").to_pylist()))

    def take(self, values: np.ndarray, hashes: np.ndarray) -> None:
        """Add values (n,), float64, of rows with these hashes: the first half of each id, as a number."""
        self._keep(values, hashes)
        while self.count > self.exact:
            self.limit //= 2
            values, hashes = np.concatenate(self.values), np.concatenate(self.hashes)
            self.values, self.hashes, self.count = [], [], 0
            self._keep(values, hashes)

    def _keep(self, values: np.ndarray, hashes: np.ndarray) -> None:
        if self.limit < 2**64:
            chosen = hashes < np.uint64(self.limit)
            values, hashes = values[chosen], hashes[chosen]
        self.values.append(values)
        self.hashes.append(hashes)
        self.count += len(values)

    def fitted(self) -> Rule:
        return self.rule.fitted(np.concatenate([*self.values, np.empty(0)]), sampled=self.limit < 2**64)


class _Links:
    """The links of a `distinct` rule, and where each row lies, so that only clusters' rows are read once more."""

    def __init__(self, rule: Rule, columns: Columns) -> None:
        self.rule = rule
        self.columns = columns
        self.links: list[distinct.Links] = []
        self.ids: list[np.ndarray] = []
        self.fragments: list[str] = []

    def add(self, fragment: str, measured: pa.Table) -> None:
        self.links.append(distinct.links_of(self.rule.bound, measured.column("id"), measured.column(self.rule.column)))
        self.ids.append(distinct.packed(measured.column("id").to_pylist()))
        self.fragments.append(fragment)

    def fitted(self) -> Rule:
        given = np.sort(np.concatenate([distinct.packed([]), *self.ids]))
        members, labels = distinct.clusters(self.links, given)
        rows: dict[str, dict[str, Any]] = {}
        for fragment, ids in zip(self.fragments, self.ids, strict=True):
            here = [key.decode() for key in ids[distinct.is_in(ids, members)].tolist()]
            if here:
                rows.update(FragmentValues(self.columns, fragment).of(self.rule.bound.columns, here))
        keys = [key.decode() for key in members.tolist()]
        best = [distinct.values_of(rows, keys, name) for name in self.rule.bound.best]
        return self.rule.turning_down(distinct.losers_of(members, labels, best))


def _hashes(ids: Sequence[str]) -> np.ndarray:
    """uint64 (n,): the first half of the ids, which are hashes themselves."""
    return np.frombuffer(bytes.fromhex("".join(key[:16] for key in ids)), dtype=">u8").astype(np.uint64)


def on_record(columns: Columns, spec: StageSpec) -> tuple[Rule, ...]:
    """The stage's rules, with the numbers that are on record where the pipeline asks for recorded ones."""
    source = columns.pipeline.settings.quantiles.source
    if source == "run":
        return spec.rules
    own = source == "frozen"
    storage = columns.storage if own else Storage(source)
    recorded = record.find(storage, storage.url)
    if recorded is None and not own:
        raise ConfigError(f"quantiles.source: {source} is not a run: it has no {record.RUN_FILE}")
    recorded = recorded or {}
    known = recorded.get("fitted", {}).get(spec.name, {})
    same = recorded.get("fingerprints", {}).get(spec.name) == spec.fingerprint
    out = []
    for rule in spec.rules:
        if not rule.kind.endswith("_quantile"):
            out.append(rule)
            continue
        entry = known.get(rule.column, {})
        there = entry.get(rule.kind) == rule.bound
        if there and same:
            out.append(rule.frozen(float(entry[rule.kind.removesuffix("_quantile")])))
        elif there and own:
            raise ConfigError(
                f"quantiles.source: frozen, but {spec.name} measures something else than what its numbers were fitted "
                f"on (its settings, or those of a stage before it, have changed); set quantiles.source=run"
            )
        elif own:
            out.append(rule)
        else:
            raise ConfigError(
                f"quantiles.source: {source} has no number for "
                f"{spec.name}.keep.{rule.column}.{rule.kind} {rule.bound:g}"
                + ("" if same else "; it measures that stage with other settings")
            )
    return tuple(out)
