"""`ugaf run`: do what is missing of a pipeline, then write shards and report, and print the funnel."""

from __future__ import annotations

import argparse
import time

from ugaf.commands import arguments

HELP = "do what is missing of a pipeline, then write shards and report"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.pipeline(parser)
    parser.add_argument("--retry-failed", action="store_true", help="do the rows again that failed before")
    parser.add_argument("--no-export", action="store_true", help="stop before shards and report")
    arguments.replace_shards(parser)


def run(options: argparse.Namespace) -> int:
    """Raises UgafError if rows are left pending."""
    from rich.markup import escape

    from ugaf import runner
    from ugaf.commands import asked
    from ugaf.commands.exported import asked_settings, write_shards
    from ugaf.commands.terminal import console, print_funnel
    from ugaf.errors import UgafError
    from ugaf.export import earlier
    from ugaf.progress import show_progress
    from ugaf.report import write_report
    from ugaf.view import RunView

    pipeline = asked.load(options)
    began = time.perf_counter()
    console.print(f"[bold]{escape(pipeline.name)}[/] -> {escape(pipeline.output)}")
    with show_progress(console, pipeline) as progress:
        runner.run(pipeline, asked.run_options(options), progress, lambda line: console.print(line))
    view = RunView(pipeline.output, pipeline)
    counts = view.funnel()
    print_funnel(counts)
    if not options.no_export:
        # First, since a balance that cannot be met must not cost the report.
        report = write_report(view, gallery=pipeline.settings.report.gallery, seed=pipeline.settings.seed)
        named = asked_settings(options.set)
        write_shards(view, earlier.remembered(view, named), replace=options.replace_shards)
        console.print(f"report  {escape(f'{pipeline.output}/{report}')}")
        console.print(f"card    {escape(f'{pipeline.output}/README.md')}")
    console.print(f"{time.perf_counter() - began:.1f} s")
    waiting = sum(c.pending for c in counts)
    whole = not (options.stage or options.first or options.last)
    if waiting and whole:
        raise UgafError(f"{waiting} rows are still pending; run the same command again")
    return 0
