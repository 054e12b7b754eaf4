"""What `ugaf status` says of a run: who works on it, its funnel, its shards. The shape of `--json` is documented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ugaf.cli.estimated import left
from ugaf.cli.progress.files import last_call, timestamp
from ugaf.cli.progress.shown import duration
from ugaf.columns.view import RunView, StageCounts
from ugaf.export.earlier import remembered
from ugaf.export.folder import read_manifest
from ugaf.export.products import products
from ugaf.storage import Storage


def document(view: RunView, counts: Sequence[StageCounts]) -> dict[str, Any]:
    """Plain data, for JSON. state: that of the last call, "running", "done", "stopped" or "lost" (it ended without a
    word: killed, or its machine); "unknown" where no call left a `progress.json`."""
    call = last_call(view.storage)
    state = "unknown" if call is None else str(call.document.get("state"))
    if call is not None and state == "running" and not call.at_work:
        state = "lost"
    return {
        "name": view.name,
        "path": view.path,
        "when": timestamp(),
        "state": state,
        "call": None if call is None else {**call.document, "heartbeat_age_s": round(call.age_s, 1)},
        "left": left_of(view, counts),
        "stages": [stage.as_dict() for stage in counts],
        **_shards(view),
    }


def left_of(view: RunView, counts: Sequence[StageCounts]) -> dict[str, Any] | None:
    """What the run has still to do, on what its last call ran on; None if nothing."""
    call = last_call(view.storage)
    return left(view, counts, None if call is None else call.document.get("machine"))


def left_text(found: dict[str, Any]) -> str:
    """One line."""
    work = f"{found['gpu_hours']:,.1f} GPU-hours" if found["gpu_hours"] else f"{found['cpu_hours']:,.1f} CPU-hours"
    parts = [f"left to do: {work} of work"]
    if found["hours"] is not None:
        parts.append(f"about {duration(3600 * found['hours'])} on what the last call ran on")
        parts.append(f"bound by {found['bound']}")
    return ", ".join(parts) + f" (good to about {100 * found['uncertainty']:.0f} %)"


def last_call_text(storage: Storage) -> str:
    """One line: the call that is at work, or how the last one ended."""
    call = last_call(storage)
    if call is None:
        return "no call has left word of what it did"
    said, ago = call.document, f"{duration(call.age_s)} ago"
    if call.at_work:
        left = f", {duration(said['left_s'])} left" if said.get("left_s") is not None else ""
        return f"at work: {call.here}, {said.get('doing')}{left}; last heartbeat {ago}"
    if said.get("state") == "running":
        return f"the last call ended without a word: {call.here}, {said.get('doing')}; last heartbeat {ago}"
    end = f"{said.get('state')} {ago}, exit code {said.get('exit_code')}"
    return f"the last call: {end}" + (f": {said['message']}" if said.get("message") else "")


def _shards(view: RunView) -> dict[str, Any]:
    """`shards`: what is exported, a folder each. left_out: kept rows that are not in it, by reason."""
    shards: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for product in products(view, remembered(view)):
        manifest = read_manifest(view.storage, product.root)
        if manifest is not None:
            rows, files = manifest["counts"]["split"], manifest["files"]
            shards.append({"path": product.root, "of": product.noun, "rows": rows})
            shards[-1] |= {"files": len(files), "bytes": sum(files.values())}
            left_out.update(manifest["left_out"])
    return {"shards": shards, "left_out": dict(left_out)}
