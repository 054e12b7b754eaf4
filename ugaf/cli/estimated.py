"""What a run will take, in rows, hours, GPUs, money, tokens and bytes: for `ugaf plan --estimate` and `ugaf status`.

The same arithmetic by which the run shares out the GPUs (`ugaf.engine.layout`), on the machine that is here or on one
that is imagined. Plain data; the shape is documented in docs/costs.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ugaf.base.errors import UgafError
from ugaf.columns.parts import children_table
from ugaf.columns.view import RunView, StageCounts
from ugaf.engine.costs import TABLE, Known, cost_of, expected, lane_shares
from ugaf.engine.layout import Layout, check, has_models, waves
from ugaf.engine.plan import Group, Machine, segments
from ugaf.models.licences import licence_of
from ugaf.pipeline.config import INGEST, Pipeline
from ugaf.pipeline.spec import StageSpec
from ugaf.stage import engines

SAMPLE = 4
"""Fragments whose files are looked at for bytes and tokens a row."""
HOUR = 3600.0


@dataclass(frozen=True)
class Asked:
    """rows: photographs (or pairs), instead of those that the run still has to do. gpus: of an imagined cluster, with
    so many on each node. price: of a GPU for an hour."""

    rows: int | None = None
    gpus: int | None = None
    gpus_per_node: int = 8
    price: float | None = None


def imagined(gpus: int, gpus_per_node: int) -> Machine:
    """A cluster of nodes alike, with the CPUs that such nodes usually have."""
    of_node = min(gpus, gpus_per_node)
    a_gpu = float(TABLE["cpus_a_gpu"])
    if not gpus:
        return here()
    return Machine(a_gpu * gpus, gpus, a_gpu * of_node, of_node)


def here() -> Machine:
    """This machine, without asking Ray: CPUs, and the GPUs of NVIDIA's driver."""
    cpus = float(os.cpu_count() or 1)
    gpus = float(sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*")))
    return Machine(cpus, gpus, cpus, gpus)


def known_of(counts: Sequence[StageCounts]) -> Known:
    """What a run's funnel tells."""
    # Of a stage that fans out it is the edits that count, which the next stage is given.
    levels = [*(stage.level for stage in counts[1:]), counts[-1].level]
    alike = [stage for stage, level in zip(counts, levels, strict=True) if stage.level == level]
    return Known(
        rates={stage.name: stage.seconds / stage.rows for stage in counts if stage.rows and stage.seconds},
        given={stage.name: stage.given for stage in counts},
        done={stage.name: stage.given - stage.pending for stage in counts},
        pending={stage.name: stage.pending for stage in counts},
        kept={stage.name: stage.kept for stage in alike},
    )


def estimate(
    view: RunView, counts: Sequence[StageCounts], parts: Sequence[Sequence[Group]], fresh: int, asked: Asked
) -> dict[str, Any]:
    """What these segments take. fresh: sources that the run has not taken in. Raises FitError where they do not fit."""
    pipeline, known = view.pipeline, known_of(counts)
    extra = fresh
    if asked.rows is not None:
        known, extra = Known(known.rates, known.given, known.done, {}, known.kept), asked.rows
    machine = here() if asked.gpus is None else imagined(asked.gpus, asked.gpus_per_node)
    rows = expected(pipeline, known, extra)
    cut = waves(pipeline, parts, machine, known, extra)
    layouts = check(pipeline, cut, machine, known, extra)
    tokens = _tokens_measured(view)
    stages = [
        row
        for number, (groups, layout) in enumerate(zip(cut, layouts, strict=True), 1)
        for group in groups
        for row in _rows_of(pipeline, group, known, rows, number, layout, tokens)
    ]
    work = sum(stage["gpu_hours"] for stage in stages)
    for stage in stages:
        stage["share"] = round(stage["gpu_hours"] / work, 4) if work else 0.0
    starts = sum(TABLE["start_s"] for groups, layout in zip(cut, layouts, strict=True) if _loads(groups, layout))
    hours = (sum(layout.seconds for layout in layouts) + starts) / HOUR
    off = _uncertainty(stages)
    longest = max(layouts, key=lambda layout: layout.seconds, default=None)
    paid = hours * machine.gpus
    return {
        "rows": extra + known.pending.get(INGEST, 0),
        "machine": asdict(machine),
        "imagined": asked.gpus is not None,
        "stages": stages,
        "waves": [[group.name for group in groups] for groups in cut],
        "pools": [_pools(layout) for layout in layouts],
        "hours": round(hours, 3),
        "hours_low": round(hours * (1 - off), 3),
        "hours_high": round(hours * (1 + off), 3),
        "start_hours": round(starts / HOUR, 3),
        "uncertainty": round(off, 3),
        "gpu_hours": round(paid, 2),
        "gpu_hours_at_work": round(work, 2),
        "price": asked.price,
        "money": None if asked.price is None else round(paid * asked.price, 2),
        "bound": longest.bound if longest is not None else "",
        "tokens_in": round(sum(stage["tokens_in"] or 0 for stage in stages)),
        "tokens_out": round(sum(stage["tokens_out"] or 0 for stage in stages)),
        **_disk(view, rows, known),
        "licences": licences(pipeline, parts),
    }


def left(view: RunView, counts: Sequence[StageCounts], machine: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a run has still to do, by the same arithmetic; None where that is nothing. machine: of its last call, as
    `progress.json` has it; without one there are no hours."""
    known = known_of(counts)
    rows = expected(view.pipeline, known)
    if not any(rows.values()):
        return None
    parts = segments(view.pipeline)
    hours, bound = None, ""
    if machine is not None:
        try:
            there = Machine(**{**machine, "nodes": tuple(machine.get("nodes", ()))})
            cut = waves(view.pipeline, parts, there, known)
            layouts = check(view.pipeline, cut, there, known)
        except (UgafError, TypeError):
            layouts = []
        if layouts:
            hours = round(sum(layout.seconds for layout in layouts) / HOUR, 3)
            bound = max(layouts, key=lambda layout: layout.seconds).bound
    each = [
        row for groups in parts for group in groups for row in _rows_of(view.pipeline, group, known, rows, 1, None, {})
    ]
    return {
        "hours": hours,
        "bound": bound,
        "gpu_hours": round(sum(row["gpu_hours"] for row in each), 2),
        "cpu_hours": round(sum(row["cpu_hours"] for row in each), 2),
        "uncertainty": round(_uncertainty(each), 3),
    }


def _loads(groups: Sequence[Group], layout: Layout) -> bool:
    return layout.seconds > 0 and has_models(groups)


def _rows_of(
    pipeline: Pipeline,
    group: Group,
    known: Known,
    rows: Mapping[str, float],
    segment: int,
    layout: Layout | None,
    tokens: Mapping[str, tuple[float, float]],
) -> Iterable[dict[str, Any]]:
    names = [INGEST, *(spec.name for spec in pipeline.stages)]
    for name in group.stages:
        spec = None if name == INGEST else pipeline.stage(name)
        cost = cost_of(pipeline, name, group.lane, known.rates)
        share = lane_shares(pipeline, spec)[group.lane] if spec is not None and group.lane is not None else 1.0
        count, seconds = rows[name] * share, rows[name] * share * cost.seconds
        gpus = _gpus_of(pipeline, spec, group.lane)
        before = names[names.index(name) - 1] if name != INGEST else None
        said = tokens.get(name) or cost.tokens
        yield {
            "name": name,
            "lane": group.lane,
            "segment": segment,
            "workers": _workers(pipeline, group, layout),
            "rows": round(count),
            "rows_from": known.share(before, name, pipeline)[1] if before else "given",
            "seconds_a_row": float(f"{cost.seconds:.4g}"),
            "cost_from": cost.kind,
            "source": cost.source,
            "gpus": gpus,
            "gpu_hours": round(seconds * gpus / HOUR, 4),
            "cpu_hours": 0.0 if gpus else round(seconds / HOUR, 4),
            "tokens_in": round(count * said[0]) if said else None,
            "tokens_out": round(count * said[1]) if said else None,
        }


def _gpus_of(pipeline: Pipeline, spec: StageSpec | None, lane: str | None) -> float:
    """GPUs that are taken by those seconds: the worker's, and those of one server that the pipeline starts."""
    if spec is None:
        return 0.0
    asked = (pipeline.settings.models[name] for name in spec.demand(lane).servers)
    return spec.gpus(lane) + sum(server.gpus for server in asked if server.is_started)


def _workers(pipeline: Pipeline, group: Group, layout: Layout | None) -> str:
    if layout is None or group.whole_run:
        return ""
    servers = group.spec.demand(group.lane).servers if group.spec is not None else ()
    started = [name for name in servers if pipeline.settings.models[name].is_started]
    if started:
        return ", ".join(f"{layout.replicas[name]} x models.{name}" for name in started)
    return next((str(pool.workers) for pool in layout.pools if pool.group.name == group.name), "")


def _pools(layout: Layout) -> dict[str, Any]:
    pools = [
        {"name": pool.group.name, "workers": pool.workers, "cpus": pool.cpus, "gpus": pool.gpus}
        for pool in layout.pools
    ]
    found = {"hours": round(layout.seconds / HOUR, 3), "bound": layout.bound}
    return {**found, "replicas": layout.replicas, "workers": pools}


def _uncertainty(stages: Sequence[Mapping[str, Any]]) -> float:
    """About how far off the hours may be, as a share: each number's own, weighted by what it takes."""
    on = "gpu_hours" if any(stage["gpu_hours"] for stage in stages) else "cpu_hours"
    total = sum(stage[on] for stage in stages)
    off = sum(stage[on] * TABLE["uncertainty"][stage["cost_from"]] for stage in stages)
    return off / total if total else max((TABLE["uncertainty"][s["cost_from"]] for s in stages), default=0.0)


def _tokens_measured(view: RunView) -> dict[str, tuple[float, float]]:
    """Tokens of a row, in and out, of the stages that ask models and have asked them in this run."""
    found: dict[str, tuple[float, float]] = {}
    for spec in view.pipeline.stages:
        names = [name for name in spec.cls.schema.names if name.endswith(("_tokens_in", "_tokens_out"))]
        if not spec.needs.servers or len(names) != 2:
            continue
        sums, rows = [0.0, 0.0], 0
        for fragment in _sample(view):
            columns = ["children"] if spec.cls.fans_out else names
            table, _ = view.columns.light(spec.name, fragment, columns)
            rows += table.num_rows
            table = children_table(table, spec) if spec.cls.fans_out else table
            for number, name in enumerate(sorted(names)):
                sums[number] += sum(value or 0 for value in table.column(name).to_pylist())
        if rows:
            found[spec.name] = sums[0] / rows, sums[1] / rows
    return found


def _sample(view: RunView) -> list[str]:
    return view.columns.fragments()[:SAMPLE]


def _disk(view: RunView, rows: Mapping[str, float], known: Known) -> dict[str, Any]:
    """Gigabytes (10^9 bytes) that the run will have more: of its columns, and of the shards."""
    pipeline, table = view.pipeline, TABLE["bytes"]
    names = [INGEST, *(spec.name for spec in pipeline.stages)]
    each = {name: _bytes_measured(view, name) for name in names}
    guessed = {INGEST: float(table["source"])}
    picture = 0.0
    for spec in pipeline.stages:
        guessed[spec.name] = float(table["columns"])
        if "edited_image" in spec.cls.schema.names:
            lossless = getattr(spec.settings, "format", "png") == "png"
            picture = float(table["lossless" if lossless else "picture"])
            guessed[spec.name] += picture
            picture = each[spec.name] or picture
    columns = sum(rows[name] * (each[name] or guessed[name]) for name in names)
    kept = rows[names[-1]] * known.share(names[-1], None, pipeline)[0]
    source = each[INGEST] or guessed[INGEST]
    shards = kept * (source + picture) * len(pipeline.settings.export.formats)
    measured = [name for name in names if each[name]]
    return {
        "columns_gb": round(columns / 1e9, 2),
        "shards_gb": round(shards / 1e9, 2),
        "bytes_from": "measured" if INGEST in measured else "guess",
        "kept": round(kept),
    }


def _bytes_measured(view: RunView, stage: str) -> float | None:
    """Bytes of a row in a stage's parts."""
    size, rows = 0, 0
    for fragment in _sample(view):
        paths = view.columns.parts(stage, fragment)
        if paths:
            infos = view.storage.filesystem.get_file_info([view.storage.path(path) for path in paths])
            size += sum(info.size or 0 for info in infos)
            rows += view.columns.light(stage, fragment, ["id"])[0].num_rows
    return size / rows if rows else None


def licences(pipeline: Pipeline, parts: Sequence[Sequence[Group]]) -> list[dict[str, str]]:
    """The models of these segments, by name: whose outputs may train what."""
    asked = {name for groups in parts for group in groups for name in group.stages}
    models: dict[str, list[str]] = {}
    for spec in (spec for spec in pipeline.stages if spec.name in asked):
        for interface, _, chosen in engines.engines_in(spec.settings):
            needs = engines.needs(interface, chosen)
            found = list(needs.models)
            for server in (pipeline.settings.models[name] for name in needs.servers):
                found += [server.model, *([server.lora] if server.lora else [])]
            for model in found:
                models.setdefault(model, []).append(spec.name)
    return [
        {**asdict(licence_of(model)), "stages": ", ".join(dict.fromkeys(used))}
        for model, used in sorted(models.items())
    ]
