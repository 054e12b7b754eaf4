"""What lies under the inputs and became no source: counted by what it is, with one example of each.

A run that reads ten thousand photographs and leaves two thousand .heic files alone must say so. Nothing here stops a
run: what cannot be read although it should be is a failed row, and what makes an input useless is a ConfigError.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ugaf.storage import Storage

FILE = "listing.json"
"""In the run's folder: what the last look at its inputs left out, and the tasks that ugaf has no name for."""

_KINDS = 60
_OTHER = "other things"
_SHOWN = 8
_EXAMPLE = 200


@dataclass
class NotRead:
    """Counts of one listing, by what was left out; the kinds are bounded, whatever lies there."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, example: str, count: int = 1) -> None:
        """Count something left out. what: in the plural, as a person reads it. example: where the first one lies."""
        if what not in self.counts and len(self.counts) >= _KINDS:
            what = _OTHER
        self.counts[what] = self.counts.get(what, 0) + count
        shown = example.encode("utf-8", "backslashreplace").decode()
        self.examples.setdefault(what, shown if len(shown) <= _EXAMPLE else f"{shown[:_EXAMPLE]}...")

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """One line for people, the most frequent kinds first: ".heic files: 12, tables without images: 1"."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{what}: {count:,}" for what, count in ordered[:_SHOWN]]
        rest = len(ordered) - len(named)
        return ", ".join(named) + (f" and {rest} kinds more" if rest else "")

    def clear(self) -> None:
        """Begin again, for another listing."""
        self.counts.clear()
        self.examples.clear()

    def document(self) -> list[dict[str, Any]]:
        """Plain data for the run's record: {what, count, example}, sorted by what."""
        return [
            {"what": what, "count": self.counts[what], "example": self.examples[what]} for what in sorted(self.counts)
        ]


def suffix_kind(suffix: str) -> str:
    """A suffix of the data as a kind of thing: itself, or "odd" for what no format is called."""
    lower = suffix.lower()
    return lower if re.fullmatch(r"\.[a-z0-9_+-]{1,16}(\.[a-z0-9_+-]{1,16})?", lower) else "odd"


def save(storage: Storage, not_read: NotRead | None = None, tasks: dict[str, int] | None = None) -> dict[str, Any]:
    """Keep what a listing left out (and the unknown tasks) in the run's folder; what is None stays as it was.

    Returns what stands there then: {"not_read": [...], "unknown_tasks": {task: pairs}}, without what is empty.
    """
    known: dict[str, Any] = {}
    if storage.exists(FILE):
        known = json.loads(storage.read(FILE))
    now = dict(known)
    if not_read is not None:
        now["not_read"] = not_read.document()
    if tasks is not None:
        now["unknown_tasks"] = tasks
    now = {name: value for name, value in now.items() if value}
    if now != known:
        storage.write(FILE, json.dumps(now, indent=1, sort_keys=True).encode())
    return now
