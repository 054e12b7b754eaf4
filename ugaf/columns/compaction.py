"""Small parts become one.

Units of work are committed as they are done, so a fragment of a slow stage has a part of every minute. When they are
done, its small parts are joined: the new part is there before the old ones go, and while both are, each row is read of
either, for they say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa

from ugaf.columns.code_digest import FACT
from ugaf.columns.parts import Columns, attempt_of, read_part, winning
from ugaf.storage.stamps import stamped

SMALL_BYTES = 16 << 20
"""Parts from this size on stay as they are: to read them costs no more than to read a larger one."""


def to_join(columns: Columns, stages: Sequence[str], fragments: Collection[str]) -> list[tuple[str, str]]:
    """(stage, fragment) of those of these fragments that have several parts of one attempt, for `compact`."""
    return [
        (stage, fragment)
        for stage in stages
        for fragment, parts in columns.parts_of_all(stage).items()
        if fragment in fragments and max(Counter(map(attempt_of, parts)).values()) > 1
    ]


def compact(columns: Columns, stage: str, fragment: str) -> int:
    """Join the small parts of a stage in a fragment, those of one attempt by one code. Returns how many are gone.

    Nobody may be writing into that fragment: the caller holds the run, and its workers have ended.
    """
    gone = 0
    for paths in _groups(columns, stage, fragment):
        alike: dict[str, dict[str, pa.Table]] = {}
        for path in paths:
            table = read_part(columns.storage, path, lambda file: file.read(use_threads=False))
            alike.setdefault((table.schema.metadata or {}).get(FACT, b"").decode(), {})[path] = table
        for code, parts in alike.items():
            if len(parts) > 1:
                gone += _join(columns, stage, fragment, attempt_of(paths[0]), code, parts)
    return gone


def _join(columns: Columns, stage: str, fragment: str, attempt: int, code: str, parts: Mapping[str, pa.Table]) -> int:
    seconds = sum(float((table.schema.metadata or {}).get(b"ugaf.seconds", b"0")) for table in parts.values())
    whole = pa.concat_tables([table.replace_schema_metadata(None) for table in parts.values()])
    joined = winning(stage, whole, pa.chunked_array([pa.array([attempt] * whole.num_rows, pa.int32())]))
    new = columns.part_path(stage, fragment, joined, attempt)
    if columns.storage.exists(new):
        # Written before a break, or another one of these rows: that must not take the place of all.
        there = read_part(columns.storage, new, lambda file: file.read(use_threads=False))
        if not there.replace_schema_metadata(None).equals(joined):
            return 0
    else:
        columns.put(stage, fragment, joined, attempt, seconds, code)
    old = [path for path in parts if path != new]
    for path in old:
        columns.storage.remove(path)
    return len(old)


def _groups(columns: Columns, stage: str, fragment: str) -> Iterator[list[str]]:
    """The small parts of one attempt, as many together as `flush_mb` allows; only where there are several."""
    folder = f"{columns.folder(stage)}/{fragment}"
    limit = columns.pipeline.settings.engine.flush_mb << 20
    group, total = list[str](), 0
    for name, (size, _) in sorted(stamped(columns.storage, folder).items()):
        if not name.endswith(".parquet") or size >= SMALL_BYTES:
            continue
        if group and (total + size > limit or attempt_of(name) != attempt_of(group[0])):
            if len(group) > 1:
                yield group
            group, total = [], 0
        group.append(f"{folder}/{name}")
        total += size
    if len(group) > 1:
        yield group
