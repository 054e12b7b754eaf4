"""What stages cost: seconds a row, and the rows that are yet to come. Pure functions of a pipeline and of what its run
has measured.

Seconds a row are, of a stage with workers of its own, those of one worker; of a stage that asks a model server, those
of one of its servers, with all slots busy; of others, those of a CPU. They are measured in this run, else published
(`published.yaml`: what others measured with that model), else a guess by kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ugaf.base import yaml_files
from ugaf.columns.survey import Survey
from ugaf.engine.plan import Group
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec
from ugaf.stage import engines

TABLE: Mapping[str, Any] = yaml_files.mapping(
    Path(__file__).with_name("published.yaml"), "published.yaml", "a table of costs"
)
GUESSES: Mapping[str, float] = TABLE["guesses"]
"""Seconds a row of a stage of which nothing is known: of one that needs a GPU, asks a server, has workers of its own,
or shares them."""
CHILDREN: int = TABLE["children"]
"""Edits that a photograph is taken to have, before any is known."""
FEWEST_ROWS = 30
"""Rows from which the share that a stage hands on is taken from the run."""
MEGAPIXEL = 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """Seconds a row (see above), and where that number is from. kind: measured, published or guess. tokens: of a row's
    requests and answers, where a model is asked."""

    seconds: float
    kind: str
    source: str
    tokens: tuple[float, float] | None = None


@dataclass(frozen=True)
class Known:
    """What a run tells of itself, by stage. rates: seconds of work a row. given, done, pending: rows that a stage was
    given so far, that it has measured, and that wait for it. kept: rows that it handed on, where that is known."""

    rates: Mapping[str, float] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)
    done: Mapping[str, int] = field(default_factory=dict)
    pending: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Survey) -> Known:
        waiting: dict[str, int] = {}
        for todo in found.todo.values():
            for stage, (new, _) in todo.items():
                waiting[stage] = waiting.get(stage, 0) + new
        done = {stage: given - waiting.get(stage, 0) for stage, given in found.given.items()}
        return cls(found.rates, found.given, done, waiting)

    def share(self, stage: str, following: str | None, pipeline: Pipeline) -> tuple[float, str]:
        """Rows that a stage hands on for each that it has done, and whether that is measured or a guess."""
        done = self.done.get(stage, 0)
        on = self.kept.get(stage, 0) or (self.given.get(following, 0) if following else 0)
        if done >= FEWEST_ROWS and on:
            return on / done, "measured"
        fans_out = stage != INGEST and pipeline.stage(stage).cls.fans_out
        return TABLE["kept"].get(stage, TABLE["kept"]["other"]) * (CHILDREN if fans_out else 1), "guess"


def expected(pipeline: Pipeline, known: Known, extra: int = 0) -> dict[str, float]:
    """Rows that each stage has to do yet, ingest first: those that wait for it, and those that are likely to come.

    extra: sources that the run has not taken in yet.
    """
    names = [INGEST, *(spec.name for spec in pipeline.stages)]
    rows, coming = {}, float(extra)
    for name, following in zip(names, [*names[1:], None], strict=True):
        rows[name] = known.pending.get(name, 0) + coming
        coming = rows[name] * known.share(name, following, pipeline)[0]
    return rows


def lane_shares(pipeline: Pipeline, spec: StageSpec) -> dict[str, float]:
    """Which share of a stage's rows each of its lanes gets: by the weights of the stage that gives rows their lane."""
    if not spec.lanes:
        return {}
    weights = dict.fromkeys(spec.lanes, 1.0)
    writer = pipeline.providers.get(spec.cls.lane_column or "", INGEST)
    for value in dict(pipeline.stage(writer).settings).values() if writer != INGEST else ():
        if isinstance(value, Mapping) and value and set(value) <= set(spec.lanes) and _numbers(value.values()):
            weights = {lane: float(value.get(lane, 0)) for lane in spec.lanes}
    total = sum(weights.values())
    return {lane: weight / total if total else 1 / len(weights) for lane, weight in weights.items()}


def _numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def cost_of(pipeline: Pipeline, name: str, lane: str | None = None, rates: Mapping[str, float] | None = None) -> Cost:
    """What a row of a stage (of a lane) costs. rates: seconds of work a row, of stages that the run has measured."""
    measured = (rates or {}).get(name)
    if name == INGEST:
        return Cost(GUESSES["cpu"], "guess", "guess") if measured is None else _measured(measured, None)
    spec = pipeline.stage(name)
    foreseen = _published(pipeline, spec, lane) or Cost(GUESSES[_kind(spec, lane)], "guess", "guess")
    if measured is None:
        return foreseen
    demand = spec.demand(lane)
    if demand.servers:
        # A worker for each server, with so many units at once: their seconds go by side by side.
        measured /= demand.fragments
    if lane is not None:
        shares = lane_shares(pipeline, spec)
        alone = {other: cost_of(pipeline, name, other).seconds for other in spec.lanes}
        mean = sum(shares[other] * alone[other] for other in alone)
        measured *= alone[lane] / mean if mean else 1.0
    return _measured(measured, foreseen.tokens)


def _measured(seconds: float, tokens: tuple[float, float] | None) -> Cost:
    return Cost(seconds, "measured", "measured in this run", tokens)


def _kind(spec: StageSpec, lane: str | None) -> str:
    return "gpu" if spec.gpus(lane) > 0 else "server" if spec.needs.servers else "pool" if spec.own_pool else "cpu"


def _published(pipeline: Pipeline, spec: StageSpec, lane: str | None) -> Cost | None:
    """Of all engines that the stage (or the lane) has, one after the other; None where none of them is known."""
    named = engines.engines_in(spec.settings)
    chosen = [(kind, engine) for kind, key, engine in named if lane is None or key == lane or key not in spec.lanes]
    found = [cost for kind, engine in chosen if (cost := _of_engine(pipeline, kind, engine)) is not None]
    if not found:
        return None
    tokens = [cost.tokens for cost in found if cost.tokens]
    worst = max(found, key=lambda cost: cost.seconds)
    both = (sum(t[0] for t in tokens), sum(t[1] for t in tokens)) if tokens else None
    return Cost(sum(cost.seconds for cost in found), worst.kind, worst.source, both)


def _of_engine(pipeline: Pipeline, interface: str, chosen: Mapping[str, Any]) -> Cost | None:
    needs = engines.needs(interface, chosen)
    server = pipeline.settings.models[needs.servers[0]] if needs.servers else None
    model = str(chosen.get("model") or "") if server is None else server.model
    if interface == "editor":
        return _of_editor(model, chosen)
    if server is not None and interface in TABLE["asked"]:
        asked = TABLE["asked"][interface]
        thinks = asked.get("thinking", 0) if chosen.get("thinking") else 0
        tokens = (float(asked["in"]), float(asked["out"] + thinks))
        entry = _matching(TABLE["chat"], server.model)
        if entry is None:
            return Cost(GUESSES["server"], "guess", "guess", tokens)
        rate = entry["long" if tokens[1] > tokens[0] else "short"] * max(1.0, server.gpus) / entry["gpus"]
        return Cost(sum(tokens) / rate, "published", entry["source"], tokens)
    for entry in TABLE["engines"]:
        if (entry["interface"], entry["engine"]) == (interface, chosen["engine"]):
            return Cost(entry["seconds"], "guess", entry["source"])
    return None


def _of_editor(model: str, chosen: Mapping[str, Any]) -> Cost | None:
    entry = _matching(TABLE["editors"], model)
    if entry is None:
        return None
    guided = (chosen.get("true_cfg_scale") or (4 if entry["guided"] else 1)) > 1
    forwards = int(chosen.get("steps") or 30) * (2 if guided else 1)
    area = float(chosen.get("max_area") or MEGAPIXEL) / MEGAPIXEL
    return Cost((entry["fixed"] + entry["forward"] * forwards) * area, "published", entry["source"])


def _matching(entries: Sequence[Mapping[str, Any]], model: str) -> Mapping[str, Any] | None:
    name = model.lower()
    return next((e for e in entries if fnmatch(name, e["model"]) and fnmatch(name, e.get("and", "*"))), None)


@dataclass(frozen=True)
class Loads:
    """The work of a segment, in seconds: of a worker of each group, of one server of each entry of `models:`."""

    groups: Mapping[str, float] = field(default_factory=dict)
    servers: Mapping[str, float] = field(default_factory=dict)


def loads(pipeline: Pipeline, groups: Sequence[Group], known: Known, rows: Mapping[str, float]) -> Loads:
    """rows: that each stage has to do. Without any, what a photograph takes: it is the proportions that matter."""
    if not any(rows.get(name) for group in groups for name in group.stages):
        rows = expected(pipeline, Known(known.rates, known.given, known.done, {}, known.kept), 1)
    by_group: dict[str, float] = {}
    by_server: dict[str, float] = {}
    for group in groups:
        spec, seconds = group.spec, 0.0
        for name in group.stages:
            share = lane_shares(pipeline, spec)[group.lane] if spec is not None and group.lane is not None else 1.0
            seconds += rows.get(name, 0.0) * share * cost_of(pipeline, name, group.lane, known.rates).seconds
        asked = spec.demand(group.lane).servers if spec is not None else ()
        for server in asked:
            by_server[server] = by_server.get(server, 0.0) + seconds
        by_group[group.name] = 0.0 if asked and spec is not None and not spec.gpus(group.lane) else seconds
    return Loads(by_group, by_server)
