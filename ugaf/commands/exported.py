"""Writing a run's shards from the command line: what earlier calls asked for holds, and what goes is said before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from ugaf.commands.terminal import console
from ugaf.export import ExportSettings, ExportSummary, earlier, export

if TYPE_CHECKING:
    from ugaf.view import RunView

PREFIX = "export."


def asked_settings(changes: Sequence[str]) -> set[str]:
    """Names of the export settings among `--set` changes of a pipeline ("export.balance.by=task": balance)."""
    keys = [change.partition("=")[0].strip() for change in changes]
    return {key.removeprefix(PREFIX).split(".")[0] for key in keys if key.startswith(PREFIX)}


def write_shards(
    view: RunView, settings: ExportSettings, *, replace: bool, asked: Collection[str] = ()
) -> ExportSummary:
    """Export, and print what is replaced before and what came of it after. See `ugaf.export.export`."""
    if told := earlier.described(view, settings):
        console.print(escape(told))
    summary = export(view, settings, replace=replace, asked=asked, notify=lambda line: console.print(escape(line)))
    console.print(f"shards  {escape(f'{view.path}/{summary.root}')}  ({escape(str(summary))})")
    return summary
