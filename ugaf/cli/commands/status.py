"""`ugaf status`: the funnel of a run as it is now, and whether a call is at work on it."""

from __future__ import annotations

import argparse

from ugaf.cli.commands import arguments, documents

HELP = "the funnel of a run as it is now, and whether a call works on it"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)
    documents.option(parser)


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console, failure_lines, funnel_table
    from ugaf.cli.status import document, last_call_text, left_of, left_text

    view = asked.view(options)
    counts = view.funnel()
    if options.json:
        documents.print_json(document(view, counts))
        return 0
    console.print(f"[bold]{escape(view.name)}[/] {escape(view.path)}")
    console.print(escape(last_call_text(view.storage)))
    console.print(funnel_table(counts), crop=False)
    found = left_of(view, counts)
    if found is not None:
        console.print(escape(left_text(found)))
    for line in failure_lines(counts):
        console.print(escape(line))
    return 0
