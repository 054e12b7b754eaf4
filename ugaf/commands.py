"""What the commands do. Each prints for a person; `status --json` for a program."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from argparse import Namespace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ugaf import config
from ugaf.config import INGEST, Pipeline
from ugaf.errors import ConfigError, UgafError
from ugaf.models import registry
from ugaf.models.servers import ModelServer, reserved
from ugaf.needs import install_hint
from ugaf.plan import Group, segments, servers_during, servers_of
from ugaf.spec import StageSpec
from ugaf.storage import Storage
from ugaf.view import RUN_FILE, RunView, StageCounts

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


def do_run(options: Namespace) -> int:
    """Run a pipeline, then write shards and report, and print the funnel. Exit status 1 if rows are left pending."""
    from ugaf import runner
    from ugaf.export import export
    from ugaf.progress import show_progress
    from ugaf.report import write_report

    pipeline = _load(options)
    began = time.perf_counter()
    console.print(f"[bold]{escape(pipeline.name)}[/] -> {escape(pipeline.output)}")
    with show_progress(console, pipeline) as progress:
        run_options = dataclasses.replace(_run_options(options), retry_failed=options.retry_failed)
        runner.run(pipeline, run_options, progress, lambda line: console.print(line))
    view = RunView(pipeline.output, pipeline)
    counts = view.funnel()
    print_funnel(counts)
    if not options.no_export:
        # First, since a balance that cannot be met must not cost the report.
        report = write_report(view, gallery=pipeline.settings.report.gallery, seed=pipeline.settings.seed)
        summary = export(view, pipeline.settings.export)
        console.print(f"shards  {escape(f'{pipeline.output}/shards')}  ({escape(str(summary))})")
        console.print(f"report  {escape(f'{pipeline.output}/{report}')}")
        console.print(f"card    {escape(f'{pipeline.output}/README.md')}")
    console.print(f"{time.perf_counter() - began:.1f} s")
    waiting = sum(c.pending for c in counts)
    whole = not (options.stage or options.first or options.last)
    if waiting and whole:
        raise UgafError(f"{waiting} rows are still pending; run the same command again")
    return 0


def do_plan(options: Namespace) -> int:
    """What would run: stages, rows pending and done, resources. Nothing is written or started."""
    from ugaf.runner import pending_work, restricted, survey

    pipeline = _load(options)
    run_options = dataclasses.replace(_run_options(options), retry_failed=options.retry_failed)
    view = RunView(pipeline.output, pipeline)
    # Inputs may not be here where later stages run.
    fresh = _new_sources(view) if run_options.first in (None, INGEST) else 0
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
    console.print(f"{fresh} sources not taken in yet; {done[INGEST]} rows taken in")
    console.print(table)
    _print_models(pipeline, restricted(pipeline, run_options))
    console.print("a stage also gets the rows that the stages before it will keep; nothing was started")
    return 0


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


def do_status(options: Namespace) -> int:
    """The funnel of a run as it is now."""
    view = RunView(_find_run(options.run))
    counts = view.funnel()
    if options.json:
        print(json.dumps([stage.as_dict() for stage in counts], indent=1))
    else:
        console.print(f"[bold]{escape(view.name)}[/] {escape(view.path)}")
        print_funnel(counts)
    return 0


def do_report(options: Namespace) -> int:
    """Write the report of a run again."""
    from ugaf.report import write_report

    view = RunView(_find_run(options.run))
    path = write_report(view, gallery=view.pipeline.settings.report.gallery, seed=view.pipeline.settings.seed)
    console.print(escape(f"{view.path}/{path}"))
    return 0


def do_export(options: Namespace) -> int:
    """Write the shards of a run again."""
    from ugaf.export import export

    view = RunView(_find_run(options.run))
    pipeline = config.parse(view.pipeline.document, [f"export.{change}" for change in options.set])
    console.print(escape(f"{view.path}/shards: {export(view, pipeline.settings.export)}"))
    return 0


def do_tune(options: Namespace) -> int:
    """What other thresholds would keep: the table here, the sliders in the run's folder."""
    from ugaf.tune import as_table, tune, with_settings

    view = with_settings(RunView(_find_run(options.run)), options.set)
    tuned = tune(view, options.stage)
    console.print(as_table(tuned.rules, tuned.end), crop=False)
    for note in tuned.notes:
        console.print(f"[dim]{escape(note)}[/]")
    console.print(f"sliders  {escape(f'{view.path}/{tuned.path}')}")
    return 0


def do_explain(options: Namespace) -> int:
    """The whole story of one row."""
    from ugaf.explain import explain

    for line in explain(RunView(_find_run(options.run)), options.id):
        console.print(escape(line))
    return 0


def do_stages(options: Namespace) -> int:
    """The stages there are; for one of them, what it reads and writes, its settings and keep rules."""
    if options.stage is None:
        for name in config.known_stages():
            console.print(f"{escape(name):32} {escape(_summary(config.stage_class(name)))}")
        return 0
    cls = config.stage_class(options.stage)
    console.print(f"[bold]{escape(options.stage)}[/]: {escape(_summary(cls))}")
    console.print(escape(f"reads: {', '.join(cls.reads) or '-'}"))
    console.print("writes:")
    for field in cls.writes:
        console.print(escape(f"  {field.name}: {field.type}"))
    console.print("settings:")
    for name, field in cls.Settings.model_fields.items():
        console.print(escape(f"  {name} = {field.get_default(call_default_factory=True)!r}  {field.description or ''}"))
    console.print("keep (defaults):")
    for column, bounds in cls.keep.items():
        console.print(escape(f"  {column}: {dict(bounds)}"))
    return 0


def print_funnel(counts: list[StageCounts]) -> None:
    """The funnel as a table, reasons below their stage."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("of")
    for name in ("given", "kept", "rejected", "failed", "pending", "rows/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in counts:
        rejected = sum(stage.rejected.values())
        rate = f"{stage.rows / stage.seconds:.1f}" if stage.seconds > 0 else "-"
        numbers = (stage.given, stage.kept, rejected, stage.failed, stage.pending)
        table.add_row(stage.name, f"{stage.level}s", *(str(number) for number in numbers), rate)
        reasons = [*stage.rejected.most_common(3), *((f"failed: {k}", n) for k, n in stage.errors.most_common(3))]
        for reason, number in reasons:
            table.add_row(f"  [dim]{escape(reason)}[/]", "", "", "", f"[dim]{number}[/]")
    console.print(table, crop=False)


def _load(options: Namespace) -> Pipeline:
    overrides = list(options.set)
    if options.output:
        overrides.append(f"output={json.dumps(options.output)}")
    if options.input:
        overrides.append(f"inputs={json.dumps(options.input)}")
    if options.stage and (options.first or options.last):
        raise ConfigError("--stage names one stage; use --from and --until for a range")
    return config.load(options.pipeline, overrides)


def _run_options(options: Namespace) -> Any:
    from ugaf.runner import RunOptions

    first, last = options.first or options.stage, options.last or options.stage
    return RunOptions(first=first, last=last, address=options.address)


def _find_run(given: str | None) -> str:
    """The named run, or the one in runs/ whose record is the newest."""
    if given is not None:
        return given
    runs = Storage("runs")
    found = [name for name in runs.list() if runs.exists(f"{name}/{RUN_FILE}")]
    if not found:
        raise UgafError("there is no run in runs/: name a run's folder")
    newest = max(found, key=lambda name: runs.filesystem.get_file_info(runs.path(f"{name}/{RUN_FILE}")).mtime)
    return f"runs/{newest}"


def _new_sources(view: RunView) -> int:
    from ugaf.runner import new_sources

    return sum(1 for _ in new_sources(view.columns))


def _count(pending: int, fresh: int, name: str) -> str:
    return f"{pending} + {fresh} new" if name == INGEST and fresh else str(pending)


def _pool(group: Any) -> str:
    if group.spec is None:
        return "CPU workers"
    if group.whole_run:
        return "tasks over the whole run"
    return _workers_of(group.spec, group.lane) + (f" [{group.lane}]" if group.lane else "")


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
