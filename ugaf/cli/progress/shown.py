"""A run's state as words: plain lines, a table for a terminal, data for programs."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ugaf.cli.progress.tracker import StageState, State


def duration(seconds: float) -> str:
    """`8 s`, `12 min`, `3 h 20 min`, `2 d 4 h`: as exact as one wants to know it."""
    if seconds < 99.5:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def pace(rate: float) -> str:
    """Rows a second; a minute or an hour where they are few."""
    if rate >= 0.995:
        return f"{rate:,.0f} rows/s" if rate >= 99.5 else f"{rate:.1f} rows/s"
    return f"{rate * 60:.1f} rows/min" if rate * 60 >= 0.995 else f"{rate * 3600:.1f} rows/h"


def line(state: State) -> str:
    """What is going on in one line: the stage that takes longest, or else the one that works."""
    working = [stage for stage in state.stages if stage.state == "running"]
    shown = next((stage for stage in working if stage.name == state.bounds), working[-1] if working else None)
    if shown is None:
        return f"{state.doing}, for {duration(state.doing_s)} so far"
    parts = [f"{shown.name} {_of(shown)}", f"{pace(shown.rate)} now" if shown.done else "no row yet"]
    if not shown.done:
        parts[-1] += f" after {duration(state.doing_s)}"
    if state.left_s is not None:
        parts.append(f"{duration(state.left_s)} left")
    parts.append(f"{state.failed:,} failed")
    if state.bounds and len(working) > 1:
        others = len(working) - 1
        parts.append(f"it bounds the {others} other{'s' * (others > 1)} at work")
    return ", ".join(parts)


def stage_line(stage: StageState) -> str:
    """What a stage has done in this call, when it is done."""
    spent = f" in {duration(stage.seconds)} ({pace(stage.average)})" if stage.seconds >= 1 else ""
    counts = [f"{n:,} {verdict}" for n, verdict in _verdicts(stage) if n]
    return f"{stage.name} done: {stage.done:,} row{'s' * (stage.done != 1)}{spent}" + (
        f": {', '.join(counts)}" if counts else ""
    )


def table(state: State) -> Table:
    """The rows of this call by stage. rows/s: since the stage began. left: at the rate of now."""
    shown = Table("stage", box=None, pad_edge=False)
    for column in ("kept", "rejected", "failed", "done", "of", "%", "rows/s", "left"):
        shown.add_column(column, justify="right", no_wrap=True)
    for stage in state.stages:
        numbers = [f"{number:,}" for number, _ in _verdicts(stage)]
        of = f"{'~' if stage.expected > stage.known else ''}{stage.expected:,}" if stage.expected else ""
        percent = f"{100 * stage.done / stage.expected:.0f}" if stage.expected else ""
        rate = pace(stage.average).removesuffix(" rows/s") if stage.done else ""
        left = duration(stage.left_s) if stage.left_s is not None else ("done" if stage.state == "done" else "")
        shown.add_row(stage.name, *numbers, f"{stage.done:,}", of, percent, rate, left)
    overall = f"{state.doing}, {duration(state.doing_s)}"
    if state.left_s is not None:
        overall += f"; {duration(state.left_s)} left"
        overall += f", bound by {state.bounds}" if state.bounds else ""
    shown.caption, shown.caption_justify = overall, "left"
    return shown


def document(state: State) -> dict[str, Any]:
    """As `progress.json` has it."""
    return {
        "doing": state.doing,
        "doing_s": round(state.doing_s, 1),
        "stage": state.bounds or next((s.name for s in reversed(state.stages) if s.state == "running"), None),
        "left_s": None if state.left_s is None else round(state.left_s, 1),
        "failed": state.failed,
        "stages": [_stage_document(stage) for stage in state.stages if stage.done or stage.expected],
    }


def _stage_document(stage: StageState) -> dict[str, Any]:
    numbers = {name: getattr(stage, name) for name in ("done", "known", "expected", "kept", "rejected", "failed")}
    left = None if stage.left_s is None else round(stage.left_s, 1)
    return {"name": stage.name, "state": stage.state, **numbers, "rate": float(f"{stage.rate:.4g}"), "left_s": left}


def _of(stage: StageState) -> str:
    about = "~" if stage.expected > stage.known else ""
    percent = f" ({100 * stage.done / stage.expected:.0f} %)" if stage.expected else ""
    return f"{stage.done:,} of {about}{stage.expected:,}{percent}"


def _verdicts(stage: StageState) -> list[tuple[int, str]]:
    return [(stage.kept, "kept"), (stage.rejected, "rejected"), (stage.failed, "failed")]
