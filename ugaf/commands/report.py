"""`ugaf report`: write the report of a run again."""

from __future__ import annotations

import argparse

from ugaf.commands import arguments

HELP = "write a run's report/index.html"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.commands import asked
    from ugaf.commands.terminal import console
    from ugaf.report import write_report

    view = asked.view(options)
    path = write_report(view, gallery=view.pipeline.settings.report.gallery, seed=view.pipeline.settings.seed)
    console.print(escape(f"{view.path}/{path}"))
    return 0
