"""Light columns of one shard: what the plan needs of each sample, and the bounds of `where`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ugaf.base.errors import ConfigError, nearest
from ugaf.pipeline import rules
from ugaf.trainer.data import wording
from ugaf.trainer.data.draws import keys_of
from ugaf.trainer.data.settings import DataSettings
from ugaf.trainer.data.shards import Chunk, LeftOut, Light, Shard

RUN_ROWS, RUN_BYTES = 100, 32_000_000
"""Most samples, and bytes, of a run of tar members that is read at once; as the row groups of an export."""
REQUIRED = ("id", "width", "height")
_ROW_KINDS = ("min", "max", "equals", "one_of", "none_of")


class UnreadableShardError(Exception):
    """A shard that is not what its name says; the message says why."""


@dataclass
class Found:
    """What one shard has. rows: samples in it, before any is filtered."""

    parts: list[Light] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    rows: int = 0


def read(shard: Shard, number: int, settings: DataSettings) -> Found:
    """Light columns of a shard, which is the `number`-th.

    Raises OSError, ArrowException or UnreadableShardError for one that cannot be read, ConfigError for columns that are
    missing.
    """
    return _parquet(shard, number, settings) if shard.name.endswith(".parquet") else _tar(shard, number, settings)


def heavy_leaves(schema: pa.Schema, settings: DataSettings) -> list[str]:
    """Columns of a Parquet shard that a sample is made of."""
    names = ["id", "width", "height", "register", "source", "edited", "boxes", "bbox", *settings.instructions.columns]
    return [name for name in [*names, settings.references or ""] if name in schema.names]


def _parquet(shard: Shard, number: int, settings: DataSettings) -> Found:
    with shard.open() as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
        schema, found = file.schema_arrow, Found()
        _check_columns(schema.names, shard, settings)
        columns = [*REQUIRED, *(["split"] if "split" in schema.names else []), *settings.where]
        if settings.alignment.drop and settings.references:
            columns += [name for name in settings.instructions.columns if name in schema.names]
        counted = _counting_leaf(file, settings)
        table = file.read(columns=list(dict.fromkeys([*columns, *counted])), use_threads=False)
        heavy = heavy_leaves(schema, settings)
        start = 0
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            leaves = (metadata.column(position) for position in range(metadata.num_columns))
            size = sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.split(".")[0] in heavy)
            rows = table.slice(start, metadata.num_rows)
            references = _lengths(rows, settings) if counted else np.zeros(len(rows), dtype=np.uint8)
            where = f"{shard.name}, row group {group}"
            found.parts.append(_light(rows, references, Chunk(number, group, size), where, settings, found.left_out))
            start += metadata.num_rows
        found.rows = start
        return found


def _check_columns(names: Sequence[str], shard: Shard, settings: DataSettings) -> None:
    missing = [name for name in (*REQUIRED, "source", "edited") if name not in names]
    if missing:
        raise ConfigError(f"{shard.path}: no column {', '.join(missing)}; it has {', '.join(names)}")
    if not set(settings.instructions.usable()) & set(names):
        wanted, there = ", ".join(settings.instructions.usable()), ", ".join(names)
        raise ConfigError(f"{shard.path}: none of the columns of data.instructions ({wanted}); it has {there}")
    for column in settings.where:
        if column not in names:
            raise ConfigError(f"data.where.{column}: {shard.path} has no such column{nearest(column, names)}")
    if settings.references is not None and settings.references not in names:
        near = nearest(settings.references, names)
        raise ConfigError(f"data.references: {shard.path} has no column {settings.references!r}{near}")


def _counting_leaf(file: pq.ParquetFile, settings: DataSettings) -> list[str]:
    """The leaf of the references' column from which they can be counted: not the bytes, where there is another."""
    if settings.references is None:
        return []
    paths = [file.schema.column(position).path for position in range(len(file.schema))]
    own = [path for path in paths if path.split(".")[0] == settings.references]
    return [next((path for path in own if not path.endswith("bytes")), own[0])]


def _lengths(rows: pa.Table, settings: DataSettings) -> np.ndarray:
    lengths = pc.fill_null(pc.list_value_length(rows.column(settings.references)), 0)
    return np.minimum(lengths.to_numpy(), settings.max_references).astype(np.uint8)


def _light(
    rows: pa.Table, references: np.ndarray, chunk: Chunk, where: str, settings: DataSettings, left_out: LeftOut
) -> Light:
    """The rows of one chunk that are wanted and can be used."""
    wanted = _wanted(rows, settings)
    numbers = {name: _whole(rows.column(name)) for name in ("width", "height")}
    ids = rows.column("id").to_pylist()
    named = np.array([name is not None for name in ids], dtype=bool)
    usable = wanted & named & (numbers["width"] > 0) & (numbers["height"] > 0)
    for row in np.flatnonzero(wanted & ~usable).tolist():
        size = f"{rows.column('width')[row]} x {rows.column('height')[row]}"
        left_out.add(f"{where}, sample {row}", f"id {ids[row]}, size {size}: an index needs both")
    local = np.flatnonzero(usable)
    needed = np.zeros(len(local), dtype=np.uint8)
    if settings.alignment.drop and references.any():
        needed = _needed(rows.take(local), references[local], settings)
    return Light(
        keys_of(str(ids[row]) for row in local), numbers["width"][local], numbers["height"][local],
        references[local], needed, local, chunk,
    )  # fmt: skip


def _whole(column: pa.ChunkedArray) -> np.ndarray:
    """int64 (n,), 0 where there is nothing."""
    return pc.fill_null(column.cast(pa.int64(), safe=False), 0).to_numpy()


def _wanted(rows: pa.Table, settings: DataSettings) -> np.ndarray:
    """bool (n,): in the split and within the bounds. A row of no known split is a training sample."""
    wanted = np.ones(len(rows), dtype=bool)
    if settings.split is not None and "split" in rows.column_names:
        splits = pc.fill_null(rows.column("split").cast(pa.string()), "train")
        wanted &= np.asarray(pc.equal(splits, settings.split))
    if settings.where:
        wanted &= rules.judge(_rules(rows.schema, settings), rows) < 0
    return wanted


def _rules(schema: pa.Schema, settings: DataSettings) -> tuple[rules.Rule, ...]:
    for column, kinds in settings.where.items():
        for kind in kinds:
            if kind not in _ROW_KINDS:
                raise ConfigError(f"data.where.{column}.{kind}: unknown bound{nearest(kind, _ROW_KINDS)}")
    # A missing value breaks no rule; where all are missing, their type is not known either.
    bounds = {name: value for name, value in settings.where.items() if not pa.types.is_null(schema.field(name).type)}
    try:
        return rules.parse(bounds, schema, "data")
    except ConfigError as error:
        raise ConfigError(str(error).replace("data.keep.", "data.where.")) from error


def _needed(rows: pa.Table, references: np.ndarray, settings: DataSettings) -> np.ndarray:
    needed = np.zeros(len(rows), dtype=np.uint8)
    for name in settings.instructions.columns:
        if name in rows.column_names:
            for row, text in enumerate(rows.column(name).to_pylist()):
                needed[row] |= wording.named(text, settings.alignment.first, int(references[row]))
    return needed


@dataclass
class Sample:
    """Members of a tar that belong together, by what follows the first dot of their names: (start of data, bytes)."""

    key: str
    start: int
    stop: int = 0
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


def tar_samples(tar: tarfile.TarFile) -> Iterator[Sample]:
    """Samples of an open tar, by WebDataset's rule: neighbours whose names are the same up to the first dot.

    Raises tarfile.TarError where it is damaged or ends early, behind the samples before.
    """
    sample: Sample | None = None
    for member in tar:
        if not member.isfile():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key, member.offset)
        sample.members[suffix] = (member.offset_data, member.size)
        sample.stop = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    if sample is not None:
        yield sample


def reference_members(sample: Sample, settings: DataSettings) -> list[str]:
    """Suffixes of the reference images of a sample, in the order of their numbers: reference0.jpg, reference1.png."""
    if settings.references is None:
        return []
    numbered = []
    for suffix in sample.members:
        number = suffix.split(".")[0].removeprefix(settings.references)
        if suffix.startswith(settings.references) and number.isdigit():
            numbered.append((int(number), suffix))
    return [suffix for _, suffix in sorted(numbered)][: settings.max_references]


def _tar(shard: Shard, number: int, settings: DataSettings) -> Found:
    found = Found()
    run: list[Sample] = []
    with shard.open() as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for sample in tar_samples(tar):
                    if run and (len(run) == RUN_ROWS or sample.stop - run[0].start > RUN_BYTES):
                        _add_run(found, stream, run, shard, number, settings)
                        run = []
                    run.append(sample)
        except tarfile.TarError as error:
            raise UnreadableShardError(f"damaged or cut short: {error}") from error
        if run:
            _add_run(found, stream, run, shard, number, settings)
    return found


def _add_run(found: Found, stream: Any, run: list[Sample], shard: Shard, number: int, settings: DataSettings) -> None:
    position = stream.tell()
    where = f"{shard.name}, run {len(found.parts)}"
    documents = [_document(stream, sample) for sample in run]
    stream.seek(position)
    names = dict.fromkeys([*REQUIRED, "split", *settings.where, *settings.instructions.columns])
    known = {name for document in documents for name in document}
    for column in settings.where:
        if known and column not in known:
            raise ConfigError(f"data.where.{column}: {where} of {shard.path} has no such value{nearest(column, known)}")
    columns = {name: _column([document.get(name) for document in documents]) for name in names}
    columns["id"] = pa.array([str(d.get("id", s.key)) for d, s in zip(documents, run, strict=True)], pa.string())
    for name in ("width", "height"):
        sizes = [document.get(name) for document in documents]
        columns[name] = pa.array([v if isinstance(v, int) and 0 < v < 2**31 else None for v in sizes], pa.int64())
    references = np.array([len(reference_members(sample, settings)) for sample in run], dtype=np.uint8)
    start, stop = run[0].start, run[-1].stop
    chunk = Chunk(number, len(found.parts), stop - start, start, stop - start)
    found.parts.append(_light(pa.table(columns), references, chunk, where, settings, found.left_out))
    found.rows += len(run)


def _document(stream: Any, sample: Sample) -> Mapping[str, Any]:
    """The sample's `json`; empty where there is none, or it is not one."""
    if "json" not in sample.members:
        return {}
    start, size = sample.members["json"]
    stream.seek(start)
    try:
        document = json.loads(stream.read(size))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _column(values: list[Any]) -> pa.Array:
    """Values of JSON documents; those of a column whose kinds do not go together as text."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values])
