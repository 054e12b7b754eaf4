"""Printing for a person."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table

from ugaf.base.printing import harmless
from ugaf.columns.view import StageCounts


class SafeConsole(Console):
    """Prints no control character of data, wherever it stands: in a line, a table's cell, the live display. Leaves it
    to the command line how a command ends whose reader has gone."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


REASONS = 3
"""Of a stage, so many of the commonest are in the printed funnel."""

console = SafeConsole(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


def failure_lines(counts: Sequence[StageCounts]) -> list[str]:
    """The first failure of each kind by stage, with its file, and what does them again."""
    lines = []
    for stage in counts:
        for kind, example in stage.examples.items():
            message = " ".join(example["message"].split())
            message = message if len(message) <= 300 else f"{message[:300]}..."
            of = f" of {stage.errors[kind]}, the first" if stage.errors[kind] > 1 else ""
            where = example["source"] or example["id"]
            lines.append(f"failed in {stage.name}: 1{of}: {message}" + ("" if where in message else f" ({where})"))
    failed = {stage.name: stage.failed for stage in counts if stage.failed}
    if failed:
        rows = sum(failed.values())
        lines.append(
            f"{rows} row{'s' * (rows != 1)} failed in {', '.join(failed)}: the same command leaves them as they are; "
            "--retry-failed does them again, once the cause is mended"
        )
    return lines


def funnel_table(counts: Sequence[StageCounts]) -> Table:
    """The funnel, reasons below their stage."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("of")
    for name in ("given", "kept", "rejected", "failed", "pending", "rows/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in counts:
        rejected = sum(stage.rejected.values())
        rate = f"{stage.rows / stage.seconds:.1f}" if stage.seconds > 0 else "-"
        numbers = (stage.given, stage.kept, rejected, stage.failed, stage.pending)
        table.add_row(stage.name, f"{stage.level}s", *(str(number) for number in numbers), rate)
        for word, reasons in (("", stage.rejected), ("failed: ", stage.errors)):
            for reason, number in reasons.most_common(REASONS):
                table.add_row(f"  [dim]{escape(word + reason)}[/]", "", "", "", f"[dim]{number}[/]")
            rest = [number for _, number in reasons.most_common()[REASONS:]]
            if rest:
                more = f"{word}and {len(rest)} more (report, `ugaf status --json`)"
                table.add_row(f"  [dim]{more}[/]", "", "", "", f"[dim]{sum(rest)}[/]")
    return table
