"""What `ugaf plan` prints: first what there is to do and why, then models and what is missing, then folders."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from ugaf.base.printing import counted
from ugaf.cli.commands.terminal import console
from ugaf.cli.progress.shown import duration
from ugaf.pipeline.config import INGEST


def print_plan(plan: dict[str, Any]) -> None:
    """Print it. plan: see `ugaf.cli.foreseen`."""
    console.print(f"[bold]{escape(plan['pipeline'])}[/] -> {escape(plan['path'])}")
    for line in _first(plan):
        console.print(escape(line))
    _print_models(plan)
    table = Table("segment", "workers", "stage", "folder", "done", "pending", box=None, pad_edge=False)
    for stage in plan["stages"]:
        pending = "not asked for" if stage["pending"] is None else str(stage["pending"])
        if stage["name"] == INGEST and plan["new_sources"]:
            pending += f" + {plan['new_sources']} new"
        cells = (str(stage["segment"]), escape(stage["workers"]), stage["name"], stage["folder"], str(stage["stored"]))
        table.add_row(*cells, pending)
    console.print(table)
    for line in plan["notes"]:
        console.print(escape(line))
    console.print("a stage also gets the rows that the stages before it will keep; nothing was started")


def _first(plan: dict[str, Any]) -> list[str]:
    """What decides: warnings, what is new, what is pending, what computes again."""
    lines = [f"warning: {line}" for line in plan["warnings"]]
    if plan["inputs_missing"]:
        lines.append(plan["inputs_missing"])
    new = plan["new_sources"]
    lines.append(
        f"{new or 'no'} new source{'s' * (new != 1)}; {plan['taken_in']} row{'s' * (plan['taken_in'] != 1)} taken in"
    )
    if plan["not_read"]:
        lines.append(f"not read: {', '.join(f'{what}: {count:,}' for what, count in plan['not_read'].items())}")
    stages = {stage["name"]: stage for stage in plan["stages"]}
    waiting = [_pending(stage) for stage in stages.values() if stage["pending"]]
    lines.append(f"pending: {', '.join(waiting)}" if waiting else "pending: nothing that was taken in")
    for stage in (stage for stage in stages.values() if stage["changed"]):
        why, stored = ", ".join(stage["changed"]), stage["stored"]
        again = (
            f"{counted(stored, 'rows')} of it {'is' if stored == 1 else 'are'} stored so already"
            if stored
            else "computes again"
        )
        if stage["changed"] == ["new in the pipeline"]:
            again = (
                f"{counted(stored, 'rows')} of it {'is' if stored == 1 else 'are'} stored already"
                if stored
                else "nothing of it is stored"
            )
        lines.append(f"{stage['name']}: {again} ({why})")
    return lines


def _pending(stage: dict[str, Any]) -> str:
    time = f" (about {duration(stage['work_s'])} of work at the pace so far)" if stage["work_s"] else ""
    return f"{stage['name']} {stage['pending']}{time}"


def _print_models(plan: dict[str, Any]) -> None:
    table = Table("stage", "engine", "model", "runs on", box=None, pad_edge=False)
    for row in plan["models"]:
        table.add_row(*(escape(row[key]) for key in ("stage", "engine", "model", "runs_on")))
    if table.row_count:
        console.print(table)
        alone = "" if plan["streaming"] else ", one stage at a time"
        console.print(f"{plan['gpus']:g} GPU{'s' * (plan['gpus'] != 1)} at least{alone}")
    for entry in plan["missing_here"]:
        console.print(f"missing here for {', '.join(entry['for'])}: {escape(entry['problem'])}")
