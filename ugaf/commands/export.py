"""`ugaf export`: write the shards of a run again."""

from __future__ import annotations

import argparse

from ugaf.commands import arguments

HELP = "write a run's shards and dataset card"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)
    arguments.changes(parser, "an export setting")


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf import config
    from ugaf.commands import asked
    from ugaf.commands.terminal import console
    from ugaf.export import export
    from ugaf.view import RunView

    view = RunView(asked.find_run(options.run))
    pipeline = config.parse(view.pipeline.document, [f"export.{change}" for change in options.set])
    console.print(escape(f"{view.path}/shards: {export(view, pipeline.settings.export)}"))
    return 0
