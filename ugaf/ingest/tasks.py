"""Tasks of a pair set that are none of ours, counted, to be named where its rows are."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ugaf.base import tasks

_NAMED = 100


def unknown(given: Iterable[str | None]) -> dict[str, int]:
    """How often each task that is none of ours comes, the most frequent first; up to a hundred of them."""
    counts: dict[str, int] = {}
    for task in given:
        if task and task not in tasks.TASKS:
            shown = re.sub(r"[^\w .,:/+-]", "?", task)[:60]
            if shown in counts or len(counts) < _NAMED:
                counts[shown] = counts.get(shown, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
