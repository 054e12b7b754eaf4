"""`ugaf tune`: what other thresholds would keep: the table here, the sliders in the run's folder."""

from __future__ import annotations

import argparse

from ugaf.cli.commands import arguments, documents

HELP = "what other thresholds would keep: a table, and a page with sliders"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)
    parser.add_argument("--stage", help="only this stage in the table, its columns without a rule too")
    arguments.changes(parser, "start from other keep rules")
    documents.option(parser)


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console
    from ugaf.tune import as_table, tune, with_settings

    view = with_settings(asked.view(options), options.set)
    tuned = tune(view, options.stage)
    if options.json:
        documents.print_json({"name": view.name, "path": view.path, **tuned.document()})
        return 0
    console.print(as_table(tuned.rules, tuned.end), crop=False)
    for note in tuned.notes:
        console.print(f"[dim]{escape(note)}[/]")
    console.print(f"sliders  {escape(f'{view.path}/{tuned.path}')}")
    return 0
