"""What the commands do. Each prints for a person; `status --json` for a program."""

from __future__ import annotations

import dataclasses
import json
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
from ugaf.plan import segments
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
        summary = export(view, pipeline.settings.export)
        report = write_report(view, gallery=pipeline.settings.report.gallery, seed=pipeline.settings.seed)
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
    from ugaf.runner import pending_work, survey

    pipeline = _load(options)
    run_options = dataclasses.replace(_run_options(options), retry_failed=options.retry_failed)
    view = RunView(pipeline.output, pipeline)
    fresh = _new_sources(view)
    table = Table("segment", "workers", "stage", "folder", "done", "pending", box=None, pad_edge=False)
    done = {counts.name: counts.rows for counts in view.funnel()}
    found = survey(view.columns)
    for number, groups in enumerate(segments(pipeline), 1):
        work = pending_work(pipeline, found, groups, run_options)
        for group in groups:
            for name in group.stages:
                pending = work.pending.get(name)
                shown = "not asked for" if pending is None else _count(pending, fresh, name)
                pool = _pool(group)
                table.add_row(str(number), pool, name, view.columns.folder(name), str(done[name]), shown)
    console.print(f"[bold]{escape(pipeline.name)}[/] -> {escape(pipeline.output)}")
    console.print(f"{fresh} sources not taken in yet; {done[INGEST]} rows taken in")
    console.print(table)
    console.print("a stage also gets the rows that the stages before it will keep; nothing was started")
    return 0


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
    spec = group.spec
    number = spec.resources.workers or "auto"
    return f"{number} x ({spec.cpus:g} CPU, {spec.gpus:g} GPU)"


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
