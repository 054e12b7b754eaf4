"""Pairs for the FineEdit-1k protocol: any set of edit pairs that ugaf takes in, its own shards, or a plain folder.

- Parquet, JSON Lines, CSV, JSON lists: through `ugaf.ingest`, which knows the columns of published sets.
- WebDataset tars as ugaf exports them: `KEY.source.EXT`, `KEY.edited.EXT`, `KEY.json`.
- A run's folder: its `shards/parquet`, else its `shards/webdataset`.
- A folder with `source/` and `edited/` holding files of the same names, the instruction in `NAME.txt` beside one of
  them (the layout of ai-toolkit's paired folders).

FineEdit-1k itself is not published as files at the time of writing; its preview `zzb11/FineEdit` is Parquet.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ugaf.base.errors import ConfigError
from ugaf.bench.items import Benchmark, Item, Pictures
from ugaf.ingest import InputSettings, SourceRef, list_sources
from ugaf.ingest.limits import LimitSettings
from ugaf.ingest.loading import PutOff, load
from ugaf.ingest.pair_cells import label, text
from ugaf.ingest.places import Place, list_names
from ugaf.stage import Failure

ALL = "all"
"""The group of pairs without a task."""
_MOST_BYTES = LimitSettings().file_bytes
_LIGHT = ("id", "instruction", "task", "boxes", "reference")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")


def load_pairs(url: str) -> Benchmark:
    """The pairs at a path or URL. Raises ConfigError where there are none, saying what was looked for."""
    place = Place.of(url)
    names = {child.name: child for child in list_names(place)} if place.info().kind == "folder" else {}
    if "shards" in names:
        formats = {child.name: child for child in list_names(names["shards"])}
        chosen = next((name for name in ("parquet", "webdataset") if name in formats), None)
        if chosen is None:
            raise ConfigError(
                f"--data: {url}: a run's folder without shards/parquet or shards/webdataset: export first"
            )
        return load_pairs(f"{url.rstrip('/')}/shards/{chosen}")
    if {"source", "edited"} <= names.keys():
        return Benchmark(tuple(_folder(names["source"], names["edited"])), _read_folder)
    tars = [child for name, child in sorted(names.items()) if name.endswith(".tar")]
    tars = [place] if place.name.endswith(".tar") else tars
    if tars:
        return Benchmark(tuple(item for tar in tars for item in _tar(tar)), _read_tar)
    refs = list(list_sources(InputSettings(path=url, kind="pairs")))
    return Benchmark(tuple(_named([_item(ref, cells) for ref, cells in _cells(refs)])), _read_refs)


def _cells(refs: Sequence[SourceRef]) -> Iterator[tuple[SourceRef, dict[str, Any]]]:
    """Each source with its light cells by role; none for what cannot be read, which then fails when it is."""

    def table(ref: SourceRef) -> tuple[str, int] | None:
        where = ref.where()
        return (ref.uri, where["group"]) if ref.kind == "parquet" and "error" not in where else None

    for found, group in groupby(refs, key=table):
        if found is None:
            yield from ((ref, dict(ref.where().get("cells", {}))) for ref in group)
            continue
        members = list(group)
        where = members[0].where()
        columns = {role: name for role, name in where["columns"].items() if role in _LIGHT}
        rows = _rows(Place.from_locator(where, members[0].uri), found[1], list(columns.values()))
        for ref in members:
            row = rows[ref.where()["row"]] if rows else {}
            yield ref, {role: row.get(name) for role, name in columns.items()}


def _rows(place: Place, group: int, columns: list[str]) -> list[dict[str, Any]]:
    try:
        with place.open_native() as file:
            return pq.ParquetFile(file).read_row_group(group, columns=columns).to_pylist()
    except (OSError, pa.ArrowException):
        return []


def _item(ref: SourceRef, cells: dict[str, Any]) -> Item:
    name = f"{ref.uri.rpartition('/')[2]}#{ref.member}"
    return Item(
        id=label(cells.get("id")) or name,
        group=text(cells.get("task")) or ALL,
        instruction=text(cells.get("instruction")) or "",
        outputs=(name,),
        boxes=cells.get("boxes"),
        reference=cells.get("reference"),
        where=ref,
    )


def _named(items: list[Item]) -> Iterator[Item]:
    """Items by the ids of the data where these are unique, else by file and row."""
    unique = len({item.id for item in items}) == len(items)
    for item in items:
        id = item.id if unique else item.outputs[0]
        yield replace(item, id=id, outputs=tuple(dict.fromkeys((id, *item.outputs))))


def _read_refs(items: Sequence[Item]) -> Iterator[Pictures | Failure]:
    for _, loaded in load([item.where for item in items]):
        if isinstance(loaded, PutOff):
            yield Failure.of(loaded.error)
        else:
            yield loaded if isinstance(loaded, Failure) else Pictures(loaded.image, loaded.edited)


def _tar(place: Place) -> Iterator[Item]:
    """The pairs of one WebDataset shard. Raises ConfigError for a tar that is none, or is damaged."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    told: dict[str, dict[str, Any]] = {}
    try:
        with place.open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix.partition(".")[0]] = (member.offset_data, member.size)
                if suffix == "json":
                    content = archive.extractfile(member)
                    told[key] = json.load(content) if content is not None else {}
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ConfigError(f"--data: {place.uri}: not a readable WebDataset shard: {error}") from error
    for key, parts in samples.items():
        if not {"source", "edited"} <= parts.keys():
            raise ConfigError(f"--data: {place.uri}: {key} has {', '.join(sorted(parts))}, not `source` and `edited`")
        values = told.get(key, {})
        yield Item(
            id=label(values.get("id")) or key,
            group=text(values.get("task")) or ALL,
            instruction=text(values.get("instruction")) or "",
            outputs=(key,),
            boxes=values.get("boxes"),
            where=(place, parts["source"], parts["edited"]),
        )


def _read_tar(items: Sequence[Item]) -> Iterator[Pictures | Failure]:
    for place, group in groupby((item.where for item in items), key=lambda where: where[0]):
        with place.open() as file:
            for _, *parts in group:
                read = []
                for offset, size in parts:
                    file.seek(offset)
                    read.append(file.read(size))
                yield Pictures(*read)


def _folder(source: Place, edited: Place) -> Iterator[Item]:
    sides = [{child.name: child for child in list_names(folder)} for folder in (source, edited)]
    found = [{name.rpartition(".")[0]: name for name in side if name.lower().endswith(_IMAGES)} for side in sides]
    for stem in sorted(found[0].keys() | found[1].keys()):
        told = next((side[f"{stem}.txt"] for side in sides[::-1] if f"{stem}.txt" in side), None)
        instruction = told.read(_MOST_BYTES).decode("utf-8", "replace").strip() if told is not None else ""
        where = [side[names[stem]] if stem in names else None for side, names in zip(sides, found, strict=True)]
        yield Item(stem, ALL, instruction, outputs=(stem,), where=where)


def _read_folder(items: Sequence[Item]) -> Iterator[Pictures | Failure]:
    for item in items:
        lacking = [name for name, place in zip(("source", "edited"), item.where, strict=True) if place is None]
        if lacking:
            yield Failure("FileNotFoundError", f"no picture {item.id} in {lacking[0]}/")
            continue
        try:
            yield Pictures(*(place.read(_MOST_BYTES) for place in item.where))
        except OSError as error:
            yield Failure.of(error)
