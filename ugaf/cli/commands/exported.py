"""Writing a run's shards from the command line: what earlier calls asked for holds, and what goes is said before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from ugaf.cli.commands.terminal import console
from ugaf.export import ExportSettings, ExportSummary, earlier, export

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

PREFIX = "export."


def asked_settings(changes: Sequence[str]) -> set[str]:
    """Names of the export settings among `--set` changes of a pipeline ("export.balance.by=task": balance)."""
    keys = [change.partition("=")[0].strip() for change in changes]
    return {key.removeprefix(PREFIX).split(".")[0] for key in keys if key.startswith(PREFIX)}


def _print(line: str) -> None:
    console.print(escape(line))


def write_shards(
    view: RunView,
    settings: ExportSettings,
    *,
    replace: bool,
    asked: Collection[str] = (),
    note: Callable[[str], None] = _print,
    say: Callable[[str], None] = _print,
    progress: Callable[[int], None] | None = None,
) -> ExportSummary:
    """Export, and print what is replaced before and what came of it after. See `ugaf.export.export`.

    note: gets what is replaced. say: gets what came of it.
    """
    if told := earlier.described(view, settings):
        note(told)
    summary = export(view, settings, progress, replace=replace, asked=asked, notify=note)
    what, *more = str(summary).splitlines()
    say(f"shards  {view.path}/{summary.root}  ({what})")
    for line in more:
        say(f"        {line}")
    return summary
