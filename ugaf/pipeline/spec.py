"""One stage of a pipeline as it will run: settings, rules, needs, resources and fingerprint, and the checks on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.types as pat
from pydantic import Field

from ugaf.base.errors import ConfigError, nearest
from ugaf.base.needs import Needs
from ugaf.pipeline import rules
from ugaf.pipeline.classes import known_stages, stage_class
from ugaf.stage import Range, Settings, Stage, engines

INGEST = "ingest"
BATCH_ROWS = 32
"""Rows that a call of a stage gets at most where neither it nor the pipeline says another number."""


class Resources(Settings):
    """What a stage's workers take; what is not set comes from the stage's own defaults."""

    cpus: float | None = Field(None, gt=0, description="CPUs that each worker reserves")
    gpus: float | None = Field(None, ge=0, description="GPUs that each worker reserves (fractions share one)")
    workers: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]] | None = Field(
        None, description="number of workers; default: as many as fit; {editor: number} for a mix of editors"
    )
    batch_rows: int | None = Field(None, ge=1, description="rows a call of the stage gets at most")


@dataclass(frozen=True)
class StageSpec:
    """One stage of a pipeline, ready to run.

    level: that of the rows it is given, "image" or "edit". needs: of all that its settings name. lanes: name -> needs,
    for a stage that runs in several pools (`Stage.lanes`).
    """

    name: str
    cls: type[Stage]
    settings: Settings
    keep: Mapping[str, Any]
    rules: tuple[rules.Rule, ...]
    resources: Resources
    level: str
    fingerprint: str
    needs: Needs = field(default_factory=Needs)
    lanes: Mapping[str, Needs] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that it must have: those of its class, and those that its settings ask for."""
        return (*self.cls.reads, *self.needs.reads)

    @property
    def optional_reads(self) -> tuple[str, ...]:
        return (*self.cls.optional_reads, *self.needs.optional_reads)

    @property
    def folder(self) -> str:
        return f"{self.name}@{self.fingerprint}"

    def batch_rows(self, lane: str | None = None) -> int:
        """Rows that a call of the stage (or of a lane) gets at most."""
        return self.resources.batch_rows or self.demand(lane).batch_rows or BATCH_ROWS

    @property
    def own_pool(self) -> bool:
        custom = self.resources.cpus is not None or self.resources.workers is not None or bool(self.lanes)
        return self.needs.own_pool or bool(self.needs.servers) or self.gpus() > 0 or custom

    def cpus(self, lane: str | None = None) -> float:
        """CPUs that a worker (of a lane) reserves."""
        if self.resources.cpus is not None:
            return self.resources.cpus
        return self.demand(lane).cpus or 1.0

    def gpus(self, lane: str | None = None) -> float:
        """GPUs that a worker (of a lane) reserves."""
        if self.resources.gpus is not None:
            return self.resources.gpus
        return self.demand(lane).gpus

    def workers(self, lane: str | None = None) -> int | None:
        """The number of workers that the settings give; None leaves it to the plan."""
        given = self.resources.workers
        return given.get(lane or "") if isinstance(given, dict) else given

    def demand(self, lane: str | None = None) -> Needs:
        """The needs of a lane, or of the whole stage."""
        return self.needs if lane is None else self.lanes[lane]

    @property
    def ranges(self) -> dict[str, Range]:
        """Of its measures: least and greatest value, None where there is no end."""
        return {name: column.range for name, column in self.cls.columns.items() if column.range is not None}

    @property
    def warnings(self) -> list[str]:
        """Keep rules whose bounds lie outside of their measure's range."""
        return rules.beyond(self.rules, self.ranges, self.name)

    @property
    def needs_fit(self) -> bool:
        """Whether its keep rules need the whole run."""
        return any(rule.needs_fit for rule in self.rules)

    def build(self, seed: int, servers: Mapping[str, Any] | None = None, lane: str | None = None) -> Stage:
        stage = self.cls(self.name, self.settings, seed)
        stage.servers, stage.lane = servers or {}, lane
        return stage


def merged_keep(defaults: Mapping[str, Any], given: Any, name: str) -> dict[str, Any]:
    """A stage's default rules with a pipeline's bounds put over them one by one; null switches a column's rules off.

    A bound takes the place of the default on the same side, be it a number or a quantile.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name}.keep: expected rules by column (got {given!r})")
    merged: dict[str, Any] = {column: dict(bounds) for column, bounds in defaults.items()}
    for column, bounds in given.items():
        if isinstance(bounds, Mapping) and isinstance(merged.get(column), dict):
            bounds = {kind: _merged_distinct(merged[column], kind, bound) for kind, bound in bounds.items()}
            sides = {kind.removesuffix("_quantile") for kind in map(str, bounds)}
            others = {k: v for k, v in merged[column].items() if k.removesuffix("_quantile") not in sides}
            merged[column] = {**others, **bounds}
        else:
            merged[column] = bounds
    return merged


def _merged_distinct(defaults: Mapping[str, Any], kind: Any, bound: Any) -> Any:
    """What a pipeline says of a `distinct` rule, over the stage's default; null takes a bound of its `where` away."""
    default = defaults.get(kind)
    if kind != rules.DISTINCT or not (isinstance(default, Mapping) and isinstance(bound, Mapping)):
        return bound
    given = bound.get("where", {})
    if not isinstance(given, Mapping):
        return bound
    return {**default, **bound, "where": {**default.get("where", {}), **given}}


def check_best(spec: StageSpec, types: Mapping[str, pa.DataType], own_level: Collection[str]) -> None:
    """The columns by which a `distinct` rule chooses are numbers of the rows that the stage is given."""
    for rule in spec.rules:
        for column in rule.bound.columns if rule.kind == rules.DISTINCT else ():
            where = f"{spec.name}.keep.{rule.column}.distinct.best"
            if column not in types:
                raise ConfigError(
                    f"{where}: no stage up to this one writes a column {column!r}{nearest(column, types)}"
                )
            if not (pat.is_integer(types[column]) or pat.is_floating(types[column])):
                raise ConfigError(f"{where}: {column} is {types[column]}, no number")
            if column not in own_level:
                raise ConfigError(f"{where}: {column} is no column of {spec.level}s, which the stage compares")


def check_whole_run(spec: StageSpec, own_level: Collection[str]) -> None:
    """A stage that compares the rows of the whole run reads columns of those rows, and runs in no pool."""
    if not spec.cls.whole_run:
        return
    if spec.cls.fans_out or spec.cls.peers or spec.cls.refs or spec.own_pool:
        raise ConfigError(f"{spec.name}: compares rows of the whole run: no fans_out, peers, refs, models or resources")
    for column in spec.reads:
        if column not in own_level:
            raise ConfigError(
                f"{spec.name}: reads {column!r}, which is no column of the {spec.level}s that it compares"
            )


def check_levels(
    name: str,
    cls: type[Stage],
    level: str,
    is_pairs: bool,
    providers: Mapping[str, str],
    before: Sequence[StageSpec],
) -> None:
    """Peers are rows of the stage's own level, and refs name rows that were taken in: so must be their columns."""
    edits = {spec.name for number, spec in enumerate(before) if spec.level == "edit" or spec.cls.fans_out}
    own = {column: "edit" if is_pairs or stage in edits else "image" for column, stage in providers.items()}
    for column in cls.peers:
        if own[column] != level:
            raise ConfigError(f"{name}: peers: {column!r} is a column of {own[column]}s; its neighbours are {level}s")
    for column in (column for columns in cls.refs.values() for column in columns):
        if own[column] != ("edit" if is_pairs else "image"):
            raise ConfigError(f"{name}: refs: {column!r} is no column of the rows that were taken in")


def check_lanes(spec: StageSpec, providers: Mapping[str, str], before: Sequence[StageSpec]) -> None:
    """A row has to find its lane: what an earlier stage may write into the lane column must be the name of one."""
    workers = spec.resources.workers
    if isinstance(workers, dict):
        for lane in workers:
            if lane not in spec.lanes:
                raise ConfigError(f"{spec.name}.resources.workers: no editor {lane!r}{nearest(lane, spec.lanes)}")
    column = spec.cls.lane_column
    if not spec.lanes:
        return
    if column not in providers:
        raise ConfigError(f"{spec.name}: shares its rows out by the column {column!r}, which no stage before it writes")
    for other in before:
        for name in other.cls.offers(other.settings).get(column, ()):
            if providers[column] == other.name and name not in spec.lanes:
                raise ConfigError(
                    f"{other.name}: gives edits to {name!r}, which is not among those of {spec.name}"
                    f"{nearest(name, spec.lanes)}"
                )


def _who_writes(column: str) -> str:
    """The stages of ugaf that write a column which is not there."""
    writers = [name for name in known_stages() if column in stage_class(name).schema.names]
    return f": add {' or '.join(writers)} before it" if writers else ""


def fingerprint_of(
    spec: StageSpec,
    seed: int,
    models: Mapping[str, Any],
    providers: Mapping[str, str],
    fingerprints: Mapping[str, str],
) -> str:
    """Covers all that a stage's columns depend on: code version, settings, models, seed if used, columns it reads."""
    name, cls = spec.name, spec.cls
    needed = [*spec.reads, *cls.peers, *cls.refs, *(column for columns in cls.refs.values() for column in columns)]
    for column in needed:
        if column not in providers:
            raise ConfigError(f"{name}: reads column {column!r}, which no stage before it writes{_who_writes(column)}")
    present = [column for column in spec.optional_reads if column in providers]
    reads = {column: fingerprints[providers[column]] for column in sorted({*needed, *present})}
    try:
        own = engines.identity(spec.settings, models)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    content = {"name": name, "version": cls.version, "settings": own, "reads": reads}
    # A forgotten `version` must not mix parts with other columns or other ids.
    content["writes"] = [f"{column.name}: {column.type}" for column in cls.schema]
    if cls.fans_out:
        content["identity"] = list(cls.identity)
    if cls.seeded:
        content["seed"] = seed
    return digest(content)


def digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
