"""`ugaf export`: write the shards of a run again."""

from __future__ import annotations

import argparse

from ugaf.cli.commands import arguments

HELP = "write a run's shards and dataset card"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)
    arguments.changes(parser, "an export setting; it holds for later exports of this run, too")
    arguments.replace_shards(parser)
    arguments.wait(parser)


def run(options: argparse.Namespace) -> int:
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.exported import PREFIX, asked_settings, write_shards
    from ugaf.cli.commands.terminal import console
    from ugaf.columns import lease
    from ugaf.export import earlier
    from ugaf.pipeline import config

    view = asked.view(options)
    with (
        lease.scope("ugaf export", options.wait, lambda line: console.print(line, markup=False)),
        lease.held(view.storage, "ugaf export") as mine,
    ):
        view = asked.view(options) if mine.waited else view
        changes = [f"{PREFIX}{change.removeprefix(PREFIX)}" for change in options.set]
        document = {**view.pipeline.document, "export": earlier.remembered(view).model_dump(mode="json")}
        settings = config.parse_again(document, changes).settings.export
        write_shards(view, settings, replace=options.replace_shards, asked=asked_settings(changes))
    return 0
