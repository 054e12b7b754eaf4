"""What a run would do: new sources, pending rows, stages that compute again and why, models and what is missing here.

As plain data, for `ugaf plan` and its `--json` (its shape: docs/operations.md). Nothing is written or started.
"""

from __future__ import annotations

import os
from typing import Any

from ugaf.base.errors import UgafError
from ugaf.base.needs import install_hint
from ugaf.cli.estimated import Asked, estimate
from ugaf.columns import record
from ugaf.columns.code_digest import made_by_other_code
from ugaf.columns.view import RunView, StageCounts
from ugaf.engine.cutting import count_new
from ugaf.engine.plan import FitError, Group, segments, servers_during, servers_of
from ugaf.engine.recomputed import changes
from ugaf.engine.work import RunOptions, pending_work, restricted
from ugaf.export import earlier
from ugaf.ingest import NotRead
from ugaf.models.servers import ModelServer, reserved
from ugaf.pipeline.config import INGEST, Pipeline
from ugaf.pipeline.spec import StageSpec
from ugaf.stage import engines


def foreseen(pipeline: Pipeline, run_options: RunOptions, asked: Asked | None = None) -> dict[str, Any]:
    """The plan; reads the run's folder and lists the inputs. Raises what the run would be refused for.

    asked: what an estimate is to be for, if there is to be one.
    """
    taken_over = record.check_pipeline(pipeline, run_options.replace)
    view = RunView(pipeline.output, pipeline, writes=False)
    # Inputs may not be here where later stages run.
    takes_in = run_options.first in (None, INGEST)
    not_read = NotRead()
    fresh = count_new(view.columns, not_read) if takes_in else 0
    found, counts = view.survey, {stage.name: stage for stage in view.funnel()}
    changed = changes(pipeline, view.record)
    stages: list[dict[str, Any]] = []
    for number, groups in enumerate(segments(pipeline), 1):
        work = pending_work(pipeline, found, groups, run_options)
        for group in groups:
            for name in group.stages:
                pending, done = work.pending.get(name), counts[name]
                paced = pending is not None and done.rows and done.seconds
                stages.append(
                    {
                        "name": name,
                        "segment": number,
                        "workers": _pool(group),
                        "folder": view.columns.folder(name),
                        "stored": done.rows,
                        "pending": pending,
                        "work_s": round((pending or 0) * done.seconds / done.rows, 1) if paced else None,
                        "changed": changed.get(name, []),
                    }
                )
    parts = restricted(pipeline, run_options)
    models, missing = _models(pipeline, parts)
    estimated = None if asked is None else _estimated(view, list(counts.values()), parts, fresh, asked)
    streaming = pipeline.settings.engine.streaming
    return {
        "pipeline": pipeline.name,
        "path": view.path,
        "warnings": [
            *(line for spec in pipeline.stages for line in spec.warnings),
            *(line.removeprefix("warning: ") for line in made_by_other_code(pipeline.stages, found.made_by)),
        ],
        "new_sources": fresh,
        "taken_in": counts[INGEST].rows,
        "not_read": dict(not_read.counts),
        "inputs_missing": found.missing_inputs(pipeline, run_options.first),
        "stages": stages,
        "models": models,
        "gpus": _gpus(pipeline, [[group] for part in parts for group in part] if streaming == "auto" else parts),
        "gpus_together": _gpus(pipeline, parts),
        "streaming": streaming,
        "missing_here": missing,
        "notes": [
            *([taken_over] if taken_over else []),
            *(record.stays(pipeline, found.inputs) if takes_in else ()),
            *earlier.planned(view),
        ],
        **({} if estimated is None else {"estimate": estimated}),
    }


def _estimated(
    view: RunView, counts: list[StageCounts], parts: list[list[Group]], fresh: int, asked: Asked
) -> dict[str, Any]:
    try:
        return estimate(view, counts, parts, fresh, asked)
    except FitError as error:
        if asked.gpus is not None:
            raise
        raise FitError(f"{error}. For a cluster that is not here: --gpus 8") from error


def _models(pipeline: Pipeline, parts: list[list[Group]]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """The models of these segments and what they run on; what is missing here. Nothing is imported to know it."""
    servers = pipeline.settings.models
    rows: list[tuple[str, str, str, str]] = []
    groups = [group for part in parts for group in part]
    asked = {name for group in groups for name in group.stages}
    missing: dict[str, list[str]] = {}
    for spec in (spec for spec in pipeline.stages if spec.name in asked):
        own = spec.needs.missing()
        for interface, key, chosen in engines.engines_in(spec.settings):
            needs = engines.needs(interface, chosen)
            own = {module: extra for module, extra in own.items() if module not in needs.packages}
            if needs.missing():
                missing.setdefault(install_hint(needs.missing()), []).append(spec.name)
            if not (needs.models or needs.servers):
                continue
            lane = key if key in spec.lanes else None
            where = ", ".join(f"models.{name}" for name in needs.servers) or _workers_of(spec, lane)
            models = needs.models or [servers[name].answers for name in needs.servers]
            engine = chosen["engine"] + (f" ({key})" if key else "")
            rows.append((spec.name, engine, " + ".join(models), where))
        if own:
            missing.setdefault(install_hint(own), []).append(spec.name)
    for name in servers_of(groups):
        server = servers[name]
        if server.endpoints:
            rows.append((f"models.{name}", "runs already", server.answers, ", ".join(server.endpoints)))
        else:
            count = "as many as fit" if server.replicas == "auto" else server.replicas
            place = f"{count} x ({server.cpus:g} CPU, {server.gpus:g} GPU)"
            rows.append((f"models.{name}", str(server.serve), server.answers, place))
            for problem in _missing_for(server):
                missing.setdefault(problem, []).append(f"models.{name}")
        if server.api_key_env and server.api_key_env not in os.environ:
            problem = f"the environment variable {server.api_key_env} is not set"
            missing.setdefault(problem, []).append(f"models.{name}")
    shown = [dict(zip(("stage", "engine", "model", "runs_on"), row, strict=True)) for row in rows]
    return shown, [{"problem": problem, "for": list(dict.fromkeys(names))} for problem, names in missing.items()]


def _missing_for(server: ModelServer) -> list[str]:
    """What starting a server would fail for."""
    from ugaf.models.servers.commands import check_installed

    try:
        check_installed(server)
    except UgafError as error:
        return [str(error)]
    return []


def _workers_of(spec: StageSpec, lane: str | None) -> str:
    number = spec.workers(lane) or ("as many as fit" if spec.gpus(lane) else 1)
    return f"{number} x ({spec.cpus(lane):g} CPU, {spec.gpus(lane):g} GPU)"


def _gpus(pipeline: Pipeline, parts: list[list[Group]]) -> float:
    """The fewest GPUs that hold the plan; without streaming, a stage's are free for the next one."""
    least, streaming = 0.0, pipeline.settings.engine.streaming is True
    for number, groups in enumerate(parts):
        pools = sum(g.spec.gpus(g.lane) * (g.spec.workers(g.lane) or 1) for g in groups if g.spec is not None)
        least = max(least, pools + reserved(pipeline.settings.models, servers_during(parts, number, streaming))[1])
    return least


def _pool(group: Group) -> str:
    if group.spec is None:
        return "CPU workers"
    if group.whole_run:
        return "tasks over the whole run"
    return _workers_of(group.spec, group.lane) + (f" [{group.lane}]" if group.lane else "")
