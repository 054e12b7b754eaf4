"""`ugaf plan`: what would run: stages, rows pending and done, resources. Nothing is written or started."""

from __future__ import annotations

import argparse

from ugaf.cli.commands import arguments, documents

HELP = "show what would run, and start nothing"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.pipeline(parser)
    documents.option(parser)
    parser.add_argument("--retry-failed", action="store_true", help="count failed rows as work")


def run(options: argparse.Namespace) -> int:
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.planned import print_plan
    from ugaf.cli.foreseen import foreseen

    plan = foreseen(asked.load(options), asked.run_options(options))
    if options.json:
        documents.print_json(plan)
    else:
        print_plan(plan)
    return 0
