"""`ugaf status`: the funnel of a run as it is now."""

from __future__ import annotations

import argparse
import json

from ugaf.commands import arguments

HELP = "the funnel of a run as it is now"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.commands import asked
    from ugaf.commands.terminal import console, print_funnel

    view = asked.view(options)
    counts = view.funnel()
    if options.json:
        print(json.dumps([stage.as_dict() for stage in counts], indent=1))
    else:
        console.print(f"[bold]{escape(view.name)}[/] {escape(view.path)}")
        print_funnel(counts)
    return 0
