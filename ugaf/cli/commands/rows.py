"""`ugaf rows`: every row of a run with its verdict and values, as JSON lines, CSV or Parquet."""

from __future__ import annotations

import argparse

from ugaf.cli.commands import arguments

HELP = "every row of a run with its verdict, the rule that decided, its files and measures: Parquet, CSV or JSON lines"
STATUS = ("kept", "rejected", "failed", "pending", "withdrawn")


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)
    parser.add_argument(
        "--level",
        choices=("image", "edit"),
        help="photographs or edits (default: what the run took in; edits that a photograph became are counted then)",
    )
    parser.add_argument("--status", choices=STATUS, help="only rows with this verdict")
    parser.add_argument("--stage", help="only rows that this stage decided (it rejected, failed or waits for them)")
    parser.add_argument(
        "--columns",
        help="a,b: only these columns beside the verdict; images only where named (default: all but images)",
    )
    parser.add_argument(
        "-o", "--output", default="-", help="a .parquet, .csv or .jsonl file or URL (default: -, JSON lines printed)"
    )


def run(options: argparse.Namespace) -> int:
    import sys

    from rich.markup import escape

    from ugaf.base.printing import counted, harmless
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console
    from ugaf.columns import table

    view = asked.view(options)
    names = None if options.columns is None else [name for name in options.columns.split(",") if name]
    chosen = table.Choice(options.level or view.pipeline.base_level, options.status, options.stage, names)
    count = table.write(view, chosen, options.output)
    told = counted(count, "photographs" if chosen.level == "image" else "pairs" if view.pipeline.is_pairs else "edits")
    more = table.elsewhere(view, chosen) if options.level is None else 0
    if more:
        told += f"; {counted(more, 'edits')} too: --level edit"
    if options.output != "-":
        console.print(escape(f"{told}: {options.output}"))
    elif more:
        # Standard output is for programs.
        print(harmless(told), file=sys.stderr)
    return 0
