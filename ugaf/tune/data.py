"""What tuning needs of a run: of every row and stage whether it was measured, and the numbers that rules are about.

Read once, without verdicts: a stage's columns are taken for all rows that it has measured, given to it now or not, so
that any thresholds can be tried on them. Rows are numbers: places in their level's arrays (photographs, and the edits
that were made of them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ugaf.columns.parts import CHILDREN, children_table
from ugaf.columns.verdicts import FAILED, KEPT, judge_all
from ugaf.pipeline import rules
from ugaf.pipeline.config import INGEST, StageSpec
from ugaf.pipeline.rules import DISTINCT, Rule
from ugaf.tune.links import GatheredLinks, Links

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

MISSING, MEASURED, BROKE, CHILDLESS = 0, 1, 2, 3
"""What a stage has of a row: nothing yet, its columns, an error, the answer that no edit was possible."""

KINDS = ("min", "max", "min_quantile", "max_quantile")
"""Numeric rules on one column, in the order in which they are asked."""

Bounds = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Numeric keep rules: stage -> column -> kind -> number. A column or kind that is not there has no rule."""

Key = tuple[str, str]
"""A rule of a stage: (column, kind)."""


@dataclass(frozen=True)
class Column:
    """A numeric column of the rows that a stage has measured.

    values: float64 (measured,), 0 where there is none. null: bool (measured,). type: as it is stored.
    """

    name: str
    type: pa.DataType
    values: np.ndarray
    null: np.ndarray

    @property
    def is_whole(self) -> bool:
        """Whether its values are integers."""
        return pat.is_integer(self.type)

    @property
    def finite(self) -> np.ndarray:
        """bool (measured,): there is a number that a threshold can be laid at."""
        return np.isfinite(self.values) & ~self.null


@dataclass(frozen=True)
class TunedStage:
    """One stage: its rows' states, its numeric columns, its rules.

    Attributes:
        level: 0 for rows that were taken in, 1 for those that a stage fanned out.
        state: uint8 (rows of the level,) of MISSING, MEASURED, BROKE, CHILDLESS.
        columns: by name, in the order of `order`.
        fixed: rules that no threshold moves -> bool (measured,), which rows break them, as computed now. `distinct`
            rules too: where they have `links`, those decide instead.
        links: the links of `distinct` rules; left out of a sample, in which a row's duplicates are missing.
        order: every rule that there is or could be, as they are asked.
        frozen: quantile rules whose numbers are on record, and will not be fitted again.
    """

    name: str
    level: int
    fans_out: bool
    state: np.ndarray
    columns: Mapping[str, Column]
    fixed: Mapping[Key, np.ndarray]
    links: Mapping[Key, Links]
    order: tuple[Key, ...]
    frozen: Mapping[Key, float]

    @cached_property
    def measured(self) -> np.ndarray:
        """int64: rows of the level that have columns, in order."""
        return np.flatnonzero(self.state == MEASURED)

    @cached_property
    def places(self) -> np.ndarray:
        """int64 (rows of the level,): where each row stands among the measured ones, if it is one of them."""
        return np.cumsum(self.state == MEASURED) - 1


@dataclass(frozen=True)
class Level:
    """Rows of one kind. parent: int64 (rows,), the place of each edit's photograph; None for what was taken in.

    starts: int64 (fragments + 1,), where each fragment's rows begin.
    """

    name: str
    ids: pa.ChunkedArray
    parent: np.ndarray | None
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Data:
    """A run as it can be tuned. unread: sources that ingest has yet to read; failed: those that it could not.

    present: the numeric rules that the pipeline has now. sampled_from: photographs of the whole run, where these rows
    are a sample of them.
    """

    fragments: tuple[str, ...]
    levels: tuple[Level, ...]
    stages: tuple[TunedStage, ...]
    present: Bounds
    unread: int
    failed: int
    sampled_from: int | None = None

    def stage(self, name: str) -> TunedStage:
        return next(stage for stage in self.stages if stage.name == name)


def read(view: RunView) -> Data:
    """Read the run."""
    columns = view.columns
    fragments = tuple(view.fragments)
    specs = columns.pipeline.stages
    listed = {spec.name: columns.parts_of_all(spec.name) for spec in specs}
    gathered = _Gathered(view)
    for verdicts in judge_all(columns, fragments, until=INGEST, skips=view.skips):
        ingest = verdicts[INGEST]
        gathered.unread += len(ingest.unread)
        gathered.failed += int(np.sum(ingest.code == FAILED))
        gathered.begin(pa.array(ingest.where(KEPT), pa.string()))
        for spec in specs:
            parts = listed[spec.name].get(verdicts.fragment, ())
            gathered.add(spec, columns.light(spec.name, verdicts.fragment, gathered.wanted[spec.name], parts)[0])
    return gathered.data(fragments)


def numeric(spec: StageSpec) -> list[str]:
    """Columns of a stage that a threshold can be given to: those with rules first, as they are asked."""
    if spec.cls.fans_out:
        return []
    found = [f.name for f in spec.cls.schema if pat.is_integer(f.type) or pat.is_floating(f.type)]
    return [*(name for name in spec.keep if name in found), *(name for name in found if name not in spec.keep)]


def present_bounds(specs: Iterable[StageSpec]) -> dict[str, dict[str, dict[str, float]]]:
    """The numeric rules of a pipeline, as written: a quantile is its share of the rows."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for spec in specs:
        for rule in spec.rules:
            if rule.kind in KINDS:
                out.setdefault(spec.name, {}).setdefault(rule.column, {})[rule.kind] = float(rule.bound)
    return out


def sample(data: Data, chosen: np.ndarray) -> Data:
    """The run with only these photographs (bool, of level 0) and their edits."""
    masks = [chosen]
    levels = []
    for level in data.levels:
        if level.parent is not None:
            masks.append(chosen[level.parent])
        mask = masks[-1]
        numbers = np.cumsum(chosen) - 1
        parent = None if level.parent is None else numbers[level.parent[mask]]
        starts = np.concatenate([[0], np.cumsum(mask)])[level.starts]
        levels.append(Level(level.name, level.ids.filter(pa.array(mask)), parent, starts))
    stages = []
    for stage in data.stages:
        mask = masks[stage.level]
        of_measured = mask[stage.measured]
        kept = {
            name: replace(column, values=column.values[of_measured], null=column.null[of_measured])
            for name, column in stage.columns.items()
        }
        fixed = {key: broken[of_measured] for key, broken in stage.fixed.items()}
        stages.append(replace(stage, state=stage.state[mask], columns=kept, fixed=fixed, links={}))
    whole = data.sampled_from or len(data.levels[0])
    return replace(data, levels=tuple(levels), stages=tuple(stages), sampled_from=whole)


@dataclass
class _StageParts:
    state: list[np.ndarray] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    null: dict[str, list[np.ndarray]] = field(default_factory=dict)
    fixed: dict[Key, list[np.ndarray]] = field(default_factory=dict)
    links: dict[Key, GatheredLinks] = field(default_factory=dict)


class _Gathered:
    """Arrays of all fragments, one fragment after the other."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.pipeline = view.pipeline
        self.rules: dict[str, tuple[Rule, ...]] = {
            spec.name: tuple(view.fits.get(spec.name, spec.rules)) for spec in self.pipeline.stages
        }
        self.numeric = {spec.name: numeric(spec) for spec in self.pipeline.stages}
        self.wanted = {
            spec.name: [CHILDREN]
            if spec.cls.fans_out
            else list(dict.fromkeys([*self.numeric[spec.name], *(rule.column for rule in self.rules[spec.name])]))
            for spec in self.pipeline.stages
        }
        self.parts = {spec.name: _StageParts() for spec in self.pipeline.stages}
        fans_out = self.pipeline.fan_out is not None
        self.ids: list[list[pa.Array]] = [[] for _ in range(2 if fans_out else 1)]
        self.parents: list[np.ndarray] = []
        self.unread = self.failed = self.before = 0

    def begin(self, ids: pa.Array) -> None:
        """Photographs (or pairs) of the next fragment."""
        self.before += len(self.ids[0][-1]) if self.ids[0] else 0
        self.ids[0].append(ids)

    def add(self, spec: StageSpec, table: pa.Table) -> None:
        """What a stage has stored in this fragment."""
        ids = self.ids[self._level(spec)][-1]
        index = pc.index_in(ids, value_set=table.column("id").combine_chunks())
        place = index.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        there = place >= 0
        state = np.full(len(ids), MISSING, dtype=np.uint8)
        state[there] = MEASURED
        if table.num_rows:
            failed = table.column("error").is_valid().to_numpy()
            state[there & failed[place]] = BROKE
        if spec.cls.fans_out:
            self._fan_out(spec, table, state, place)
        parts = self.parts[spec.name]
        parts.state.append(state)
        rows = table.take(pa.array(place[state == MEASURED]))
        for name in self.numeric[spec.name]:
            values, null = _numbers(rows.column(name))
            parts.values.setdefault(name, []).append(values)
            parts.null.setdefault(name, []).append(null)
        for rule in (rule for rule in self.rules[spec.name] if rule.kind not in KINDS):
            key = (rule.column, rule.kind)
            # One that waits for the whole run is taken to hold.
            broken = np.zeros(rows.num_rows, dtype=bool) if rule.needs_fit else rules.judge([rule], rows) >= 0
            parts.fixed.setdefault(key, []).append(broken)
            if rule.kind == DISTINCT:
                parts.links.setdefault(key, GatheredLinks(rule)).add(rows)

    def _fan_out(self, spec: StageSpec, table: pa.Table, state: np.ndarray, place: np.ndarray) -> None:
        if table.num_rows:
            counts = pc.list_value_length(table.column(CHILDREN)).fill_null(0).to_numpy()
            state[(state == MEASURED) & (counts[place] == 0)] = CHILDLESS
        good = table.filter(pc.is_null(table.column("error")))
        children = children_table(good, spec)
        owner = pc.index_in(children.column("parent").combine_chunks(), value_set=self.ids[0][-1])
        known = owner.is_valid()
        self.ids[1].append(children.column("id").combine_chunks().filter(known))
        self.parents.append(owner.filter(known).to_numpy().astype(np.int64) + self.before)

    def _level(self, spec: StageSpec) -> int:
        fan_out = self.pipeline.fan_out
        return int(fan_out is not None and self.pipeline.stages.index(spec) > fan_out)

    def data(self, fragments: tuple[str, ...]) -> Data:
        names = (self.pipeline.base_level, "edit")
        levels = []
        for number, chunks in enumerate(self.ids):
            starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
            parent = _joined(self.parents, np.int64) if number else None
            levels.append(Level(names[number], pa.chunked_array(chunks, pa.string()), parent, starts))
        stages = tuple(self._stage(spec) for spec in self.pipeline.stages)
        present = present_bounds(self.pipeline.stages)
        return Data(fragments, tuple(levels), stages, present, self.unread, self.failed)

    def _stage(self, spec: StageSpec) -> TunedStage:
        parts = self.parts[spec.name]
        found = {}
        for name in self.numeric[spec.name]:
            kind = spec.cls.schema.field(name).type
            null = _joined(parts.null.get(name, ()), np.bool_)
            found[name] = Column(name, kind, _joined(parts.values.get(name, ()), np.float64), null)
        keys = [(rule.column, rule.kind) for rule in self.rules[spec.name] if rule.kind not in KINDS]
        fixed = {key: _joined(parts.fixed.get(key, ()), np.bool_) for key in keys}
        ids = self.ids[self._level(spec)]
        order: list[Key] = []
        for name in dict.fromkeys([*spec.keep, *found]):
            order += [(name, kind) for kind in KINDS if name in found]
            order += [key for key in fixed if key[0] == name]
        return TunedStage(
            name=spec.name,
            level=self._level(spec),
            fans_out=spec.cls.fans_out,
            state=_joined(parts.state, np.uint8),
            columns=found,
            fixed=fixed,
            links={key: gathered.links(self.view, ids) for key, gathered in parts.links.items()},
            order=tuple(order),
            frozen=self._frozen(spec.name),
        )

    def _frozen(self, stage: str) -> dict[Key, float]:
        if self.pipeline.settings.quantiles.source == "run":
            return {}
        fitted = [rule for rule in self.rules[stage] if rule.quantile is not None]
        return {(rule.column, f"{rule.kind}_quantile"): float(rule.bound) for rule in fitted}


def _numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """As keep rules see them: float64, and which have no value."""
    null = column.is_null().to_numpy()
    return column.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(), null


def _joined(parts: Sequence[np.ndarray], kind: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=kind), *parts])
