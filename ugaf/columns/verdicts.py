"""Verdicts: for every row of a fragment, whether each stage kept, rejected or failed it, or has yet to see it.

One function, `judge`, reads the measured columns and the keep rules and answers for all who ask: the worker (what is to
do), the funnel, `explain`, the report and the export. At every stage given = kept + rejected + failed + pending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ugaf.columns.code_digest import FACT
from ugaf.columns.fragments import fragment_order
from ugaf.columns.origins import Origin, Runs
from ugaf.columns.parts import CHILDREN, REFS, SOURCES, Columns, GoneError, children_table
from ugaf.columns.reasons import NO_CHILDREN, Reason, failure_kind
from ugaf.columns.tombstones import WITHDRAWN
from ugaf.ingest import SourceRef
from ugaf.pipeline.config import INGEST, StageSpec
from ugaf.pipeline.rules import Rule
from ugaf.pipeline.rules import judge as broken_rules
from ugaf.storage import ahead

KEPT, REJECTED, FAILED, PENDING = 0, 1, 2, 3
NAMES = ("kept", "rejected", "failed", "pending")

Fits = Mapping[str, tuple[Rule, ...]]
"""Rules of the stages whose rules need the whole run and have been fitted, by stage (see `ugaf.columns.fitting`)."""


@dataclass
class Given:
    """The rows that a stage was given in one fragment, sorted by id, and its verdict on each.

    code: int8 (n,) of KEPT, REJECTED, FAILED, PENDING. rule: int16 (n,), the rule broken, -1 if none.
    index: int64 (n,), the row's place in `table` (the stage's `id`, `error` and rule columns), -1 if not there.
    unread: for ingest, positions of sources that have not been read yet (a row has no id before).
    origins: for ingest, the inputs that the fragment's sources came from.
    made_by: part files by the digest of the code that made them, where it is on record.
    """

    stage: str
    level: str
    rules: tuple[Rule, ...]
    ids: list[str]
    code: np.ndarray
    rule: np.ndarray
    index: np.ndarray
    table: pa.Table
    seconds: float = 0.0
    unread: list[int] = field(default_factory=list)
    origins: Runs = field(default_factory=list)
    made_by: Counter[str] = field(default_factory=Counter)

    def by_origin(self) -> Counter[Origin]:
        """Of ingest: how many rows there are by input. One of several sources counts for that of its first; withdrawn
        ones count for none."""
        standing = self.table.column(REFS).take(self.index[self.code != REJECTED]).to_pylist()
        first = [min(places) for places in standing if places]
        ends = np.cumsum([count for _, count in self.origins])
        return Counter(self.origins[number][0] for number in np.searchsorted(ends, first, side="right"))

    def where(self, code: int) -> list[str]:
        """Ids with this verdict."""
        return [self.ids[i] for i in np.flatnonzero(self.code == code)]

    def succeeded(self) -> np.ndarray:
        """Which rows have been measured, bool (n,)."""
        failed = np.array(
            [error is not None for error in self.table.column("error").to_pylist()] or [False], dtype=bool
        )
        return (self.index >= 0) & ~failed[self.index]

    def cause(self, position: int) -> str:
        """What the row at this position, which is out, is counted by: see `Reason.cause`."""
        if self.code[position] == FAILED:
            return failure_kind(self._value("error", position))
        if self.stage == INGEST:
            return WITHDRAWN
        number = self.rule[position]
        return self.rules[number].key if number >= 0 else NO_CHILDREN

    def reason(self, position: int) -> Reason | None:
        """Why the row at this position is out; None for a kept or pending one."""
        code, number = self.code[position], self.rule[position]
        if code == FAILED:
            return Reason.failed(self._value("error", position))
        if code != REJECTED:
            return None
        if self.stage == INGEST:
            return Reason.withdrawn(self._value("error", position) or "")
        if number < 0:
            return Reason(NO_CHILDREN)
        rule = self.rules[number]
        return Reason.broken(rule, self._value(rule.column, position), self.ids[position])

    def _value(self, column: str, position: int) -> Any:
        return self.table.column(column)[int(self.index[position])].as_py()


@dataclass
class FragmentVerdicts:
    """All stages of one fragment, ingest first. `parents`: for an edit's id, its photograph's."""

    fragment: str
    stages: list[Given]
    parents: dict[str, str]

    def __getitem__(self, stage: str) -> Given:
        return next(given for given in self.stages if given.stage == stage)


def judge(
    columns: Columns,
    fragment: str,
    *,
    until: str | None = None,
    skip: Collection[str] = (),
    fits: Fits | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> FragmentVerdicts:
    """Verdicts of one fragment from what is stored now.

    Args:
        until: stop after this stage.
        skip: ids for which another fragment speaks (see `duplicates`): not rows of this one.
        fits: fitted rules; a stage with rules that are not fitted leaves its rows pending.
        parts: part files by stage where the caller has listed them; else they are listed here.
    """
    pipeline = columns.pipeline
    ingest = _judge_ingest(columns, fragment, skip, parts)
    result = FragmentVerdicts(fragment, [ingest], {})
    ids = ingest.where(KEPT)
    for spec in pipeline.stages:
        if until is not None and result.stages[-1].stage == until:
            break
        rules = (fits or {}).get(spec.name, spec.rules)
        needed = [CHILDREN] if spec.cls.fans_out else [rule.column for rule in rules]
        listed = None if parts is None else parts.get(spec.name, ())
        table, facts = columns.light(spec.name, fragment, needed, listed)
        given = _judge_stage(spec, rules, ids, table)
        given.seconds = sum(float(fact.get(b"ugaf.seconds", 0)) for fact in facts)
        given.made_by.update(fact[FACT].decode() for fact in facts if FACT in fact)
        result.stages.append(given)
        ids = given.where(KEPT)
        if spec.cls.fans_out:
            children, kept = children_table(table, spec), set(ids)
            pairs = zip(children.column("id").to_pylist(), children.column("parent").to_pylist(), strict=True)
            result.parents = {child: parent for child, parent in pairs if parent in kept}
            ids = sorted(result.parents)
    return result


def judge_all(
    columns: Columns,
    fragments: Sequence[str],
    *,
    until: str | None = None,
    skips: Mapping[str, Collection[str]],
    fits: Fits | None = None,
) -> Iterator[FragmentVerdicts]:
    """`judge` of every fragment, in order, with one listing a stage for all of them."""
    names = [INGEST, *(spec.name for spec in columns.pipeline.stages)]
    names = names if until is None else names[: names.index(until) + 1]
    listed = {name: columns.parts_of_all(name) for name in names}

    def one(fragment: str) -> FragmentVerdicts:
        parts = {stage: by_fragment.get(fragment, []) for stage, by_fragment in listed.items()}
        skip = skips.get(fragment, ())
        try:
            return judge(columns, fragment, until=until, skip=skip, fits=fits, parts=parts)
        except GoneError:
            # A driver at work has joined parts since they were listed.
            return judge(columns, fragment, until=until, skip=skip, fits=fits)

    return ahead(one, fragments, columns.storage.readers)


def load_sources(columns: Columns, fragment: str) -> list[SourceRef]:
    """The sources that were cut into a fragment."""
    return SourceRef.from_table(columns.sources(fragment))


def duplicates(columns: Columns, fragments: Sequence[str]) -> dict[str, set[str]]:
    """Rows of each fragment that are not rows of their own, because another fragment speaks for them.

    Exact duplicates: the first fragment that holds the id keeps it. Failed sources that stand in a later fragment in
    a new version (a file that was replaced): the newest version speaks.
    """
    ids: dict[str, pa.ChunkedArray] = {}
    failed: list[tuple[str, str, set[str]]] = []
    listed = columns.parts_of_all(INGEST)

    def read(fragment: str) -> pa.Table:
        return columns.light(INGEST, fragment, [SOURCES], listed.get(fragment, ()))[0]

    for fragment, table in zip(fragments, ahead(read, fragments, columns.storage.readers), strict=True):
        ids[fragment] = table.column("id")
        errors = table.filter(pc.is_valid(table.column("error")))
        failed += [(fragment, row["id"], set(row[SOURCES] or ())) for row in errors.to_pylist()]
    out = _superseded(columns, fragments, failed)
    # Counted as Arrow's strings: a set of millions of Python's would take gigabytes.
    counts = pc.value_counts(pa.chunked_array([c for column in ids.values() for c in column.chunks], pa.string()))
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    seen: set[str] = set()
    for fragment, column in ids.items() if len(repeated) else ():
        here = set(column.filter(pc.is_in(column, value_set=repeated)).to_pylist()) - out.get(fragment, set())
        if here & seen:
            out.setdefault(fragment, set()).update(here & seen)
        seen |= here
    return out


def superseded(columns: Columns, fragments: Sequence[str], failed: Sequence[tuple[str, str]]) -> dict[str, set[str]]:
    """Of these failed rows (fragment, id), those that stand in one of these fragments in a new version, by fragment."""
    rows, by_fragment = [], dict[str, list[str]]()
    for fragment, key in failed:
        by_fragment.setdefault(fragment, []).append(key)
    for fragment, ids in by_fragment.items():
        table, _ = columns.light(INGEST, fragment, [SOURCES])
        names = dict(zip(table.column("id").to_pylist(), table.column(SOURCES).to_pylist(), strict=True))
        rows += [(fragment, key, set(names.get(key) or ())) for key in ids]
    return _superseded(columns, fragments, rows)


def _superseded(
    columns: Columns, fragments: Sequence[str], failed: Sequence[tuple[str, str, set[str]]]
) -> dict[str, set[str]]:
    """Of the failed rows (fragment, id, sources), those whose sources all stand in a later fragment, by fragment."""
    out: dict[str, set[str]] = {}
    if failed:
        keys = set().union(*(sources for _, _, sources in failed))
        newest = {ref.key: fragment_order(f) for f in fragments for ref in load_sources(columns, f) if ref.key in keys}
        for fragment, key, sources in failed:
            here = fragment_order(fragment)
            if sources and all(newest.get(source, here) > here for source in sources):
                out.setdefault(fragment, set()).add(key)
    return out


def _judge_ingest(
    columns: Columns, fragment: str, skip: Collection[str], parts: Mapping[str, Sequence[str]] | None
) -> Given:
    listed = None if parts is None else parts.get(INGEST, ())
    table, facts = columns.light(INGEST, fragment, [REFS], listed)
    ids = table.column("id").to_pylist()
    failed = [error is not None for error in table.column("error").to_pylist()]
    refs = [positions or [] for positions in table.column(REFS).to_pylist()]
    good = {place for places, bad in zip(refs, failed, strict=True) if not bad for place in places}
    # A failed source that was read again with success is a row no more: the new row took its place.
    here = [i for i, key in enumerate(ids) if key not in skip and not (failed[i] and good.issuperset(refs[i]))]
    index = np.array(here, dtype=np.int64)
    out = [columns.tombstones.of_id(ids[i]) is not None for i in here]
    code = np.array([REJECTED if gone else FAILED if failed[i] else KEPT for i, gone in zip(here, out, strict=True)])
    code = code.astype(np.int8)
    read = {place for places in refs for place in places}
    origins = columns.origins(fragment)
    unread = [place for place in range(sum(count for _, count in origins)) if place not in read]
    seconds = sum(float(fact.get(b"ugaf.seconds", 0)) for fact in facts)
    level = columns.pipeline.base_level
    rule = np.full(len(index), -1, dtype=np.int16)
    given = Given(INGEST, level, (), [ids[i] for i in here], code, rule, index, table, seconds, unread)
    given.origins = origins
    return given


def _judge_stage(spec: StageSpec, rules: tuple[Rule, ...], ids: list[str], table: pa.Table) -> Given:
    place = {key: number for number, key in enumerate(table.column("id").to_pylist())}
    index = np.array([place.get(key, -1) for key in ids], dtype=np.int64)
    code = np.full(len(ids), PENDING, dtype=np.int8)
    rule = np.full(len(ids), -1, dtype=np.int16)
    present = index >= 0
    if table.num_rows and present.any():
        failed = np.array([error is not None for error in table.column("error").to_pylist()], dtype=bool)
        fitted = not any(r.needs_fit for r in rules)
        if fitted:
            rule[present] = broken_rules(rules, table)[index[present]]
            code[present] = np.where(rule[present] >= 0, REJECTED, KEPT)
        if spec.cls.fans_out:
            empty = np.array([not children for children in table.column(CHILDREN).to_pylist()], dtype=bool)
            code[present] = np.where(empty[index[present]], REJECTED, code[present])
        code[present] = np.where(failed[index[present]], FAILED, code[present])
        rule[code == FAILED] = -1
    return Given(spec.name, spec.level, rules, ids, code, rule, index, table)
