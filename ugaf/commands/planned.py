"""What `ugaf plan` prints: segments, pools and pending rows, and the models with what is missing for them."""

from __future__ import annotations

import os
from typing import Any

from rich.markup import escape
from rich.table import Table

from ugaf import record
from ugaf.code_digest import made_by_other_code
from ugaf.commands.terminal import console
from ugaf.config import INGEST, Pipeline
from ugaf.cutting import count_new
from ugaf.errors import UgafError
from ugaf.export import earlier
from ugaf.ingest import NotRead
from ugaf.models import registry
from ugaf.models.servers import ModelServer, reserved
from ugaf.needs import install_hint
from ugaf.plan import Group, segments, servers_during, servers_of
from ugaf.runner import RunOptions, pending_work, restricted
from ugaf.spec import StageSpec
from ugaf.survey import survey
from ugaf.view import RunView


def print_plan(pipeline: Pipeline, run_options: RunOptions) -> None:
    """Print it; reads the run's folder and lists the inputs. Raises what the run would be refused for."""
    taken_over = record.check_pipeline(pipeline, run_options.replace)
    view = RunView(pipeline.output, pipeline)
    # Inputs may not be here where later stages run.
    takes_in = run_options.first in (None, INGEST)
    not_read = NotRead()
    fresh = count_new(view.columns, not_read) if takes_in else 0
    table = Table("segment", "workers", "stage", "folder", "done", "pending", box=None, pad_edge=False)
    done = {counts.name: counts.rows for counts in view.funnel()}
    found = survey(view.columns)
    for number, groups in enumerate(segments(pipeline), 1):
        work = pending_work(pipeline, found, groups, run_options)
        for group in groups:
            for name in group.stages:
                pending = work.pending.get(name)
                shown = "not asked for" if pending is None else _count(pending, fresh, name)
                pool = escape(_pool(group))
                table.add_row(str(number), pool, name, view.columns.folder(name), str(done[name]), shown)
    console.print(f"[bold]{escape(pipeline.name)}[/] -> {escape(pipeline.output)}")
    for line in (line for spec in pipeline.stages for line in spec.warnings):
        console.print(escape(f"warning: {line}"))
    if taken_over:
        console.print(escape(taken_over))
    console.print(f"{fresh} sources not taken in yet; {done[INGEST]} rows taken in")
    if not_read:
        console.print(f"not read: {escape(str(not_read))}")
    for line in record.stays(pipeline, found.inputs) if takes_in else ():
        console.print(escape(line))
    for line in made_by_other_code(pipeline.stages, found.made_by):
        console.print(escape(line))
    console.print(table)
    _print_models(pipeline, restricted(pipeline, run_options))
    for line in earlier.planned(view):
        console.print(escape(line))
    console.print("a stage also gets the rows that the stages before it will keep; nothing was started")


def _print_models(pipeline: Pipeline, parts: list[list[Group]]) -> None:
    """The models of these segments, what they run on, and what is missing here. Nothing is imported to know it."""
    servers = pipeline.settings.models
    table = Table("stage", "engine", "model", "runs on", box=None, pad_edge=False)
    groups = [group for part in parts for group in part]
    asked = {name for group in groups for name in group.stages}
    missing: dict[str, list[str]] = {}
    for spec in (spec for spec in pipeline.stages if spec.name in asked):
        for interface, key, chosen in registry.engines_in(spec.settings):
            needs = registry.needs(interface, chosen)
            if needs.missing():
                missing.setdefault(install_hint(needs.missing()), []).append(spec.name)
            if not (needs.models or needs.servers):
                continue
            lane = key if key in spec.lanes else None
            where = ", ".join(f"models.{name}" for name in needs.servers) or _workers_of(spec, lane)
            models = needs.models or [servers[name].answers for name in needs.servers]
            engine = chosen["engine"] + (f" ({key})" if key else "")
            table.add_row(spec.name, escape(engine), escape(" + ".join(models)), where)
    for name in servers_of(groups):
        server = servers[name]
        if server.endpoints:
            table.add_row(f"models.{name}", "runs already", escape(server.answers), escape(", ".join(server.endpoints)))
        else:
            place = f"{server.replicas} x ({server.cpus:g} CPU, {server.gpus:g} GPU)"
            table.add_row(f"models.{name}", str(server.serve), escape(server.answers), place)
            for problem in _missing_for(server):
                missing.setdefault(problem, []).append(f"models.{name}")
        if server.api_key_env and server.api_key_env not in os.environ:
            problem = f"the environment variable {server.api_key_env} is not set"
            missing.setdefault(problem, []).append(f"models.{name}")
    if not table.row_count:
        return
    console.print(table)
    console.print(_gpus(pipeline, parts))
    for problem, names in missing.items():
        console.print(f"missing here for {', '.join(dict.fromkeys(names))}: {escape(problem)}")


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


def _gpus(pipeline: Pipeline, parts: list[list[Group]]) -> str:
    """The fewest GPUs that hold the plan; without streaming, a stage's are free for the next one."""
    least, streaming = 0.0, pipeline.settings.engine.streaming
    for number, groups in enumerate(parts):
        pools = sum(g.spec.gpus(g.lane) * (g.spec.workers(g.lane) or 1) for g in groups if g.spec is not None)
        least = max(least, pools + reserved(pipeline.settings.models, servers_during(parts, number, streaming))[1])
    return f"{least:g} GPU{'s' * (least != 1)} at least" + ("" if streaming else ", one stage at a time")


def _count(pending: int, fresh: int, name: str) -> str:
    return f"{pending} + {fresh} new" if name == INGEST and fresh else str(pending)


def _pool(group: Any) -> str:
    if group.spec is None:
        return "CPU workers"
    if group.whole_run:
        return "tasks over the whole run"
    return _workers_of(group.spec, group.lane) + (f" [{group.lane}]" if group.lane else "")
