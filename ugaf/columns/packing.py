"""What is packed of a fragment (see `ugaf.columns.packs`): the columns by which rows are judged, found and counted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ugaf.columns import keys
from ugaf.columns.code_digest import FACT
from ugaf.columns.origins import Runs, runs_of
from ugaf.columns.packs import Read
from ugaf.columns.parts import CHILDREN, REFS, SOURCES, Columns, children_table, heavy_columns, part_schema
from ugaf.columns.tombstones import buried_id, buried_in
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec
from ugaf.pipeline.rules import DISTINCT

ROWS, KIDS, NAMES = "rows", "children", "names"
END = b"\0"
"""Between two names of sources."""


def wanted(pipeline: Pipeline, stage: str) -> list[str]:
    """Columns of a stage that rules are about, or choose the best of a cluster by; of pairs their tasks."""
    spec = None if stage == INGEST else pipeline.stage(stage)
    own = part_schema(pipeline, stage)
    light = set(own.names) - {"id", "error", CHILDREN, *heavy_columns(own)}
    found = ["task"] * pipeline.is_pairs if spec is None else [rule.column for rule in spec.rules]
    for other in pipeline.stages:
        for rule in other.rules:
            found += rule.bound.columns if rule.kind == DISTINCT else ()
    return sorted({name for name in found if name in light and pipeline.providers.get(name) == stage})


def read_stage(columns: Columns, spec: StageSpec, fragment: str, parts: Sequence[str], names: Sequence[str]) -> Read:
    """A stage's rows: `id`, `error`, these columns; of one that fans out `empty` and, apart, its edits by their row."""
    fans_out = spec.cls.fans_out
    table, facts = columns.light(spec.name, fragment, [CHILDREN] if fans_out else names, parts)
    out = {"id": _ids(table), "error": table.column("error")}
    sections = {}
    if fans_out:
        out["empty"] = pa.array([not made for made in table.column(CHILDREN).to_pylist()], pa.bool_())
        edits = children_table(table, spec)
        place = {key: number for number, key in enumerate(table.column("id").to_pylist())}
        of = pa.array([place[key] for key in edits.column("parent").to_pylist()], pa.int32())
        sections[KIDS] = pa.table({"id": _ids(edits), "row": of})
    else:
        out |= {name: table.column(name) for name in names}
    return Read(_facts(facts), {ROWS: pa.table(out), **sections}, len(parts))


def read_ingest(columns: Columns, fragment: str, parts: Sequence[str], names: Sequence[str]) -> Read:
    """Ingest's rows, with the number of the input of each (by its first source, -1: none), `gone` where another row has
    taken its place, the beginning of the id that it would be withdrawn by, and of a failed one digests of its sources'
    names; apart, the names of all sources."""
    own = part_schema(columns.pipeline, INGEST).names
    asked = [REFS, *([SOURCES] if SOURCES in own else []), *names]
    table, facts = columns.light(INGEST, fragment, asked, parts)
    origins = columns.origins(fragment)
    ends = np.cumsum([count for _, count in origins])
    ids = table.column("id").to_pylist()
    failed = [error is not None for error in table.column("error").to_pylist()]
    refs = [positions or [] for positions in table.column(REFS).to_pylist()]
    read = {place for places in refs for place in places}
    good = {place for places, bad in zip(refs, failed, strict=True) if not bad for place in places}
    unread = [place for place in range(sum(count for _, count in origins)) if place not in read]
    first = np.array([min(places, default=-1) for places in refs], dtype=np.int64)
    of = np.where(first < 0, -1, np.searchsorted(ends, first, side="right")) if len(first) else first
    out = {
        "id": _ids(table),
        "error": table.column("error"),
        "origin": pa.array(of.astype(np.int32)),
        "gone": pa.array([bad and good.issuperset(at) for bad, at in zip(failed, refs, strict=True)], pa.bool_()),
        "stone": pa.array([int(buried_id(key)[:8], 16) for key in ids], pa.uint32()),
        **{name: table.column(name) for name in names},
    }
    if SOURCES in own:
        rows = zip(failed, table.column(SOURCES).to_pylist(), strict=True)
        of_failed = [[name_digest(name) for name in called or ()] if bad else None for bad, called in rows]
        out["failed"] = pa.array(of_failed, pa.list_(pa.uint64()))
    called = [name for of_row in table.column(SOURCES).to_pylist() for name in of_row or ()] if SOURCES in own else []
    if unread:
        rows = columns.sources(fragment, ["uri", "member"]).take(unread).to_pylist()
        called += [f"{row['uri']}#{row['member']}" if row["member"] else row["uri"] for row in rows]
    told = {**_facts(facts), "unread": len(unread), "runs": runs_text(origins)}
    return Read(told, {ROWS: pa.table(out), NAMES: _names(called)}, len(parts) + 1)


def read_sources(columns: Columns, fragment: str) -> Read:
    """What was cut into a fragment: for each source a digest by which it is known when it is listed again (none for one
    that was withdrawn), the number of its input, and a shorter digest of its name."""
    table = columns.sources(fragment, ["uri", "member", "version"])
    runs = runs_of(table.schema.metadata, table.num_rows)
    digests, called = [], []
    for uri, member, version in zip(*(column.to_pylist() for column in table.columns), strict=True):
        digests.append(None if buried_in([uri]) is not None else source_digest(uri, member, version))
        called.append(name_digest(f"{uri}#{member}" if member else uri))
    of = np.repeat(np.arange(len(runs), dtype=np.int32), [count for _, count in runs])
    out = {"digest": pa.array(digests, pa.binary(16)), "origin": of, "name": pa.array(called, pa.uint64())}
    return Read({"runs": runs_text(runs)}, {ROWS: pa.table(out)}, 1)


def source_digest(*texts: str) -> bytes:
    """16 bytes that stand for a source: for its uri, member and version."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()


def name_digest(name: str) -> int:
    """64 bits that stand for a source's name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def runs_text(runs: Runs) -> str:
    return json.dumps([(origin.name, origin.place, count) for origin, count in runs])


def _facts(facts: Sequence[Mapping[bytes, bytes]]) -> dict[str, object]:
    made_by = Counter(fact[FACT].decode() for fact in facts if FACT in fact)
    seconds = sum(float(fact.get(b"ugaf.seconds", 0)) for fact in facts)
    return {"seconds": float(seconds), "made_by": json.dumps(made_by) if made_by else ""}


def _ids(table: pa.Table) -> pa.Array:
    column = table.column("id")
    if len(column) and pc.min_max(pc.binary_length(column)).as_py() != {"min": 32, "max": 32}:
        raise keys.OtherIdsError
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.string())
    offset = np.frombuffer(array.buffers()[1], np.int32, 1, 4 * array.offset)[0] if len(array) else 0
    if not len(array):
        return pa.array([], keys.TYPE)
    return keys.of_digits(np.frombuffer(array.buffers()[2], "S32", len(array), int(offset))).column()


def _names(called: Sequence[str]) -> pa.Table:
    text = END.join(name.encode() for name in called)
    return pa.table({"names": pa.array([text], pa.large_binary())})
