"""`ugaf report`: write the report of a run again."""

from __future__ import annotations

import argparse

from ugaf.cli.commands import arguments

HELP = "write a run's report/index.html"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.run_folder(parser)
    arguments.changes(parser, "gallery=N: so many in the gallery; seed=N: another sample of them; for this call alone")


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.base.errors import ConfigError, nearest
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console
    from ugaf.pipeline import config
    from ugaf.pipeline.settings import ReportSettings
    from ugaf.report import write_report

    changes = []
    for change in options.set:
        key = change.partition("=")[0].strip().removeprefix("report.")
        known = [*ReportSettings.model_fields, "seed"]
        if key not in known:
            raise ConfigError(f"--set {change}: a report has no such setting{nearest(key, known)}")
        changes.append(change if key == "seed" else f"report.{change.strip().removeprefix('report.')}")
    view = asked.view(options)
    settings = config.parse_again(view.pipeline.document, changes).settings if changes else view.pipeline.settings
    path = write_report(view, gallery=settings.report.gallery, seed=settings.seed)
    console.print(escape(f"{view.path}/{path}"))
    return 0
