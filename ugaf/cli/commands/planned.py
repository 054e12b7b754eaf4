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
    if "estimate" in plan:
        _print_estimate(plan["estimate"])
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
        alone = "" if plan["streaming"] is True or plan["gpus"] == plan["gpus_together"] else ", one stage at a time"
        more = f"; {plan['gpus_together']:g} for all side by side" if alone and plan["streaming"] else ""
        console.print(f"{plan['gpus']:g} GPU{'s' * (plan['gpus'] != 1)} at least{alone}{more}")
    for entry in plan["missing_here"]:
        console.print(f"missing here for {', '.join(entry['for'])}: {escape(entry['problem'])}")


def _print_estimate(found: dict[str, Any]) -> None:
    machine, off = found["machine"], found["uncertainty"]
    nodes = f" on nodes of {machine['node_gpus']:g}" if machine["gpus"] > machine["node_gpus"] else ""
    where = f"{counted(int(machine['gpus']), 'GPUs')}{nodes} and {machine['cpus']:g} CPUs"
    console.print(f"\n[bold]estimate[/] for {counted(found['rows'], 'rows')} to take in, on {where}")
    table = Table("wave", "stage", "workers", box=None, pad_edge=False)
    for column in ("rows", "s a row", "from", "GPU-hours", "%"):
        table.add_column(column, justify="left" if column == "from" else "right")
    for row in found["stages"]:
        lane = f"[{row['lane']}]" if row["lane"] else ""
        rows = f"{'~' if row['rows_from'] == 'guess' else ''}{row['rows']:,}"
        hours = (f"{row['gpu_hours']:,.1f}", f"{100 * row['share']:.0f}") if row["gpus"] else ("", "")
        cells = (row["workers"], rows, f"{row['seconds_a_row']:g}", row["cost_from"], *hours)
        table.add_row(str(row["segment"]), escape(row["name"] + lane), *map(escape, cells))
    console.print(table)
    low, high = (_hours(found[key]) for key in ("hours_low", "hours_high"))
    start = f", {_hours(found['start_hours'])} of it to load models" if found["start_hours"] else ""
    console.print(f"{_hours(found['hours'])} in all ({low} to {high}: good to about {100 * off:.0f} %){start}")
    if found["bound"]:
        console.print(escape(f"bound by {found['bound']}"))
    if machine["gpus"]:
        paid, work = found["gpu_hours"], found["gpu_hours_at_work"]
        money = f"; {found['money']:,.0f} at {found['price']:g} a GPU-hour" if found["money"] is not None else ""
        busy = f", of which {100 * min(1.0, work / paid):.0f} % at work" if paid else ""
        console.print(f"{paid:,.1f} GPU-hours{busy}{money}")
    if found["tokens_in"] or found["tokens_out"]:
        console.print(
            f"tokens: {found['tokens_in'] / 1e6:,.1f} million in, {found['tokens_out'] / 1e6:,.1f} million out"
        )
    columns, shards = found["columns_gb"], found["shards_gb"]
    console.print(f"disk: {columns:,.1f} GB of columns, {shards:,.1f} GB of shards ({found['bytes_from']})")
    for entry in found["licences"]:
        if entry["outputs"] != "free":
            terms = f": {entry['terms']}" if entry["terms"] else ""
            console.print(escape(f"licence of {entry['model']} ({entry['stages']}): {entry['licence']}{terms}"))


def _hours(hours: float) -> str:
    return duration(hours * 3600)
