"""Lists as text: JSON Lines, CSV, TSV or a JSON list, each record read alone, so that a bad line costs only itself.

A record knows where its text stands, so that a list of base64 pictures can be read again a record at a time and the
pictures need not be kept in the list of sources.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ugaf.ingest import json_text
from ugaf.ingest.limits import LimitSettings
from ugaf.ingest.places import Place
from ugaf.ingest.schemas import NoColumnsError
from ugaf.ingest.sources import RecordError

Fields = Mapping[str, Any]

_FIELD_LIMIT = threading.Lock()
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Record:
    """A record of the file.

    Attributes:
        line: its number from 1.
        version: its text's hash.
        fields: its fields, or what is wrong with it.
        start, size: where its text stands, in bytes of the decompressed file; size 0 in a JSON list.
        header: the names of a CSV file's columns, in their order.
    """

    line: int
    version: str
    fields: Fields | RecordError
    start: int = 0
    size: int = 0
    header: Sequence[str] = ()

    def turns(self) -> list[tuple[str, Fields]]:
        """(member name, fields): one, or one a turn for ImgEdit's multi-turn records (a `data` list of edits)."""
        assert not isinstance(self.fields, RecordError)
        data = self.fields.get("data")
        if isinstance(data, list) and data and all(isinstance(turn, dict) for turn in data):
            return [(f"{self.line}.{number}", turn) for number, turn in enumerate(data, 1)]
        return [(str(self.line), self.fields)]


def records(place: Place, limits: LimitSettings) -> Iterator[Record]:
    """Every record of a list, broken ones included. Raises NoColumnsError for a .json file that is no list."""
    name = plain_suffix(place.name)
    with place.stream() as stream:
        if name.endswith((".csv", ".tsv")):
            yield from _csv_records(_Lines(stream, limits.line_bytes), delimiter(name))
        elif name.endswith(".json"):
            yield from _json_records(stream, place, limits.line_bytes)
        else:
            yield from _json_lines(_Lines(stream, limits.line_bytes))


def plain_suffix(name: str) -> str:
    """A file's name in lower case without the suffix of its compression."""
    lower = name.lower()
    return next((lower.removesuffix(end) for end in (".gz", ".bz2", ".zst") if lower.endswith(end)), lower)


def delimiter(name: str) -> str:
    return "\t" if plain_suffix(name).endswith(".tsv") else ","


def parsed(text: bytes) -> Fields | RecordError:
    """A line of JSON as fields, or what is wrong with it."""
    try:
        fields = json_text.parse(text)
    except ValueError as error:
        return RecordError(f"not JSON: {error} (in {text[:60].decode('utf-8', 'replace')!r})")
    return _checked(fields)


def csv_values(text: bytes, delimiter: str) -> list[str]:
    """The values of one record of a CSV file, from the text of its lines. Raises RecordError."""
    lines = [_decoded(line) for line in text.splitlines(keepends=True)]
    try:
        with _fields_up_to(len(text)):
            return next(csv.reader(lines, delimiter=delimiter), [])
    except csv.Error as error:
        raise RecordError(f"not CSV: {error}") from error


def version_of(text: bytes) -> str:
    """The hash of a record's text, by which a changed one is a new source."""
    return hashlib.sha256(text).hexdigest()[:16]


def version_of_values(values: Sequence[str]) -> str:
    """The same for a record of a CSV file, whatever its quotes and line ends."""
    return version_of("\0".join(values).encode("utf-8", "replace"))


class _Lines:
    """Lines of a stream one by one, none longer than `limit` bytes; `offset` is where the next one starts.

    A longer line comes as None, and the next one follows it.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self.offset = 0
        self.limit = limit
        self._stream = stream
        self._pieces: list[bytes] = []

    def next(self) -> bytes | None:
        """b"" at the end of the stream."""
        if not self._pieces:
            line = self._stream.readline(self.limit + 1)
            if len(line) > self.limit:
                self._skip(line)
                return None
            # A lone carriage return ends a line, too.
            self._pieces = line.splitlines(keepends=True)[::-1]
        piece = self._pieces.pop() if self._pieces else b""
        self.offset += len(piece)
        return piece

    def _skip(self, begun: bytes) -> None:
        while begun and not begun.endswith(b"\n"):
            self.offset += len(begun)
            begun = self._stream.readline(1 << 20)
        self.offset += len(begun)


def _too_long(limit: int) -> RecordError:
    return RecordError(f"a line or record of more than {limit} bytes (limits.line_mb)")


def _json_lines(lines: _Lines) -> Iterator[Record]:
    number = 0
    while (line := lines.next()) != b"":
        number += 1
        if line is None:
            yield Record(number, "", _too_long(lines.limit))
            continue
        text = line.strip().removeprefix(b"\xef\xbb\xbf")
        if text:
            yield Record(number, version_of(text), parsed(text), lines.offset - len(line), len(line))


def _checked(fields: Any) -> Fields | RecordError:
    return fields if isinstance(fields, dict) else RecordError(f"not a JSON object but {type(fields).__name__}")


def _json_records(stream: Any, place: Place, limit: int) -> Iterator[Record]:
    try:
        found = json_text.parse_list(stream.read())
    except ValueError as error:
        raise NoColumnsError(f"input {place.uri!r}: not JSON: {error}") from error
    if found is None:
        raise NoColumnsError(f"input {place.uri!r}: a JSON file must be a list of records (or use JSON Lines)")
    for number, fields in enumerate(found, 1):
        if isinstance(fields, ValueError):
            yield Record(number, "", RecordError(f"not JSON: {fields}"))
            continue
        text = json.dumps(fields, sort_keys=True).encode()
        yield Record(number, version_of(text), _checked(fields) if len(text) <= limit else _too_long(limit))


class _CsvLines(Iterator[str]):
    """What `csv.reader` reads: decoded lines, whether one of them was too long, and whether it asked for one more."""

    def __init__(self, lines: _Lines) -> None:
        self.lines = lines
        self.too_long = False
        self.ended = False
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.lines.next()
        if line == b"":
            self.ended = True
            raise StopIteration
        self.count += 1
        if line is None:
            self.too_long = True
            return "\n"
        return _decoded(line)


def _csv_records(lines: _Lines, delimiter: str) -> Iterator[Record]:
    source = _CsvLines(lines)
    reader = csv.reader(source, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        start, source.too_long = lines.offset, False
        try:
            with _fields_up_to(lines.limit):
                values = next(reader, None)
        except csv.Error as error:
            long = "field limit" in str(error)
            problem = _too_long(lines.limit) if long else RecordError(f"not CSV: {error}")
            yield Record(source.count, "", problem, header=header or ())
            continue
        if source.too_long:
            yield Record(source.count, "", _too_long(lines.limit), header=header or ())
        elif values and source.ended:
            yield _never_closed(source.count, header or (), values)
        elif values is None:
            return
        elif header is None:
            header = [values[0].removeprefix("\ufeff"), *values[1:]] if values else []
        elif values:
            yield _csv_record(source.count, header, values, start, lines.offset - start)


@contextlib.contextmanager
def _fields_up_to(limit: int) -> Iterator[None]:
    """The library's own limit is below most base64 pictures, and one of the whole process: one thread at a time has
    another, and others find it as it was."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit(limit)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _never_closed(last: int, header: Sequence[str], values: Sequence[str]) -> Record:
    """What is left of a file where a record asked for more lines than there are: a quote is open in its last value."""
    ends = len(_LINE_END.findall(values[-1]))
    first = last + 1 - ends if values[-1].endswith(("\r", "\n")) else last - ends
    problem = f"the quote that opens a value in line {first} is never closed: what follows, to line {last}, is not read"
    return Record(first, version_of_values(values), RecordError(problem), header=header)


def _csv_record(line: int, header: Sequence[str], values: Sequence[str], start: int, size: int) -> Record:
    fields: Fields | RecordError = {name: value for name, value in zip(header, values, strict=False) if value != ""}
    if len(values) != len(header):
        fields = RecordError(f"{len(values)} values for {len(header)} columns")
    return Record(line, version_of_values(values), fields, start, size, header)


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")
