"""The verdicts of a whole run as numbers, from packs: what `verdicts.judge` says of each row, for all rows at once.

`judge` is what counts: tests hold the two to the same answers, whatever was done to a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ugaf.columns import keys
from ugaf.columns.counts import EXAMPLES
from ugaf.columns.fitting import Values, on_record
from ugaf.columns.keys import Keys
from ugaf.columns.packing import KIDS, ROWS
from ugaf.columns.packs import FRAGMENTS, Shelf
from ugaf.columns.parts import Columns
from ugaf.columns.reasons import failure_kind
from ugaf.columns.tombstones import WITHDRAWN
from ugaf.columns.values import FragmentValues
from ugaf.columns.verdicts import FAILED, KEPT, NO_CHILDREN, PENDING, REJECTED
from ugaf.pipeline import distinct
from ugaf.pipeline.config import INGEST, StageSpec
from ugaf.pipeline.rules import DISTINCT, Rule


@dataclass
class Tally:
    """A stage in every fragment.

    codes: int64 (fragments, 4), rows by verdict. missing: (fragments,) rows that it has not measured. rows: that it has
    measured. rejected: by rule. errors: by kind. first: the first failure of each kind, as (kind, fragment, id).
    """

    stage: str
    codes: np.ndarray
    missing: np.ndarray
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class _Group:
    """Some neighbouring fragments: the rows of the level that is looked at, and which of them are kept so far."""

    start: int
    fragments: Sequence[str]
    keys: Keys
    numbers: np.ndarray
    alive: np.ndarray


@dataclass
class _Met:
    """Some rows of a group that a stage was given, with the stage's own. place: (given,) in `table`, -1: not there."""

    group: _Group
    given: np.ndarray
    table: pa.Table
    keys: Keys
    place: np.ndarray
    failed: np.ndarray


class Judge:
    """Goes through the stages in order; after it, `fits`, `tallies` and `by_origin` are what the run is."""

    def __init__(
        self,
        columns: Columns,
        shelves: Mapping[str, Shelf],
        fragments: Sequence[str],
        skips: Mapping[str, set[str]],
        unread: Sequence[int],
    ) -> None:
        self.columns = columns
        self.shelves = shelves
        self.fragments = fragments
        self.unread = np.array(unread, dtype=np.int64)
        self.fits: dict[str, tuple[Rule, ...]] = {}
        self.tallies = [self._empty(INGEST)]
        self.by_origin: list[dict[int, int]] = []
        self._fits_on = True
        self._groups = [
            self._ingest(start, fragments[start : start + FRAGMENTS], skips)
            for start in range(0, len(fragments), FRAGMENTS)
        ]
        for spec in columns.pipeline.stages:
            self._stage(spec)

    def _ingest(self, start: int, fragments: Sequence[str], skips: Mapping[str, set[str]]) -> _Group:
        shelf = self.shelves[INGEST]
        table = shelf.rows(ROWS, fragments)
        ids, numbers = keys.of_column(table.column("id")), _numbers(shelf, ROWS, fragments)
        here = ~_flags(table.column("gone")) & ~_skipped(ids, numbers, fragments, skips)
        at = np.flatnonzero(here)
        ids, numbers = ids[at], numbers[at]
        failed = _flags(table.column("error").is_valid())[at]
        code = np.where(failed, FAILED, KEPT).astype(np.int8)
        code[self._withdrawn(ids, table.column("stone").to_numpy()[at])] = REJECTED
        origin = table.column("origin").to_numpy()[at]
        standing = (code != REJECTED) & (origin >= 0)
        inputs = int(origin.max(initial=0)) + 1
        found = np.bincount(numbers[standing] * np.int64(inputs) + origin[standing], minlength=inputs * len(fragments))
        of_fragments = found.reshape(-1, inputs).tolist()
        self.by_origin += [{of: count for of, count in enumerate(counts) if count} for counts in of_fragments]
        tally = self.tallies[0]
        tally.rows += len(at)
        self._count(tally, start, fragments, numbers, code)
        tally.rejected.update({WITHDRAWN: n} if (n := int(np.sum(code == REJECTED))) else {})
        self._failures(tally, fragments, table.column("error").take(pa.array(at)), code, ids, numbers)
        return _Group(start, fragments, ids, numbers, code == KEPT)

    def _withdrawn(self, ids: Keys, stones: np.ndarray) -> np.ndarray:
        known = self.columns.tombstones
        if not known.by_id:
            return np.empty(0, np.int64)
        begin = np.array([int(key[:8], 16) for key in known.by_id], dtype=np.uint64)
        some = np.flatnonzero(np.isin(stones, begin) | np.isin(ids.high >> np.uint64(32), begin))
        gone = [known.of_id(key) is not None for key in ids[some].texts()]
        return some[np.array(gone, dtype=bool)]

    def _stage(self, spec: StageSpec) -> None:
        rules = spec.rules
        if spec.needs_fit and self._fits_on:
            fitted = self._fit(spec, on_record(self.columns, spec))
            if fitted is None:
                self._fits_on = False
            else:
                rules = self.fits[spec.name] = fitted
        tally = self._empty(spec.name)
        for group in self._groups:
            self._judge(spec, rules, tally, self._meet(spec, group))
        self.tallies.append(tally)

    def _meet(self, spec: StageSpec, group: _Group) -> _Met:
        shelf = self.shelves[spec.name]
        table = shelf.rows(ROWS, group.fragments)
        ids, numbers = keys.of_column(table.column("id")), _numbers(shelf, ROWS, group.fragments)
        given = np.flatnonzero(group.alive)
        place = keys.places(ids, numbers, group.keys[given], group.numbers[given])
        return _Met(group, given, table, ids, place, _flags(table.column("error").is_valid()))

    def _judge(self, spec: StageSpec, rules: Sequence[Rule], tally: Tally, met: _Met) -> None:
        group, place, given = met.group, met.place, met.given
        code = np.full(len(given), PENDING, dtype=np.int8)
        rule = np.full(len(given), -1, dtype=np.int16)
        present = place >= 0
        at = place[present]
        if not any(one.needs_fit for one in rules):
            rule[present] = _broken(rules, met.table, met.keys)[at]
            code[present] = np.where(rule[present] >= 0, REJECTED, KEPT)
        if spec.cls.fans_out:
            code[present] = np.where(_flags(met.table.column("empty"))[at], REJECTED, code[present])
        code[present] = np.where(met.failed[at], FAILED, code[present])
        numbers = group.numbers[given]
        tally.rows += met.table.num_rows
        self._count(tally, group.start, group.fragments, numbers, code)
        tally.missing[group.start : group.start + len(group.fragments)] = np.bincount(
            numbers[~present], minlength=len(group.fragments)
        )
        out = rule[code == REJECTED]
        found, first, counts = np.unique(out, return_index=True, return_counts=True)
        for number in np.argsort(first).tolist():
            key = NO_CHILDREN if found[number] < 0 else rules[found[number]].key
            tally.rejected[key] += int(counts[number])
        errors = met.table.column("error").take(pa.array(np.maximum(place, 0))) if len(met.table) else None
        self._failures(tally, group.fragments, errors, code, group.keys[given], numbers)
        if spec.cls.fans_out:
            self._descend(spec, group, met, code == KEPT)
        else:
            group.alive[given] = code == KEPT

    def _descend(self, spec: StageSpec, group: _Group, met: _Met, kept: np.ndarray) -> None:
        """From photographs to their edits."""
        shelf = self.shelves[spec.name]
        table = shelf.rows(KIDS, group.fragments)
        ids, numbers = keys.of_column(table.column("id")), _numbers(shelf, KIDS, group.fragments)
        rows = shelf.counts(ROWS, group.fragments)
        stays = np.zeros(met.table.num_rows, dtype=bool)
        stays[met.place[kept]] = True
        owner = (np.cumsum(rows) - rows)[numbers] + table.column("row").to_numpy()
        at = np.flatnonzero(stays[owner]) if len(owner) else owner
        ids, numbers = ids[at], numbers[at]
        new = np.ones(len(at), dtype=bool)
        new[1:] = ~(ids[1:].equal(ids[:-1]) & (numbers[1:] == numbers[:-1])) if len(at) else new[1:]
        group.keys, group.numbers, group.alive = ids[new], numbers[new], np.ones(int(new.sum()), dtype=bool)

    def _fit(self, spec: StageSpec, rules: Sequence[Rule]) -> tuple[Rule, ...] | None:
        """See `fitting.fit`: these rules, all fitted; None where the stage is not ready."""
        if not any(rule.needs_fit for rule in rules):
            return tuple(rules)
        if self.unread.any() or any(tally.codes[:, PENDING].any() for tally in self.tallies):
            return None
        values = {
            number: Values(rule, self.columns.pipeline.settings.quantiles.exact_rows)
            for number, rule in enumerate(rules)
            if rule.needs_fit and rule.kind != DISTINCT
        }
        links: dict[int, list[distinct.Links]] = {n: [] for n, r in enumerate(rules) if r.needs_fit and n not in values}
        measured: list[tuple[Keys, np.ndarray]] = []
        for group in self._groups:
            met = self._meet(spec, group)
            if np.any(met.place < 0):
                return None
            at = met.place[~met.failed[met.place]]
            good = met.keys[at]
            if links:
                measured.append((good, group.numbers[met.given][~met.failed[met.place]]))
            table = met.table.take(pa.array(at))
            for number, gathered in values.items():
                column = table.column(rules[number].column).cast(pa.float64(), safe=False)
                gathered.take(column.to_numpy(), good.high)
            for number, found in links.items():
                rule = rules[number]
                found.append(distinct.links_of(rule.bound, _chunked(good.text_column()), table.column(rule.column)))
        out = list(rules)
        for number, gathered in values.items():
            out[number] = gathered.fitted()
        if links:
            given = np.sort(np.concatenate([distinct.packed([]), *(ids.hexadecimal() for ids, _ in measured)]))
            for number, found in links.items():
                members, labels = distinct.clusters(found, given)
                best = [self._best(name, members, measured) for name in rules[number].bound.best]
                out[number] = rules[number].turning_down(distinct.losers_of(members, labels, best))
        return tuple(out)

    def _best(self, name: str, members: np.ndarray, measured: Sequence[tuple[Keys, np.ndarray]]) -> np.ndarray:
        """See `distinct.values_of`."""
        column, sign = name.removeprefix("-"), -1.0 if name.startswith("-") else 1.0
        out = np.full(len(members), np.nan)
        wanted = keys.of_digits(members) if len(members) else keys.of_texts([])
        shelf = self.shelves[self.columns.pipeline.providers[column]]
        for group, (ids, numbers) in zip(self._groups, measured, strict=True):
            at = keys.among(ids, wanted)
            hit = at >= 0
            if not hit.any():
                continue
            if column in shelf.columns:
                table = shelf.rows(ROWS, group.fragments)
                rows = keys.of_column(table.column("id"))
                place = keys.places(rows, _numbers(shelf, ROWS, group.fragments), ids[hit], numbers[hit])
                there = place >= 0
                numbers_of = table.column(column).cast(pa.float64(), safe=False).to_numpy()
                out[at[hit][there]] = sign * numbers_of[place[there]]
                continue
            for number in np.unique(numbers[hit]).tolist():
                mine = hit & (numbers == number)
                texts = ids[mine].texts()
                found = FragmentValues(self.columns, group.fragments[number]).of([column], texts)
                out[at[mine]] = distinct.values_of(found, texts, name)
        return out

    def _empty(self, stage: str) -> Tally:
        fragments = len(self.fragments)
        return Tally(stage, np.zeros((fragments, 4), np.int64), np.zeros(fragments, np.int64))

    def _count(self, tally: Tally, start: int, fragments: Sequence[str], numbers: np.ndarray, code: np.ndarray) -> None:
        found = np.bincount(numbers.astype(np.int64) * 4 + code, minlength=4 * len(fragments))
        tally.codes[start : start + len(fragments)] = found.reshape(-1, 4)

    def _failures(
        self,
        tally: Tally,
        fragments: Sequence[str],
        errors: pa.ChunkedArray | None,
        code: np.ndarray,
        ids: Keys,
        numbers: np.ndarray,
    ) -> None:
        """errors: (given,) texts."""
        at = np.flatnonzero(code == FAILED)
        if errors is None or not len(at):
            return
        for place, error in zip(at.tolist(), errors.take(pa.array(at)).to_pylist(), strict=True):
            kind = failure_kind(error)
            if kind not in tally.errors and len(tally.first) < EXAMPLES:
                tally.first.append((kind, fragments[numbers[place]], ids[np.array([place])].texts()[0]))
            tally.errors[kind] += 1


def _numbers(shelf: Shelf, section: str, fragments: Sequence[str]) -> np.ndarray:
    return np.repeat(np.arange(len(fragments), dtype=np.int16), shelf.counts(section, fragments))


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(bool)


def _chunked(array: pa.Array) -> pa.ChunkedArray:
    return pa.chunked_array([array])


def _skipped(ids: Keys, numbers: np.ndarray, fragments: Sequence[str], skips: Mapping[str, set[str]]) -> np.ndarray:
    """Rows for which another fragment speaks: bool (n,)."""
    out = np.zeros(len(ids), dtype=bool)
    for number in [number for number, name in enumerate(fragments) if skips.get(name)]:
        start, end = np.searchsorted(numbers, [number, number + 1])
        gone = keys.of_texts(sorted(skips[fragments[number]]))
        out[start:end] = keys.among(ids[start:end], gone) >= 0
    return out


def _broken(rules: Sequence[Rule], table: pa.Table, ids: Keys) -> np.ndarray:
    """The first rule that each row breaks: int16 (n,), -1 for none; see `rules.judge`."""
    first = np.full(table.num_rows, -1, dtype=np.int16)
    for number, rule in enumerate(rules):
        if rule.losers is not None:
            lost = keys.of_digits(rule.losers.ids) if len(rule.losers.ids) else keys.of_texts([])
            broken = keys.among(ids, lost) >= 0
        elif rule.kind in ("equals", "one_of", "none_of") and not pat.is_nested(table.schema.field(rule.column).type):
            # One look at each value that there is, not at each row.
            coded = pc.dictionary_encode(table.column(rule.column).combine_chunks(), null_encoding="encode")
            coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
            of_value = rule.broken(pa.table({rule.column: coded.dictionary}))
            broken = of_value[coded.indices.to_numpy()] if len(of_value) else np.zeros(table.num_rows, bool)
        else:
            broken = rule.broken(table)
        first[broken & (first < 0)] = number
    return first
