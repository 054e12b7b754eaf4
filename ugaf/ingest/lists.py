"""Lists of photographs or of edit pairs (JSON Lines, CSV, TSV, JSON): which columns they have, and their sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ugaf.base.errors import ConfigError
from ugaf.base.faults import raise_if_service
from ugaf.base.location import Location
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.limits import LimitSettings
from ugaf.ingest.list_problems import cannot_be_read, why_no_columns
from ugaf.ingest.places import Place
from ugaf.ingest.records import Record, csv_values, delimiter, parsed, plain_suffix, records, version_of
from ugaf.ingest.records import version_of_values as csv_version
from ugaf.ingest.schemas import (
    IMAGE_NAMES,
    PATH_NAMES,
    NamesFilesError,
    NoColumnsError,
    Recognised,
    check_once,
    image_columns,
    no_pair_columns,
    optional_columns,
    pair_columns,
)
from ugaf.ingest.sources import RecordError, SourceError, SourceKind, SourceRef

_LOOK_AHEAD = 1000
_LOOK_AHEAD_BYTES = 32 << 20
_SHORT = 8192


def list_columns(place: Place, settings: InputSettings) -> Recognised:
    """The columns of a list, from its first records.

    Raises NoColumnsError if they are neither a pair's nor an image's.
    """
    first, header = _first_names(place, settings)
    found = _recognised(place, settings, list(first))
    check_once(header, found.columns, f"input {place.uri!r}")
    return found


def _recognised(place: Place, settings: InputSettings, names: Sequence[str]) -> Recognised:
    where = f"input {place.uri!r}"
    columns = pair_columns(names, settings.columns, where)
    if columns is not None:
        return Recognised(columns, True, names_files=True)
    candidates = [name for name in (*IMAGE_NAMES, *PATH_NAMES) if name in names][:1]
    if settings.kind == "pairs" or not (candidates or "image" in settings.columns):
        why = why_no_columns(place, names)
        if why is not None:
            raise NoColumnsError(f"{where}: {why}")
        raise no_pair_columns(names, where, or_image=settings.kind != "pairs")
    return Recognised(image_columns(candidates, names, settings.columns, where), False, names_files=True)


def list_records(
    place: Place, settings: InputSettings, wants_pairs: bool, names_files: bool = True
) -> Iterator[SourceRef]:
    """A source for each record of the file, broken ones included.

    Where the file cannot be read further, as a damaged .gz, that is one broken source after those that were read.
    Raises ConfigError if its columns are not of what is wanted; NamesFilesError for photographs unless `names_files`,
    and NoColumnsError for pairs then.
    """
    try:
        found = list_columns(place, settings)
    except (OSError, pa.ArrowException) as error:
        raise_if_service(error, place.uri)
        kind: SourceKind = "pair" if wants_pairs else "record"
        yield SourceRef.broken(place.uri, "", "", kind, RecordError(cannot_be_read(place, error)))
        return
    if not (names_files or wants_pairs):
        if found.is_pairs:
            raise NoColumnsError(
                f"input {place.uri!r}: lists edit pairs, the input photographs: give it a run of its own"
            )
        raise NamesFilesError(place.uri)
    if found.is_pairs != wants_pairs:
        raise ConfigError(
            f"input {settings.path!r}: {place.uri} lists {'edit pairs' if found.is_pairs else 'photographs'}, the "
            f"input {'edit pairs' if wants_pairs else 'photographs'}: give it an input and a run of its own"
        )
    folder = Place.of(settings.root) if settings.root else place.parent()
    where = {**folder.locator(), "path": folder.path}
    kind = "pair" if found.is_pairs else "record"
    for record in _to_its_end(place, settings.limits):
        if isinstance(record.fields, RecordError):
            yield SourceRef.broken(place.uri, str(record.line), record.version, kind, record.fields)
            continue
        for turn, (member, fields) in enumerate(record.turns()):
            named = {**(optional_columns(fields, found.columns) if found.is_pairs else {}), **found.columns}
            cells = {role: fields[name] for role, name in named.items() if fields.get(name) is not None}
            locator = {**where, "cells": cells}
            if any(_is_long(cell) for cell in cells.values()):
                # Pictures that stand in the list itself are read again where they stand.
                locator = {**where, "list": place.locator() | {"path": place.path}, **_stands(record, turn, named)}
            yield SourceRef.of(place.uri, member, record.version, kind, locator)


def read_cells(places: Sequence[Mapping[str, Any]], versions: Sequence[str]) -> Iterator[dict[str, Any] | RecordError]:
    """The cells of records that stand in one list, in order, each by its locator and its version.

    Raises SourceError if the list has changed.
    """
    place = Place.from_locator(places[0]["list"], "")
    if plain_suffix(place.name).endswith(".json"):
        yield from _numbered(place, places, versions)
        return
    form = delimiter(place.name) if plain_suffix(place.name).endswith((".csv", ".tsv")) else None
    with place.stream() as stream:
        position, begun, text = 0, -1, b""
        for where, version in zip(places, versions, strict=True):
            start, size = where["at"]
            if start != begun:  # the turns of one record stand at one place
                position, begun = _forward(stream, position, start), start
                text = stream.read(size)
                position += len(text)
            yield _cells(text, form, where, version)


def _to_its_end(place: Place, limits: LimitSettings) -> Iterator[Record]:
    """The records, and a broken one where the file cannot be read further."""
    line = 0
    try:
        for record in records(place, limits):
            line = record.line
            yield record
    except (OSError, pa.ArrowException) as error:
        raise_if_service(error, place.uri)
        yield Record(line + 1, "", RecordError(cannot_be_read(place, error)))


def _first_names(place: Place, settings: InputSettings) -> tuple[dict[str, None], Sequence[str]]:
    """The fields of the first records, and the header of a CSV file."""
    seen: dict[str, None] = {}
    header: Sequence[str] = ()
    read = 0
    try:
        for number, record in enumerate(records(place, settings.limits)):
            if number >= _LOOK_AHEAD or read > _LOOK_AHEAD_BYTES:
                break
            read += record.size
            header = header or record.header
            if not isinstance(record.fields, RecordError):
                for _, fields in record.turns():
                    seen.update(dict.fromkeys(fields))
    except (OSError, pa.ArrowException) as error:
        raise_if_service(error, place.uri)
        if not seen:
            raise
    return seen or dict.fromkeys(header), header


def _is_long(cell: Any) -> bool:
    """Whether a cell stays in the list: long ones, and addresses with secrets, which are copied nowhere."""
    if isinstance(cell, str):
        return len(cell) > _SHORT or ("://" in cell and Location(cell).has_secret)
    if isinstance(cell, list | dict):
        inner = cell.values() if isinstance(cell, dict) else cell
        return len(json.dumps(cell)) > _SHORT or any(_is_long(value) for value in inner)
    return False


def _stands(record: Record, turn: int, named: Mapping[str, str]) -> dict[str, Any]:
    # By position in CSV, whose header is not read again.
    columns = {role: record.header.index(name) if record.header else name for role, name in named.items()}
    return {"at": [record.start, record.size], "line": record.line, "turn": turn, "columns": columns}


def _forward(stream: Any, position: int, start: int) -> int:
    """Move a stream, perhaps of a compressed file, to `start`."""
    if stream.seekable():
        return stream.seek(start)
    while position < start:
        skipped = len(stream.read(min(start - position, 1 << 20)))
        if not skipped:
            break
        position += skipped
    return position


def _cells(text: bytes, form: str | None, where: Mapping[str, Any], version: str) -> dict[str, Any] | RecordError:
    if form is None:
        line = text.strip().removeprefix(b"\xef\xbb\xbf")
        return _wanted(parsed(line), version_of(line), where, version)
    try:
        values = csv_values(text, form)
    except RecordError as error:
        return error
    return _wanted(dict(enumerate(values)), csv_version(values), where, version)


def _numbered(
    place: Place, places: Sequence[Mapping[str, Any]], versions: Sequence[str]
) -> Iterator[dict[str, Any] | RecordError]:
    # Listing has refused what is too long.
    by_line = {record.line: record for record in records(place, LimitSettings(line_mb=1 << 14))}
    for where, version in zip(places, versions, strict=True):
        record = by_line.get(where["line"])
        if record is None:
            raise SourceError("the list has changed since it was listed: run again")
        yield _wanted(record.fields, record.version, where, version)


def _wanted(
    fields: Mapping[Any, Any] | RecordError, now: str, where: Mapping[str, Any], version: str
) -> dict[str, Any] | RecordError:
    if now != version:
        raise SourceError("the list has changed since it was listed: run again")
    if isinstance(fields, RecordError):
        return fields
    turn = Record(where["line"], now, fields).turns()[where["turn"]][1]
    return {role: turn[name] for role, name in where["columns"].items() if turn.get(name) not in (None, "")}
