"""Pair sets as text: JSON Lines, CSV or a JSON list, each record read alone, so that a bad line costs only itself."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ugaf.errors import ConfigError
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.places import Place
from ugaf.ingest.schemas import optional_columns, pair_columns
from ugaf.ingest.sources import RecordError, SourceRef

_LOOK_AHEAD = 1000


@dataclass(frozen=True)
class Record:
    """A line of the file: its number from 1, its text's hash, and its fields or what is wrong with it."""

    line: int
    version: str
    fields: Mapping[str, Any] | RecordError

    def turns(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(member name, fields): one, or one a turn for ImgEdit's multi-turn records (a `data` list of edits)."""
        assert not isinstance(self.fields, RecordError)
        data = self.fields.get("data")
        if isinstance(data, list) and data and all(isinstance(turn, dict) for turn in data):
            return [(f"{self.line}.{number}", turn) for number, turn in enumerate(data, 1)]
        return [(str(self.line), self.fields)]


def record_columns(place: Place, settings: InputSettings) -> dict[str, str] | None:
    """The pair columns of the file, from its first records; None if they are not an edit pair's."""
    seen: dict[str, None] = {}
    for record in itertools.islice(_records(place), _LOOK_AHEAD):
        if not isinstance(record.fields, RecordError):
            for _, fields in record.turns():
                seen.update(dict.fromkeys(fields))
    return pair_columns(list(seen), settings.columns, f"input {place.uri!r}")


def list_records(place: Place, settings: InputSettings) -> Iterator[SourceRef]:
    """A source for each pair of the file, broken ones included. Raises ConfigError if its columns are not a pair's."""
    columns = record_columns(place, settings)
    if columns is None:
        first = next((record.fields for record in _records(place) if not isinstance(record.fields, RecordError)), {})
        raise ConfigError(
            f"input {place.uri!r}: its columns are of no known set of edit pairs; name them with columns: "
            f"{{source: NAME, edited: NAME, instruction: NAME}}; found: {', '.join(first) or 'no readable record'}"
        )
    folder = Place.of(settings.root) if settings.root else place.parent()
    where = {**folder.locator(), "path": folder.path}
    for record in _records(place):
        if isinstance(record.fields, RecordError):
            yield SourceRef.broken(place.uri, str(record.line), record.version, "pair", record.fields)
            continue
        for member, fields in record.turns():
            named = {**optional_columns(fields, columns), **columns}
            cells = {role: fields[name] for role, name in named.items() if fields.get(name) is not None}
            yield SourceRef.of(place.uri, member, record.version, "pair", {**where, "cells": cells})


def _records(place: Place) -> Iterator[Record]:
    name = place.name.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2")
    with place.stream() as stream:
        if name.endswith((".csv", ".tsv")):
            yield from _csv_records(stream, "\t" if name.endswith(".tsv") else ",")
        elif name.endswith(".json"):
            yield from _json_records(stream, place)
        else:
            yield from _json_lines(stream)


def _json_lines(stream: Any) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        text = line.strip().removeprefix(b"\xef\xbb\xbf")
        if text:
            yield Record(number, _hash(text), _parsed(text))


def _parsed(text: bytes) -> Mapping[str, Any] | RecordError:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RecordError(f"not JSON: {error} (in {text[:60].decode('utf-8', 'replace')!r})")
    return _checked(fields)


def _checked(fields: Any) -> Mapping[str, Any] | RecordError:
    return fields if isinstance(fields, dict) else RecordError(f"not a JSON object but {type(fields).__name__}")


def _json_records(stream: Any, place: Place) -> Iterator[Record]:
    try:
        records = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"input {place.uri!r}: not JSON: {error}") from error
    if not isinstance(records, list):
        raise ConfigError(f"input {place.uri!r}: a JSON file of pairs must be a list of records (or use JSON Lines)")
    for number, fields in enumerate(records, 1):
        yield Record(number, _hash(json.dumps(fields, sort_keys=True).encode()), _checked(fields))


def _csv_records(stream: Any, delimiter: str) -> Iterator[Record]:
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="backslashreplace", newline="")
    reader = csv.reader(text, delimiter=delimiter)
    header = next(reader, [])
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield Record(reader.line_num, "", RecordError(f"not CSV: {error}"))
            continue
        if values is None:
            return
        if not values:
            continue
        fields: Mapping[str, Any] | RecordError = {key: value for key, value in zip(header, values) if value != ""}  # noqa: B905
        if len(values) != len(header):
            fields = RecordError(f"{len(values)} values for {len(header)} columns")
        yield Record(reader.line_num, _hash("\0".join(values).encode("utf-8", "replace")), fields)


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]
