"""Printing for a person."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ugaf.view import StageCounts

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


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
        reasons = [*stage.rejected.most_common(3), *((f"failed: {k}", n) for k, n in stage.errors.most_common(3))]
        for reason, number in reasons:
            table.add_row(f"  [dim]{escape(reason)}[/]", "", "", "", f"[dim]{number}[/]")
    return table
