"""Who gets which GPUs: servers and workers of a segment by their work, and which stages run side by side.

Pure functions of a pipeline, a machine and the work (`costs`). Where not all models fit at once, or one of each leaves
too few GPUs to the one that has most to do, a segment is cut into waves: stages that run side by side, one wave after
the other, each with all GPUs. A wave costs the start of its models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ugaf.engine.allotment import Ask, allot, packs
from ugaf.engine.costs import TABLE, Known, Loads, expected, loads
from ugaf.engine.plan import (
    MACHINE_SHARE,
    FitError,
    Group,
    Machine,
    Pool,
    left_by_servers,
    servers_during,
    servers_of,
    size_pools,
)
from ugaf.pipeline.config import Pipeline

ASIDE = 0.05
"""CPUs that are left for each pool of CPU stages, whatever the others take."""
SOONER = 0.92
"""Share of its time at which a segment is cut once more: side by side the first pairs come early, and no model is
loaded twice."""


@dataclass(frozen=True)
class Layout:
    """A segment (or a wave of it) as it would run. replicas: of each server that the pipeline starts. seconds: of work
    until all is done, without the start of models. bound: the server or pool that takes longest."""

    pools: list[Pool]
    replicas: dict[str, int]
    seconds: float
    bound: str


def laid_out(
    pipeline: Pipeline,
    groups: Sequence[Group],
    servers: Sequence[str],
    machine: Machine,
    work: Loads,
    running: Mapping[str, int] | None = None,
) -> Layout:
    """How many servers and workers a segment gets, so that all end together.

    servers: entries of `models:` that run meanwhile. running: how many there are of those that run already.

    Raises:
        FitError: naming what does not fit.
    """
    if any(group.whole_run for group in groups):
        size_pools(groups, left_by_servers(machine, pipeline, servers, running), None)
        return Layout([], dict(running or {}), work.groups.get(groups[0].name, 0.0) / machine.cpus, groups[0].name)
    asks = _asks(pipeline, groups, servers, work, running or {})
    shared = [group for group in groups if group.spec is None]
    cpus = machine.cpus * MACHINE_SHARE - ASIDE * len(shared)
    alone = sum(work.groups.get(group.name, 0.0) for group in shared)
    # Where not even one of each has room, what asks for them says what is missing.
    counts = allot(asks, machine.gpu_nodes, cpus, alone) or {ask.name: ask.count or 1 for ask in asks}
    models = pipeline.settings.models
    replicas = {name: counts[_server(name)] for name in servers if models[name].is_started}
    left = left_by_servers(machine, pipeline, servers, replicas)
    shares = {group.name: counts.get(group.name, 1) for group in groups}
    for group in groups:
        asked = group.spec.demand(group.lane).servers if group.spec is not None else ()
        if group.spec is not None and asked and not group.spec.gpus(group.lane):
            # As many who ask as there are to answer.
            shares[group.name] = max(replicas.get(name, 1) for name in asked)
    pools = size_pools(groups, left, pipeline.settings.engine.workers, shares)
    sizes: dict[float, int] = {}
    for ask in asks:
        sizes[ask.gpus] = sizes.get(ask.gpus, 0) + counts[ask.name]
    if not packs(sizes, machine.gpu_nodes):
        wanted = ", ".join(f"{ask.name}: {counts[ask.name]} x {ask.gpus:g}" for ask in asks if ask.gpus)
        nodes = ", ".join(f"{gpus:g}" for gpus in machine.gpu_nodes)
        raise FitError(f"the plan does not fit: GPUs for {wanted}, each on one node, and the nodes have {nodes}")
    taken = {ask.name: ask.work / counts[ask.name] for ask in asks}
    if shared:
        free = sum(pool.workers * min(1.0, pool.cpus) for pool in pools if pool.group.spec is None)
        taken["+".join(name for group in shared for name in group.stages)] = alone / max(free, ASIDE)
    bound = max(taken, key=lambda name: taken[name], default="")
    return Layout(pools, replicas, taken.get(bound, 0.0), bound)


def restarted(
    pipeline: Pipeline,
    groups: Sequence[Group],
    servers: Sequence[str],
    machine: Machine,
    work: Loads,
    running: Mapping[str, int],
) -> tuple[dict[str, int], bool]:
    """How many of each server a segment is to have, and whether those that run are to be stopped first: because the
    segment has no room beside them, or because their start anew, in other numbers, is the sooner end."""
    anew = laid_out(pipeline, groups, servers, machine, work)
    try:
        kept = laid_out(pipeline, groups, servers, machine, work, running)
    except FitError:
        return anew.replicas, True
    if kept.seconds * SOONER <= anew.seconds + TABLE["start_s"]:
        return kept.replicas, False
    return anew.replicas, True


def _server(name: str) -> str:
    return f"models.{name}"


def _asks(
    pipeline: Pipeline, groups: Sequence[Group], servers: Sequence[str], work: Loads, running: Mapping[str, int]
) -> list[Ask]:
    asks: list[Ask] = []
    models = pipeline.settings.models
    for name in servers:
        server = models[name]
        if server.is_started:
            # With those who ask it: workers without a GPU of their own.
            askers = [g for g in groups if g.spec is not None and name in g.spec.demand(g.lane).servers]
            asking = sum(
                g.spec.cpus(g.lane)
                for g in askers
                if g.spec is not None and not g.spec.gpus(g.lane) and g.spec.workers(g.lane) is None
            )
            count = running.get(name, None if server.replicas == "auto" and server.gpus else server.least)
            asks.append(Ask(_server(name), server.gpus, server.cpus + asking, work.servers.get(name, 0.0), count))
    for group in groups:
        spec = group.spec
        if spec is None:
            continue
        count, gpus = spec.workers(group.lane), spec.gpus(group.lane)
        started = any(models[name].is_started for name in spec.demand(group.lane).servers)
        if started and not gpus and count is None:
            continue
        count = count if count is not None or gpus else 1
        seconds = work.groups.get(group.name, 0.0)
        asks.append(Ask(group.name, gpus, spec.cpus(group.lane), seconds, count))
    return asks


def together(
    pipeline: Pipeline, groups: Sequence[Group], machine: Machine, known: Known, rows: Mapping[str, float]
) -> float:
    """Seconds that these groups take side by side, the start of their models included; infinity if they do not fit."""
    work = loads(pipeline, groups, known, rows)
    try:
        found = laid_out(pipeline, groups, servers_of(groups), machine, work)
    except FitError:
        return float("inf")
    if not has_work(groups, rows):
        return 0.0
    return found.seconds + (TABLE["start_s"] if has_models(groups) else 0.0)


def check(
    pipeline: Pipeline, parts: Sequence[Sequence[Group]], machine: Machine, known: Known, extra: int = 0
) -> list[Layout]:
    """Each segment laid out, one after the other. Raises FitError if one does not fit.

    extra: sources that are not taken in yet.
    """
    rows = expected(pipeline, known, extra)
    found: list[Layout] = []
    for number, groups in enumerate(parts):
        servers = servers_during(parts, number, pipeline.settings.engine.streaming is True)
        layout = laid_out(pipeline, groups, servers, machine, loads(pipeline, groups, known, rows))
        found.append(layout if has_work(groups, rows) else replace(layout, seconds=0.0))
    return found


def has_work(groups: Sequence[Group], rows: Mapping[str, float]) -> bool:
    """Whether rows are expected in any stage of these groups."""
    return any(rows.get(name) for group in groups for name in group.stages)


def has_models(groups: Sequence[Group]) -> bool:
    """Whether a model is loaded for one of these groups."""
    return bool(servers_of(groups)) or any(g.spec is not None and g.spec.gpus(g.lane) > 0 for g in groups)


def waves(
    pipeline: Pipeline, parts: Sequence[Sequence[Group]], machine: Machine, known: Known, extra: int = 0
) -> list[list[Group]]:
    """The segments, cut into waves where that is the sooner end; as they are unless `engine.streaming` is auto.

    extra: sources that are not taken in yet.
    """
    if pipeline.settings.engine.streaming != "auto":
        return [list(part) for part in parts]
    rows = expected(pipeline, known, extra)
    return [wave for part in parts for wave in _cut(pipeline, list(part), machine, known, rows)]


def _cut(
    pipeline: Pipeline, groups: list[Group], machine: Machine, known: Known, rows: Mapping[str, float]
) -> list[list[Group]]:
    if not has_models(groups):
        return [groups]
    count = len(groups)
    alone = {
        (begin, end): together(pipeline, groups[begin:end], machine, known, rows)
        for begin in range(count)
        for end in range(begin + 1, count + 1)
    }
    # Of so many waves over the first so many groups, the best way: its seconds, and where each wave ends.
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    found: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(count):
        best = {
            end: min((ended + alone[begin, end], (*cuts, end)) for begin, (ended, cuts) in best.items() if begin < end)
            for end in range(1, count + 1)
            if any(begin < end for begin in best)
        }
        found.append(best[count])
    soonest = min(seconds for seconds, _ in found)
    if soonest == float("inf"):
        # Some group does not fit even alone: whoever lays it out is told which.
        return [[group] for group in groups]
    cuts = next(cuts for seconds, cuts in found if SOONER * seconds <= soonest)
    return [groups[begin:end] for begin, end in pairwise((0, *cuts))]
