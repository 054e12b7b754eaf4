"""`ugaf run`: do what is missing of a pipeline, then write shards and report, and print the funnel."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ugaf.cli.commands import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ugaf.cli.progress.live import Call
    from ugaf.columns.view import StageCounts
    from ugaf.pipeline.config import Pipeline

HELP = "do what is missing of a pipeline, then write shards and report"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.pipeline(parser)
    parser.add_argument("--retry-failed", action="store_true", help="do the rows again that failed before")
    parser.add_argument("--no-export", action="store_true", help="stop before shards and report")
    arguments.replace_shards(parser)
    arguments.wait(parser)
    parser.add_argument(
        "--max-failed",
        default="0.05",
        metavar="SHARE",
        help="exit with 3 if more of a stage's rows failed: a share (0.05, 5%%) or a number of rows (default: 0.05)",
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "plain", "json", "none"),
        default="auto",
        help="auto: a live table on a terminal, elsewhere a plain line every 30 s; json: one object a line on stdout",
    )


def run(options: argparse.Namespace) -> int:
    """Raises StopRun if rows are left pending."""
    from rich.markup import escape

    from ugaf.cli import endings
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console
    from ugaf.cli.progress.files import command_line
    from ugaf.cli.progress.live import Call
    from ugaf.columns import lease

    most = endings.max_failed(options.max_failed)
    pipeline = asked.load(options)
    with Call(pipeline, console, options.progress, command_line(sys.argv[1:])) as call:
        call.say(f"[bold]{escape(pipeline.name)}[/] -> {escape(pipeline.output)}")
        # One lease for columns, report and shards.
        with lease.scope("ugaf run", options.wait, call.note):
            stages = _work(pipeline, options, call)
        whole = not (options.stage or options.first or options.last)
        if whole:
            _check_nothing_waits(stages, {stage.name: stage.done for stage in call.tracker.state().stages})
        status, why = endings.of_run(stages, most)
        if why:
            call.note(why)
        call.finish(status, why)
    return status


def _work(pipeline: Pipeline, options: argparse.Namespace, call: Call) -> list[StageCounts]:
    """Returns the funnel of the stages that were asked for."""
    from rich.markup import escape

    from ugaf.cli import status
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.exported import asked_settings, write_shards
    from ugaf.cli.commands.terminal import failure_lines, funnel_table
    from ugaf.columns.view import RunView
    from ugaf.engine import runner
    from ugaf.export import earlier
    from ugaf.report import write_report
    from ugaf.withdrawal.withdraw import finish_interrupted

    began = time.perf_counter()
    for line in (line for spec in pipeline.stages for line in spec.warnings):
        call.note(f"warning: {line}")
    wanted = replace(asked.run_options(options), finish_withdrawal=finish_interrupted)
    snapshot = runner.run(pipeline, wanted, call.counts, call.note, call)
    view = RunView(pipeline.output, pipeline, snapshot=snapshot)
    counts = view.funnel()
    # Of stages that were not asked for, a funnel of zeros says nothing.
    end = next((n for n, stage in enumerate(counts, 1) if stage.name == (options.last or options.stage)), len(counts))
    call.say(funnel_table(counts[:end]), crop=False)
    if end < len(counts):
        call.say(f"not asked for: {escape(', '.join(stage.name for stage in counts[end:]))}")
    for line in failure_lines(counts):
        call.note(line)
    if not options.no_export:
        # First, since a balance that cannot be met must not cost the report.
        call.doing("writing the report")
        report = write_report(view, gallery=pipeline.settings.report.gallery, seed=pipeline.settings.seed)
        call.doing("writing the shards")
        summary = write_shards(
            view,
            earlier.remembered(view, asked_settings(options.set)),
            replace=options.replace_shards,
            note=call.note,
            say=lambda line: call.say(escape(line)),
            progress=lambda n: call.doing(f"writing the shards: {n:,} rows so far"),
        )
        call.say(f"report  {escape(f'{pipeline.output}/{report}')}")
        # The earlier one stays with its shards, and is not of this call.
        if summary.stays is None:
            call.say(f"card    {escape(f'{pipeline.output}/README.md')}")
    call.say(f"{time.perf_counter() - began:.1f} s")
    call.result(status.document(view, counts))
    run_options = asked.run_options(options)
    order = [stage.name for stage in counts]
    first = order.index(run_options.first) if run_options.first else 0
    last = order.index(run_options.last) if run_options.last else len(order) - 1
    return counts[first : last + 1]


def _check_nothing_waits(counts: Sequence[StageCounts], done: Mapping[str, int]) -> None:
    """Raises what is known of rows that are pending after a run that was not stopped."""
    from ugaf.base.errors import StopRun
    from ugaf.cli.endings import UnfinishedError
    from ugaf.pipeline.config import INGEST

    waiting = {stage.name: stage.pending for stage in counts if stage.pending}
    if not waiting:
        return
    if set(waiting) == {INGEST}:
        raise StopRun(f"{waiting[INGEST]} sources are still pending: the same command asks for them again")
    known = "; ".join(
        f"{name}: {rows} pending, {done.get(name, 0)} done in this call" for name, rows in waiting.items()
    )
    lost = any(done.get(name) for name in waiting)
    why = (
        "rows that this call wrote are not found again, or others work in this folder"
        if lost
        else "the engine ended without doing this work, and without an error"
    )
    # No scheduler shall run it again for ever.
    raise UnfinishedError(
        f"rows are still pending ({known}): {why}. The same command may do no better: please report it"
    )
