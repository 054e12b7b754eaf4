"""What a benchmark asks for: its items, read light; their pictures only when their turn comes."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ugaf.base.errors import ConfigError
from ugaf.stage import Failure

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Item:
    """One edit to make and to score.

    Attributes:
        id: unique in the benchmark, and the name under which people know it.
        group: its type or task, in which scores are averaged.
        instruction, language: what is asked for, and "en" or "cn".
        outputs: names (without extension) under which an edited picture of it may lie in a folder of outputs.
        boxes, reference: targets as they stand in the data (see `ugaf.ingest.pair_cells.parse_boxes`), or None.
        text: what an edited picture has to say, where the data tells it.
        where: for the benchmark's own `read`.
    """

    id: str
    group: str
    instruction: str
    language: str = "en"
    outputs: tuple[str, ...] = ()
    boxes: Any = None
    reference: Any = None
    text: str | None = None
    where: Any = None

    @property
    def key(self) -> str:
        """A file name, unique to the id and to what is asked for: another data set never meets this one's files."""
        told = json.dumps([self.id, self.group, self.language, self.instruction])
        return f"{_UNSAFE.sub('_', self.id)[:80]}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures of an item: the source, and the edited one where the data has it."""

    source: bytes
    edited: bytes | None = None


@dataclass(frozen=True)
class Benchmark:
    """Items in a fixed order, and how their pictures are read: for each item, in order, Pictures or why not."""

    items: tuple[Item, ...]
    read: Callable[[Sequence[Item]], Iterator[Pictures | Failure]]

    def checked(self, where: str, limit: int | None) -> Benchmark:
        """Itself, with the first `limit` items of each group and language. Raises ConfigError: none, an id twice."""
        if not self.items:
            raise ConfigError(f"--data: {where}: no items in it")
        twice = [id for id, count in Counter(item.id for item in self.items).items() if count > 1]
        if twice:
            raise ConfigError(f"--data: {where}: the id {twice[0]!r} stands there more than once")
        seen: Counter[tuple[str, str]] = Counter()
        kept = []
        for item in self.items:
            seen[item.language, item.group] += 1
            if limit is None or seen[item.language, item.group] <= limit:
                kept.append(item)
        return Benchmark(tuple(kept), self.read)


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Runs of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
