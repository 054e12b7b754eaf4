"""`ugaf explain`: the whole story of one row, why it is in or out first."""

from __future__ import annotations

import argparse

from ugaf.cli.commands import arguments, documents

HELP = "the whole story of one photograph or edit, and why it is in or out"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", help="its id or the beginning of it, its path or URL, its file name or a part of that")
    arguments.run_folder(parser, option=True)
    documents.option(parser)


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console
    from ugaf.cli.explain import explain, story

    view = asked.view(options)
    if options.json:
        documents.print_json(story(view, options.row))
        return 0
    for line in explain(view, options.row):
        console.print(escape(line))
    return 0
