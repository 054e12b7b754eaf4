"""Live progress of a run on a terminal; nothing where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ugaf.config import INGEST, Pipeline

Snapshot = Mapping[str, Mapping[str, Any]]


@contextmanager
def show_progress(console: Console, pipeline: Pipeline) -> Iterator[Callable[[Snapshot], None]]:
    """A function that shows a Monitor's snapshot: rows kept, rejected and failed by stage, rate and time left."""
    if not console.is_terminal:
        yield lambda _: None
        return
    began = time.monotonic()
    names = [INGEST, *(spec.name for spec in pipeline.stages)]
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda snapshot: live.update(progress_table(names, snapshot, time.monotonic() - began))


def progress_table(names: list[str], snapshot: Snapshot, elapsed: float) -> Table:
    """Rows done in this session. A stage's time left is that of the rows which the stage before it kept so far."""
    table = Table("stage", box=None, pad_edge=False)
    for column in ("kept", "rejected", "failed", "rows/s", "left"):
        table.add_column(column, justify="right")
    given: int | None = None
    for name in names:
        counts = snapshot.get(name, {})
        done = sum(int(counts.get(verdict, 0)) for verdict in ("kept", "rejected", "failed", "pending"))
        rate = done / elapsed if elapsed > 0 else 0.0
        waiting = max(0, given - done) if given is not None else 0
        left = f"{waiting / rate:.0f} s" if rate and waiting else ""
        numbers = [str(counts.get(verdict, 0)) for verdict in ("kept", "rejected", "failed")]
        table.add_row(name, *numbers, f"{rate:.1f}" if done else "", left)
        given = int(counts.get("kept", 0)) if done else None
    return table
