"""`ugaf explain`: the whole story of one row."""

from __future__ import annotations

import argparse

from ugaf.commands import arguments

HELP = "the whole story of one photograph or edit, and why it is in or out"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="its id, or the beginning of it")
    arguments.run_folder(parser, option=True)


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.commands import asked
    from ugaf.commands.terminal import console
    from ugaf.explain import explain

    for line in explain(asked.view(options), options.id):
        console.print(escape(line))
    return 0
